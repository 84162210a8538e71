; The two 8259As: vectors, cascade, masks, ISR and IRR, EOI (specific, non-specific, automatic), priority and
; nesting, special mask, spurious interrupts, polls, ELCR. The PIT's counter 0 raises IRQ 0; the RTC IRQ 8.
; Intel 8259A data sheet.

%include "pc.inc"

LAST    equ own                 ; the last vector, and how many came
COUNT   equ own + 4
ORDER   equ own + 8

%macro  in8 2                   ; name, port
        in      al, %2
        fact8   %1, al
%endmacro
%macro  init_pics 1             ; ICW4
        out8    PIC1, 0x11
        out8    PIC2, 0x11
        out8    PIC1 + 1, 0x30
        out8    PIC2 + 1, 0x38
        out8    PIC1 + 1, 4
        out8    PIC2 + 1, 2
        out8    PIC1 + 1, %1
        out8    PIC2 + 1, %1
%endmacro

main:   say     "pic:"
        mov     dword [0xfee000f0], 0x1ff
        mov     dword [0xfee00350], 0x700       ; LINT0: ExtINT; only an enabled APIC takes it
%assign v 0x30
%rep    16
        gate    v, irq %+ v
%assign v v + 1
%endrep
        init_pics 1
        in8     "mask1", PIC1 + 1               ; ICW1 clears the masks
        out8    PIC1 + 1, 0xff
        out8    PIC2 + 1, 0xff
        in8     "maskff", PIC1 + 1
        ; IRQ 0: one shot of the PIT, whose output stays high.
        call    raise_0
        in8     "irr", PIC1                     ; OCW3 of ICW1: reads IRR
        window
        fact    "none", [COUNT]
        out8    PIC1 + 1, 0xfe
        window
        fact    "vector", [LAST]
        out8    PIC1, 0x0b
        in8     "isr", PIC1
        out8    PIC1, 0x0a
        in8     "irrafter", PIC1
        window
        fact    "edge", [COUNT]                 ; it is still high: no edge, no interrupt
        out8    PIC1, 0x20                      ; EOI
        out8    PIC1, 0x0b
        in8     "eoi", PIC1
        ; In service: no other of the same or lower priority, until EOI.
        call    raise_0
        window
        mov     dword [COUNT], 0
        call    raise_8
        out8    PIC2 + 1, 0xfe
        out8    PIC1 + 1, 0xfa                  ; IRQ 0 and the cascade
        window
        fact    "lower", [COUNT]
        out8    PIC1, 0x60                      ; specific EOI of IRQ 0
        window
        fact    "slave", [LAST]
        out8    PIC1, 0x0b
        in8     "isr1", PIC1
        out8    PIC2, 0x0b
        in8     "isr2", PIC2
        ; A higher one interrupts a lower.
        call    raise_0
        window
        fact    "higher", [LAST]
        out8    PIC1, 0x0b
        in8     "isrboth", PIC1
        out8    PIC1, 0x20                      ; ends the highest
        in8     "isr0done", PIC1
        out8    PIC2, 0x20
        out8    PIC1, 0x62
        in8     "alldone", PIC1
        ; Rotation: after a rotating EOI IRQ 0 is the lowest.
        call    raise_0
        window
        out8    PIC1, 0xa0
        call    raise_8
        call    raise_0
        mov     dword [COUNT], 0
        window
        mov     eax, [ORDER]
        fact    "first", eax
        out8    PIC2, 0x20
        out8    PIC1, 0x62
        window
        fact    "second", [LAST]
        out8    PIC1, 0x20
        out8    PIC1, 0xc7                      ; priorities as they were: 7 is the lowest
        ; Automatic EOI.
        init_pics 3
        out8    PIC1 + 1, 0xfe
        out8    PIC2 + 1, 0xff
        call    raise_0
        window
        out8    PIC1, 0x0b
        in8     "aeoi", PIC1
        ; Poll: it acknowledges without a vector.
        init_pics 1
        out8    PIC1 + 1, 0xfe
        out8    PIC2 + 1, 0xff
        call    raise_0
        out8    PIC1, 0x0c
        in8     "poll", PIC1
        out8    PIC1, 0x0b
        in8     "pollisr", PIC1
        out8    PIC1, 0x20
        out8    PIC1, 0x0c
        in8     "pollnone", PIC1
        ; Masked while it waits: it comes when the mask goes.
        out8    PIC1 + 1, 0xff
        call    raise_0
        mov     dword [COUNT], 0
        window
        fact    "masked", [COUNT]
        out8    PIC1 + 1, 0xfe
        window
        fact    "unmasked", [COUNT]
        out8    PIC1, 0x20
        out8    PIC1, 0x0a
        in8     "irrend", PIC1
        mov     dx, 0x4d0
        in      al, dx
        fact8   "elcr1", al
        finish

raise_0:                        ; IRQ 0: low, then high once, and it stays so
        out8    0x43, 0x30                      ; counter 0, mode 0: OUT goes low
        out8    0x40, 20
        out8    0x40, 0
.wait:  out8    PIC1, 0x0a                      ; until the request is there
        in      al, PIC1
        test    al, 1
        jz      .wait
        ret

read_rtc:                       ; reading C lets IRQ 8 fall
        out8    0x70, 0x0c
        in      al, 0x71
        ret
raise_8:                        ; IRQ 8: the RTC's periodic interrupt, 8192 Hz; it stays high until C is read
        call    read_rtc
        out8    0x70, 0x0a
        out8    0x71, 0x23
        out8    0x70, 0x0b
        in      al, 0x71
        or      al, 0x40
        push    eax
        out8    0x70, 0x0b
        pop     eax
        out     0x71, al
.wait:  out8    PIC2, 0x0a
        in      al, PIC2
        test    al, 1
        jz      .wait
        ret

%assign v 0x30
%rep    16
irq %+ v: push  v
        jmp     irq
%assign v v + 1
%endrep
irq:    pop     dword [LAST]
        inc     dword [COUNT]
        cmp     dword [COUNT], 1
        jne     .no
        push    eax
        mov     eax, [LAST]
        mov     [ORDER], eax
        pop     eax
.no:    iretd
