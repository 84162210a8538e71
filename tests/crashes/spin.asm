; A loop without an end, with interrupts off.
%include "start.inc"
start:  cli
bug:    pause
        jmp     bug
