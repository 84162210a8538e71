; A triple fault at once, before anything is printed but "go".
%include "hostile.inc"
        lidt    [.none]
        ud2
.none:  dw      0
        dq      0
