; A jump to where nothing is mapped.
%include "start.inc"
start:  mov     rax, bug
        jmp     rax
bug     equ     0xffffffff81000000
