; Double faults: of two contributory exceptions, of a page fault without its handler, taken by a task gate
; with a stack of its own; and what is no double fault. SDM vol. 3 §6.15 (interrupt 8), table 6-5.

%include "pc.inc"

DF      equ FREE
df      equ own + 0x100

%macro  broken 3+               ; name, vector whose gate is absent, instruction
        mov     byte [idt + (%2) * 8 + 5], 0x0e
        mov     dword [df + 32], double
        mov     dword [df + 36], 2
        mov     dword [df + 56], user_stack
        mov     dword [own], 0
        mov     dword [own + 4], %%after
        mov     [own + 8], esp
%%at:   %3
%%after: mov    byte [idt + (%2) * 8 + 5], 0x8e
        mov     eax, [own + 16]
        sub     eax, %%at
        %strcat %%ip %1, "ip"
        %strcat %%error %1, "err"
        fact    %1, [own]
        fact    %%ip, eax
        fact    %%error, [own + 12]
%endmacro

main:   say     "doublefault:"
        descriptor DF + 8, FLAT_DATA & ~(1 << 47)
        descriptor DF, 0x0000890000000067 | df << 16
        mov     dword [idt + 8 * 8], DF << 16
        mov     dword [idt + 8 * 8 + 4], 0x8500
        mov     dword [df + 72], DATA
        mov     dword [df + 76], CODE
        mov     dword [df + 80], DATA
        mov     dword [df + 84], DATA
        mov     word [df + 102], 104
        xor     ecx, ecx
        broken  "de", 0, div ecx                ; #DE, then #NP of its gate: both contributory
        broken  "gp", 13, int 0x80
        broken  "np", 11, mov fs, [absent]
        ; #UD is benign: the #NP of its gate is served by itself.
        mov     byte [idt + 6 * 8 + 5], 0x0e
        try     "ud", ud2
        mov     byte [idt + 6 * 8 + 5], 0x8e
        mov     byte [idt + 3 * 8 + 5], 0x0e
        try     "int3", int3                    ; EXT is 0: software
        mov     byte [idt + 3 * 8 + 5], 0x8e
        finish

double: ; The task of #DF. The interrupted task's registers are in its TSS.
        pop     dword [own + 12]                ; the error code: 0
        mov     dword [own], 0xdf
        mov     eax, [tss + 32]
        mov     [own + 16], eax
        mov     eax, [own + 4]
        mov     [tss + 32], eax                 ; go on behind the instruction
        iretd

[section .data align=4]
        align   4
absent: dd      DF + 8
__?SECT?__
