; A division by zero whose gate, as the double fault's, isn't present.
%include "start.inc"
start:  make_idt
        and     byte [idt + 5], 0x7f
        and     byte [idt + 8 * 16 + 5], 0x7f
        xor     ecx, ecx
        mov     eax, 7
        cdq
bug:    div     ecx
handler:
        hlt
