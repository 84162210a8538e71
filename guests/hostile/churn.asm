; Writes new code without end, each piece to another place, and runs it.
%include "hostile.inc"
FROM    equ     0x300000
.again: mov     edi, FROM
.piece: inc     ebx
        mov     byte [rdi], 0xb8                ; mov eax, ebx
        mov     [rdi + 1], ebx
        mov     byte [rdi + 5], 0xc3            ; ret
        call    rdi
        add     edi, 7
        cmp     edi, RAM_END - 8
        jb      .piece
        jmp     .again
