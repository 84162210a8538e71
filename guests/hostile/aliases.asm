; Runs one page of code at ever other addresses: all of the address space but its first part leads to it.
%include "hostile.inc"
TABLES  equ     0x300000                        ; a PDPT, a page directory, a page table: each leads to one page
        mov     edi, TABLES
%assign level 1
%rep    3
        mov     eax, TABLES + level * 0x1000 | 3
        mov     ecx, 512
        rep     stosq
%assign level level + 1
%endrep
        mov     dword [TABLES + 0x3000], 0xc3c08548     ; test rax, rax; ret
        mov     rdi, cr3
        add     edi, 8
        mov     eax, TABLES | 3
        mov     ecx, 511
        rep     stosq
        mov     rcx, 0x9e3779b97f4a7c15
.next:  inc     rbx
        mov     rax, rbx
        mul     rcx
        sar     rax, 16                         ; 48 bits, with their sign
        and     rax, ~0xfff
        mov     rdx, rax
        shr     rdx, 39
        and     edx, 511
        jz      .next                           ; where the guest itself is
        call    rax
        test    ebx, 0xffff
        jnz     .next
        mov     rax, cr3
        mov     cr3, rax
        jmp     .next
