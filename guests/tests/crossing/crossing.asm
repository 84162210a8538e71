; Code and data over the ends of pages: instructions in two pages of which the second is missing, forbidden or
; elsewhere, branches to a page's last byte, accesses of every size, at the end of the address space. SDM vol. 3
; §4.7, vol. 1 §3.3.

%include "pc.inc"
%include "long.inc"

TABLE   equ 0x30000
PAGES   equ 0x31000
A       equ 0x100000            ; three frames, mapped in another order
AREA    equ 0x40000000

%macro  map 2
        mov     rax, %2
        mov     [PAGES + 8 * (%1)], rax
        mov     eax, AREA + 0x1000 * (%1)
        invlpg  [rax]
%endmacro
; code OFFSET, bytes: at the end of page 0, on to page 1 where it is.
%macro  put 2+
[section .data]
%%bytes: db     %2
%%end:
__?SECT?__
        mov     esi, %%bytes
        mov     edi, AREA + (%1)
        mov     ecx, %%end - %%bytes
        rep     movsb
%endmacro

main:   say     "crossing:"
        mov     edi, TABLE
        xor     eax, eax
        mov     ecx, 0x800
        rep     stosd
        enter_long
        mov     qword [TABLE], PAGES | 7
        mov     qword [PDPT + 8], TABLE | 7
        mov     rax, cr3
        mov     cr3, rax
        map     0, A + 0x5000 | 7
        map     1, A + 0x2000 | 7
        put     0xffd, 0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 0xc3 ; mov rax, imm64; ret
        mov     ebx, AREA + 0xffd
        call    rbx
        fact    "imm", rax
        mov     byte [A + 0x2000 + 6], 0x99     ; the last byte of the immediate, by its other address
        call    rbx
        fact    "changed", rax
        map     1, 0
        try     "missing", call rbx
        user    "umissing", jmp rbx
        map     1, A + 0x2000 | 3
        user    "usup", jmp rbx
        map     1, A + 0x2000 | 7 | 1 << 63
        try     "nx", call rbx
        map     1, A + 0x2000 | 7
        call    rbx
        fact    "again", rax
        ; A one-byte instruction at the end does not touch the next page.
        map     1, 0
        mov     byte [AREA + 0xfff], 0xc3
        lea     rdx, [rbx + 2]
        try     "last", call rdx
        mov     byte [AREA + 0xffe], 0xeb       ; a short jump back, at the page's end
        mov     byte [AREA + 0xfff], 0xfd       ; to 0xffd
        mov     byte [AREA + 0xffd], 0xc3
        lea     rdx, [rbx + 1]
        try     "jump", call rdx
        mov     byte [AREA + 0xffe], 0x66       ; a prefix, and then nothing
        mov     byte [AREA + 0xfff], 0x66
        try     "prefix", call rdx
        ; #UD wins over the missing page where the opcode is whole.
        mov     byte [AREA + 0xffe], 0x0f
        mov     byte [AREA + 0xfff], 0x0b
        try     "ud", call rdx
        mov     byte [AREA + 0xfff], 0xf4       ; HLT in ring 3: it is whole
        lea     rdx, [rbx + 2]
        user    "hlt", jmp rdx
        mov     byte [AREA + 0xfff], 0x90
        try     "nop", call rdx                 ; then the fetch faults, at the next page
        ; Another frame behind: the instruction is another.
        map     1, A + 0x7000 | 7
        mov     dword [A + 0x7000], 0x00c39090
        mov     byte [AREA + 0xffd], 0x90
        mov     byte [AREA + 0xffe], 0xb0       ; mov al, imm
        mov     byte [AREA + 0xfff], 0x11
        lea     rdx, [rbx + 1]
        xor     eax, eax
        call    rdx
        fact    "al", rax
        mov     byte [AREA + 0xfff], 0xb0
        lea     rdx, [rbx + 2]
        call    rdx
        fact    "nextal", rax
        ; Data over the end, frames apart.
        mov     rcx, 0x1122334455667788
        mov     [AREA + 0xffc], rcx
        fact32  "lowhalf", [A + 0x5000 + 0xffc]
        fact32  "highhalf", [A + 0x7000]
        mov     rax, [AREA + 0xffc]
        fact    "whole", rax
        mov     ebx, AREA + 0xfff
        add     word [rbx], 0x101
        fact16  "rmw", [rbx]
        mov     eax, 0x1234
        xchg    [rbx], ax
        fact16  "xchg", [rbx]
        lock add dword [rbx], 1
        fact32  "lock", [rbx]
        mov     rdi, AREA + 0xff0
        mov     ecx, 5
        mov     rax, 0x0102030405060708
        rep     stosq
        fact    "stos", [AREA + 0xffc]
        mov     rsi, AREA + 0xff1
        mov     rdi, AREA + 0xffb
        mov     ecx, 3
        rep     movsq                           ; overlaps
        fact    "movs", [AREA + 0xffb]
        map     1, A + 0x7000 | 5
        mov     rax, cr0
        bts     eax, 16
        mov     cr0, rax
        mov     rcx, [AREA + 0xff8]
        try     "rosecond", mov [AREA + 0xffc], rcx
        mov     rdx, [AREA + 0xff8]
        cmp     rcx, rdx
        sete    al
        fact8   "untouched", al
        try     "push", push qword [AREA + 0xffc]
        pop     rax
        ; The end of the address space: the last page is mapped, the first isn't from there.
        mov     qword [PML4 + 8 * 511], PDPT | 7
        mov     qword [PDPT + 8 * 511], TABLE | 7
        mov     qword [TABLE + 8 * 511], PAGES | 7
        mov     qword [PAGES + 8 * 511], A + 0x5000 | 7
        mov     rax, cr3
        mov     cr3, rax
        mov     rbx, -1
        try     "top", mov al, [rbx]
        try     "wrap", mov ax, [rbx]           ; on to address 0, which is canonical and mapped
        mov     byte [AREA + 0xfff], 0x90
        mov     dword [0], 0xc3c3c3c3
        try     "wrapcode", call rbx
        finish
        bits    32
