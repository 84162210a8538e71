; CR3 with a page of zeros.
%include "start.inc"
start:  mov     eax, 0x400000
        mov     cr3, rax
bug:    nop
