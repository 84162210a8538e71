; Prints for ever, as fast as it can.
%include "hostile.inc"
.print: say     "A line of sixty-four characters, the last of which is its end.", 10
        jmp     .print
