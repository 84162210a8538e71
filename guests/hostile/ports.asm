; Writes to and reads from every port, those below 0x1000 in every size and the others in one of the three,
; but for those by which a guest ends its machine.
%include "hostile.inc"
        xor     ebx, ebx
.next:  cmp     ebx, 0x1000
        jae     .one
        call    allowed
        jc      .read
        mov     edx, ebx
        imul    eax, ebx, 0x9e3779b1
        out     dx, al
        out     dx, ax
        out     dx, eax
.read:  mov     edx, ebx
        in      al, dx
        in      ax, dx
        in      eax, dx
        inc     ebx
        jmp     .next

.one:   mov     edx, ebx
        mov     eax, ebx
        out     dx, al
        in      al, dx
        inc     edx
        out     dx, ax
        in      ax, dx
        inc     edx
        out     dx, eax
        in      eax, dx
        add     ebx, 3
        cmp     ebx, 0xfffd
        jb      .one
        mov     edx, 0x3fb              ; the serial port as one prints by it
        mov     al, 3
        out     dx, al
        inc     edx
        out     dx, al
        power_off

; Carry, where four bytes at port ebx touch a port of `ends`.
allowed:
        mov     esi, ends
.port:  movzx   eax, word [rsi]
        sub     eax, ebx
        cmp     eax, 4
        jb      .no
        add     esi, 2
        cmp     esi, ends.end
        jb      .port
        clc
        ret
.no:    stc
        ret

ends:   dw      0x60, 0x64, 0x92, 0xf4, 0xf5, 0xf6, 0xf7, 0x3f8, 0x505, 0x604, 0x605, 0xcf9
.end:
