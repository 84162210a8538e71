; Reads and writes at ever other addresses of the upper half, all of which lead to 4 MiB of RAM: small pages,
; large ones, global ones; drops translations one by one and all, and turns small pages into large ones.
%include "hostile.inc"
TABLES  equ     0x300000                        ; a PDPT, a page directory, a page table
TABLE   equ     TABLES + 0x2000 | 7
LARGE   equ     0x400000 | 0x187                ; 2 MiB, global
FRAMES  equ     0x800000 | 7
        mov     edi, TABLES
        mov     eax, TABLES + 0x1000 | 7
        mov     ecx, 512
        rep     stosq
.entry: mov     eax, TABLE
        mov     edx, LARGE
        test    bl, 1
        cmovnz  eax, edx
        stosq
        inc     ebx
        cmp     ebx, 512
        jb      .entry
        mov     eax, FRAMES
.page:  stosq
        add     eax, 0x1000
        cmp     edi, TABLES + 0x3000
        jb      .page
        mov     rdi, cr3
        add     edi, 256 * 8
        mov     eax, TABLES | 7
        mov     ecx, 256
        rep     stosq
        mov     rax, cr0
        bts     eax, 16                         ; WP: a translator may walk in machine code then
        mov     cr0, rax
        mov     rcx, 0x9e3779b97f4a7c15
        mov     rsi, 0xffff800000000000
.next:  inc     rbx
        mov     rax, rbx
        mul     rcx
        shr     rax, 17
        or      rax, rsi
        cmp     rax, -8
        ja      .next
        mov     [rax], rbx
        add     rbp, [rax]
        test    bl, 15
        jnz     .next
        invlpg  [rax]
        test    ebx, 0xfff
        jnz     .next
        xor     qword [TABLES + 0x1000], TABLE ^ LARGE
        mov     rax, cr3
        mov     cr3, rax
        test    ebx, 0xffff
        jnz     .next
        mov     rax, cr4
        xor     eax, 1 << 7                     ; PGE: global ones as well
        mov     cr4, rax
        jmp     .next
