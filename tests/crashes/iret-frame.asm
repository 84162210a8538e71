; IRETQ with a frame whose CS is no selector.
%include "start.inc"
start:  push    0x18
        push    rsp
        push    2
        push    0x7770
        push    start
bug:    iretq
