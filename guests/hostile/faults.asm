; Raises exceptions without end, none of which is ever served.
%include "hostile.inc"
.again: attempt ud2
        attempt int3
        mov     eax, 1 << 30
        attempt mov [rax + rax * 4], al         ; beyond what is mapped
        attempt div r14b
        attempt int 0x99
        jmp     .again
