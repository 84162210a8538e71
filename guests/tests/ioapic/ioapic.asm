; The IOAPIC: its registers, edge interrupts of the PIT on pin 2, a level one of the RTC on pin 8 with Remote
; IRR and EOI, masks, logical destination. 82093AA data sheet, SDM vol. 3 §10.8.

%include "pc.inc"

APIC    equ 0xfee00000
SVR     equ APIC + 0xf0
EOI     equ APIC + 0xb0
SELECT  equ 0xfec00000
WINDOW  equ 0xfec00010
LAST    equ own
COUNT   equ own + 4

%macro  write 2                 ; register, value
        mov     dword [SELECT], %1
        mov     dword [WINDOW], %2
%endmacro
%macro  read 2                  ; name, register
        mov     dword [SELECT], %2
        mov     eax, [WINDOW]
        fact    %1, eax
%endmacro

main:   say     "ioapic:"
        mov     dword [SVR], 0x1ff
        mov     dword [APIC + 0x80], 0
        gate    0x50, irq_50
        gate    0x58, irq_58
        mov     dword [SELECT], 1
        mov     eax, [WINDOW]
        shr     eax, 16
        fact    "pins", eax
        write   0x10 + 2 * 5, 0x155 | 1 << 16
        read    "entry", 0x10 + 2 * 5
        write   0x11 + 2 * 5, 0xff000000
        read    "high", 0x11 + 2 * 5
        write   0x10 + 2 * 5, 0x10000 | 1 << 14 | 1 << 12      ; read-only bits
        read    "readonly", 0x10 + 2 * 5
        ; The PIT, pin 2, edge.
        write   0x11 + 4, 0
        write   0x10 + 4, 0x50
        mov     dword [COUNT], 0
        out8    0x43, 0x30
        out8    0x40, 20
        out8    0x40, 0
        sti
.pit:   cmp     dword [COUNT], 0
        je      .pit
        cli
        fact    "vector", [LAST]
        write   0x10 + 4, 0x50 | 1 << 16
        out8    0x43, 0x34                      ; mode 2, and periods go by
        out8    0x40, 100
        out8    0x40, 0
        mov     ecx, 200
.mask:  in      al, 0x61
        loop    .mask
        window
        fact    "masked", [COUNT]
        write   0x10 + 4, 0x50
        sti
.many:  cmp     dword [COUNT], 10
        jb      .many
        cli
        write   0x10 + 4, 0x10000
        fact    "many", 10
        out8    0x43, 0x30
        ; The RTC, pin 8, as a level: it comes again after EOI while C isn't read.
        window
        mov     dword [COUNT], 0
        call    read_c
        write   0x11 + 16, 0
        write   0x10 + 16, 0x58 | 1 << 15
        out8    0x70, 0x0a
        out8    0x71, 0x26
        out8    0x70, 0x0b
        in      al, 0x71
        or      al, 0x40
        push    eax
        out8    0x70, 0x0b
        pop     eax
        out     0x71, al
        sti
.rtc:   cmp     dword [COUNT], 0
        je      .rtc
        cli
        mov     dword [SELECT], 0x10 + 16
        mov     eax, [WINDOW]
        fact    "remoteirr", eax
        fact    "level", [LAST]
        mov     dword [COUNT], 0
        mov     dword [EOI], 0
        window
        fact    "again", [COUNT]
        out8    0x70, 0x0b                      ; no more of it
        in      al, 0x71
        and     al, ~0x40
        push    eax
        out8    0x70, 0x0b
        pop     eax
        out     0x71, al
        call    read_c
        mov     dword [COUNT], 0
        mov     dword [EOI], 0
        window
        fact    "quiet", [COUNT]
        read    "remotedone", 0x10 + 16
        finish

read_c: out8    0x70, 0x0c
        in      al, 0x71
        ret
irq_50: mov     dword [LAST], 0x50
        inc     dword [COUNT]
        mov     dword [EOI], 0
        iretd
irq_58: mov     dword [LAST], 0x58
        inc     dword [COUNT]
        iretd
