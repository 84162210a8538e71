; Every exception that an instruction of 64-bit mode can raise, once. SDM vol. 3 §6.15, vol. 2.

%include "pc.inc"
%include "long.inc"

HOLE    equ 1 << 47             ; the first address that is not canonical

main:   say     "exceptions64:"
        descriptor FREE, FLAT_DATA & ~(1 << 47)         ; not present
        enter_long
        xor     ecx, ecx
        try     "div", div rcx
        mov     edx, 1
        mov     ecx, 1
        try     "overflow", div rcx
        try     "int3", int3
        try     "int", int 3
        try     "ud2", ud2
        try     "into", db 0xce                 ; 32-bit instructions that are no more
        try     "pusha", db 0x60
        try     "bcd", db 0x37
        try     "pushes", db 0x06
        try     "far", db 0x9a
        try     "lds", db 0xc5, 0x00            ; VEX without AVX enabled
        mov     rax, cr0
        or      eax, 8
        mov     cr0, rax
        try     "ts", fld1
        clts
        try     "np", mov fs, [not_present]
        try     "ss", mov ss, [not_present]
        try     "gp", mov fs, [beyond]
        try     "nullss", mov ss, [zero]        ; allowed in ring 0
        try     "gpint", int 0x80
        mov     rbx, HOLE
        try     "load", mov rax, [rbx]
        mov     rbp, HOLE
        try     "stack", mov rax, [rbp]
        mov     rsi, HOLE - 4
        try     "wraps", mov rax, [rsi]         ; the last byte is what counts
        mov     rbx, 0x123456789000
        try     "pf", mov rax, [rbx]
        try     "pfw", mov [rbx], rax
        mov     rbx, -8
        try     "top", mov rax, [rbx]
        mov     ecx, 0xc0000080
        rdmsr
        or      eax, 1 << 2
        try     "efer", wrmsr                   ; a reserved bit
        mov     ecx, 0xc0000082                 ; LSTAR
        mov     edx, 0x8000
        xor     eax, eax
        try     "lstar", wrmsr                  ; not canonical
        mov     rax, cr0
        bts     rax, 32
        try     "cr0", mov cr0, rax
        user    "hlt", hlt
        user    "rdmsr", rdmsr
        user    "swapgs", swapgs
        user    "invlpg", invlpg [rax]
        user    "in", in al, 0x80
        user    "sti", sti
        mov     rax, HOLE
        user    "uload", mov rcx, [rax]
        user    "int20", int 0x20
        mov     rax, cr0
        or      eax, 1 << 18
        mov     cr0, rax
        mov     dword [user_flags], 1 << 18 | 2
        user    "ac", mov eax, [beyond + 1]
        user    "noac", mov eax, [beyond]
        mov     dword [user_flags], 2
        finish
        bits    32

[section .data align=8]
        align   8
zero:   dd      0
not_present: dd FREE
beyond: dd      0x200, 0
__?SECT?__
