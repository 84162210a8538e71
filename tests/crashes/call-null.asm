; A call through a null pointer, where page 0 isn't mapped.
%include "start.inc"
start:  find_directory
        mov     esp, 0x180000
        mov     rax, [rbx]                      ; a page table for the first 2 MiB, without page 0
        mov     edi, 0x300000
        mov     eax, 3
        mov     ecx, 512
.page:  mov     [rdi], rax
        add     edi, 8
        add     eax, 0x1000
        loop    .page
        mov     qword [0x300000], 0
        mov     qword [rbx], 0x300003
        mov     rax, cr3
        mov     cr3, rax
        call    [pointer]
after:  hlt
        align   8
pointer:
        dq      0
bug     equ     0
