; Jumps to where no memory is, with a handler for what comes of it that is there neither.
%include "hostile.inc"
        mov     eax, HOLE + 0x1000
        lidt    [.beyond]
        jmp     rax
.beyond:
        dw      0xfff
        dq      HOLE
