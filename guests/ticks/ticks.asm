; ticks: the timer's interrupts, counted against the time stamp counter.
;
; The PIT is set to 100 interrupts a second. The guest halts, wakes at each, and after 20 of them
; prints how many cycles of the TSC went by, a dot a tick. It runs in 32-bit protected mode without
; paging, with an IDT and the two PICs set up the way every PC kernel does.
;
;   nasm -f bin -o ticks.bin ticks.asm

        bits 32
        org 0x10000             ; machine.yaml: kernel.load

COM1        equ 0x3f8
PM1_CNT     equ 0x604
S5          equ 5 << 10
SLP_EN      equ 1 << 13
PIC1        equ 0x20            ; master: command, and data one above
PIC2        equ 0xa0
EOI         equ 0x20            ; end of interrupt, to the command port
PIT_COUNTER equ 0x40
PIT_CONTROL equ 0x43
PIT_RATE    equ 0x34            ; counter 0, low byte then high byte, mode 2
HZ          equ 100
DIVISOR     equ (1193182 + HZ / 2) / HZ
VECTOR      equ 0x20            ; where the master PIC's first interrupt is put
TICKS       equ 20
CODE        equ 0x08            ; selectors of the GDT below
DATA        equ 0x10

start:
        lgdt    [gdt.pointer]
        jmp     CODE:.flat
.flat:  mov     ax, DATA
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     esp, stack.top

        ; The gate of the timer's vector: a 32-bit interrupt gate to `tick`.
        mov     eax, tick
        mov     [idt + VECTOR * 8], ax
        mov     word [idt + VECTOR * 8 + 2], CODE
        mov     word [idt + VECTOR * 8 + 4], 0x8e00
        shr     eax, 16
        mov     [idt + VECTOR * 8 + 6], ax
        lidt    [idt.pointer]

        ; Both PICs: initialize, vectors from VECTOR on, master and slave, 8086 mode; then the masks.
        mov     esi, pic_setup
        mov     ecx, (pic_setup.end - pic_setup) / 2
        xor     edx, edx
.pic:   mov     dl, [esi]
        mov     al, [esi + 1]
        out     dx, al
        add     esi, 2
        loop    .pic

        mov     al, PIT_RATE
        out     PIT_CONTROL, al
        mov     al, DIVISOR & 0xff
        out     PIT_COUNTER, al
        mov     al, DIVISOR >> 8
        out     PIT_COUNTER, al

        ; Count from one tick on, so that the first whole period is the first that counts.
        sti
        hlt
        rdtsc
        mov     [began], eax
        mov     [began + 4], edx
        mov     dword [count], 0

        ; A dot for each tick. To halt only while there is none to print, the question and the halt must
        ; not be parted by an interrupt: `sti` lets one in only after the instruction that follows it.
wait_for_tick:
        cli
        mov     eax, [dots]
        cmp     eax, [count]
        jb      .dot
        sti
        hlt
        jmp     wait_for_tick
.dot:   sti
        inc     dword [dots]
        mov     al, '.'
        call    put
        cmp     dword [dots], TICKS
        jb      wait_for_tick
        cli

        rdtsc
        sub     eax, [began]
        sbb     edx, [began + 4]
        mov     edi, eax        ; edx:edi, the cycles that went by
        mov     esi, said
        call    print
        mov     eax, edx
        call    hex
        mov     eax, edi
        call    hex
        mov     esi, unit
        call    print

        mov     dx, PM1_CNT
        mov     ax, S5 | SLP_EN
        out     dx, ax

tick:                           ; the interrupt handler
        push    eax
        inc     dword [count]
        mov     al, EOI
        out     PIC1, al
        pop     eax
        iret

put:                            ; al to the serial port
        push    edx
        mov     edx, COM1
        out     dx, al
        pop     edx
        ret

print:                          ; the text at esi, up to its zero
        lodsb
        test    al, al
        jz      .done
        call    put
        jmp     print
.done:  ret

hex:                            ; eax as eight digits
        push    ecx
        push    eax
        mov     ecx, 8
.digit: rol     dword [esp], 4
        mov     eax, [esp]
        and     eax, 15
        mov     al, [digits + eax]
        call    put
        loop    .digit
        pop     eax
        pop     ecx
        ret

digits: db      "0123456789abcdef"
said:   db      13, 10, "20 ticks at 100 Hz: 0x", 0
unit:   db      " TSC cycles", 13, 10, 0

; port, value
pic_setup:
        db      PIC1, 0x11, PIC1 + 1, VECTOR, PIC1 + 1, 4, PIC1 + 1, 1
        db      PIC2, 0x11, PIC2 + 1, VECTOR + 8, PIC2 + 1, 2, PIC2 + 1, 1
        db      PIC1 + 1, 0xfe, PIC2 + 1, 0xff          ; all masked but the timer
.end:

        align   8
gdt:    dq      0
        dq      0x00cf9b000000ffff      ; code: base 0, limit 4 GiB, 32 bits, ring 0
        dq      0x00cf93000000ffff      ; data: the same, writable
.pointer:
        dw      $ - gdt - 1
        dd      gdt

idt.pointer:
        dw      (VECTOR + 1) * 8 - 1
        dd      idt

        ; Not in the file: memory behind it is zero.
        absolute 0x20000
idt:    resb    (VECTOR + 1) * 8
began:  resq    1
count:  resd    1
dots:   resd    1
stack:  resb    4096
.top:
