; A push where no stack is mapped, so that no handler can be entered either.
%include "start.inc"
start:  make_idt
        mov     rsp, 0x100002000                ; beyond the 4 GiB that are mapped
bug:    push    rax
handler:
        hlt
