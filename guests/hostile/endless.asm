; One instruction without an end: a string of 2⁶⁴ - 1 bytes to a port, and again where it stops.
%include "hostile.inc"
.again: xor     esi, esi
        mov     rcx, -1
        mov     edx, 0x80
        attempt rep outsb
        jmp     .again
