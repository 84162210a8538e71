; An invalid instruction, and no IDT.
%include "start.inc"
start:
bug:    ud2
