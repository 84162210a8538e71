; Interrupts itself as fast as it can: by its local APIC, by the timer chip, and by the local APIC's timer.
%include "hostile.inc"
APIC    equ     0xfee00000
        mov     al, 0xff
        out     0x21, al
        out     0xa1, al
        mov     ebx, APIC
        mov     dword [rbx + 0xf0], 0x1ff       ; on
        mov     dword [rbx + 0x3e0], 0xb        ; divide by 1
        mov     dword [rbx + 0x320], 0x20040    ; periodic, vector 0x40
        mov     dword [rbx + 0x380], 1          ; each tick of its clock
        mov     r15d, .served
.served:
        mov     dword [rbx + 0xb0], 0           ; EOI
        sti
        nop
        mov     dword [rbx + 0x300], 0x40050    ; to itself, vector 0x50
        mov     dword [rbx + 0x300], 0x40051
        nop
        jmp     .served
