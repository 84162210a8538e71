; A selector beyond the GDT's limit.
%include "start.inc"
start:  mov     eax, 0x58
bug:    mov     ds, eax
