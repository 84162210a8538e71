; Control registers and MSRs: bits that are reserved, combinations that are not allowed, what a change of mode
; wants, and what stays. SDM vol. 3 §2.5, §9.8.5, vol. 2 (MOV CR).

%include "pc.inc"
%include "long.inc"

EFER    equ 0xc0000080

main:   say     "control:"
        mov     eax, cr0
        fact    "cr0", eax
        mov     ecx, eax
        or      ecx, 1 << 31
        and     ecx, ~1
        try     "pgnope", mov cr0, ecx          ; paging without protection
        mov     ecx, eax
        or      ecx, 1 << 29
        and     ecx, ~(1 << 30)
        try     "nwnocd", mov cr0, ecx
        mov     ecx, eax
        and     ecx, ~(1 << 4)
        mov     cr0, ecx
        mov     ecx, cr0
        and     ecx, 1 << 4
        fact    "et", ecx                       ; always 1
        mov     ecx, eax
        or      ecx, 1 << 6                     ; reserved bits of the lower half are ignored
        mov     cr0, ecx
        mov     ecx, cr0
        and     ecx, 1 << 6
        fact    "reserved", ecx
        mov     cr0, eax
        mov     ecx, cr4
        bts     ecx, 31
        try     "cr4", mov cr4, ecx
        mov     ecx, cr4
        bts     ecx, 15
        try     "cr4low", mov cr4, ecx
        mov     ecx, cr4
        fact    "cr4is", ecx
        mov     eax, 0x123
        try     "cr1", db 0x0f, 0x22, 0xc8
        try     "cr5", db 0x0f, 0x22, 0xe8
        try     "cr2", mov cr2, eax
        mov     ecx, cr2
        fact    "cr2is", ecx
        mov     ecx, EFER
        rdmsr
        fact    "efer", eax
        mov     ecx, EFER
        mov     eax, 1 << 2
        xor     edx, edx
        try     "efer2", wrmsr
        mov     edx, 1
        xor     eax, eax
        try     "eferhigh", wrmsr
        xor     edx, edx
        mov     ecx, 0x12345678
        try     "rdmsr", rdmsr
        try     "wrmsr", wrmsr
        enter_long
        mov     ecx, EFER
        rdmsr
        fact    "lma", rax
        btr     eax, 8
        try     "lmeoff", wrmsr                 ; not while paging is on
        mov     ecx, EFER
        rdmsr
        btr     eax, 10
        wrmsr                                   ; LMA can't be written
        rdmsr
        fact    "lmastays", rax
        mov     rax, cr4
        btr     eax, 5
        try     "paeoff", mov cr4, rax
        mov     rax, cr0
        btr     eax, 31
        try     "pgoff", mov cr0, rax           ; not from 64-bit code
        mov     rax, cr4
        bts     rax, 40
        try     "cr4high", mov cr4, rax
        mov     eax, 0x10
        try     "cr8high", mov cr8, rax
        mov     eax, 5
        mov     cr8, rax
        mov     rcx, cr8
        fact    "cr8is", rcx
        mov     ebx, 0xfee00080
        fact32  "tpr", [rbx]
        mov     dword [rbx], 0x73
        mov     rcx, cr8
        fact    "tprto8", rcx
        mov     rax, 1 << 60 | PML4
        try     "cr3high", mov cr3, rax
        finish
        bits    32
