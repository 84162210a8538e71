; Calls every byte of a memory full of returns: a new piece of code each time.
%include "hostile.inc"
FROM    equ     0x300000
        mov     edi, FROM
        mov     ecx, RAM_END - FROM
        mov     al, 0xc3
        rep     stosb
.again: mov     edi, FROM
.next:  call    rdi
        inc     edi
        cmp     edi, RAM_END
        jb      .next
        mov     rax, cr3
        mov     cr3, rax
        jmp     .again
