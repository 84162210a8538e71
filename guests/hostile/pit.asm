; Sets the timer chip's counter anew without end, with interrupts on: each value, each mode.
%include "hostile.inc"
        mov     r15d, .again            ; where its interrupts lead
        mov     al, 0xfe                ; only the timer's
        out     0x21, al
.again: mov     al, 0x20                ; what there was has been served
        out     0x20, al
        sti
        mov     ecx, 1000
.set:   mov     eax, ebx
        and     al, 0x0e
        or      al, 0x30
        out     0x43, al
        mov     al, bl
        out     0x40, al
        mov     al, bh
        out     0x40, al
        inc     ebx
        loop    .set
        jmp     .again
