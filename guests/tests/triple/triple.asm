; A triple fault: an exception with an IDT of no entries. The machine ends, with status 125 under pykvm.
; SDM vol. 3 §6.15 (interrupt 8).

%include "pc.inc"

main:   say     "triple: before=1", 10
        lidt    [none]
        ud2
        say     "triple: after=1", 10
        finish  1

[section .data align=4]
none:   dw      0
        dd      0
__?SECT?__
