; Paging is switched on with EFER.LME and without CR4.PAE: #GP, and nothing has changed. SDM vol. 3 §9.8.5.1.

%include "pc.inc"

EFER    equ 0xc0000080

main:   say     "lme:"
        mov     ecx, EFER
        mov     eax, 1 << 8
        xor     edx, edx
        wrmsr
        mov     ecx, cr0
        bts     ecx, 31
        try     "nopae", mov cr0, ecx
        mov     ecx, EFER
        rdmsr
        fact    "efer", eax
        mov     eax, cr0
        fact    "cr0", eax
        finish
