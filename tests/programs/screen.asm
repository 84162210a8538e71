; A kernel with a screen and a keyboard, entered in real mode at 0x1000. It echoes letters and digits where the
; cursor is, Enter goes to the next row. F1 says a line on com1, F2 draws row 2 in colours, Esc ends with 0.

        bits    16
        org     0x1000

COM1    equ 0x3f8
ROW     equ 160

start:  xor     ax, ax
        mov     ds, ax
        mov     ss, ax
        mov     sp, 0x1000
        mov     ax, 0xb800
        mov     es, ax
        mov     si, banner
        xor     di, di
        mov     ah, 0x1f
        call    draw
        mov     di, ROW
        call    cursor

key:    in      al, 0x64
        test    al, 1
        jz      key
        in      al, 0x60
        cmp     al, 0x80                ; a key goes up, or is a long one's prefix
        jae     key
        cmp     al, 0x01
        je      escape
        cmp     al, 0x1c
        je      enter
        cmp     al, 0x3b
        je      f1
        cmp     al, 0x3c
        je      f2
        mov     bx, characters
        xlatb
        test    al, al
        jz      key
        mov     ah, 0x07
        stosw
        call    cursor
        jmp     key

enter:  mov     ax, di
        xor     dx, dx
        mov     cx, ROW
        div     cx
        inc     ax
        mul     cx
        mov     di, ax
        call    cursor
        jmp     key

f1:     mov     si, line
        mov     dx, COM1
.next:  lodsb
        test    al, al
        jz      key
        out     dx, al
        jmp     .next

f2:     push    di
        mov     si, colours
        mov     di, 2 * ROW
        mov     ah, 0x4e
        call    draw
        pop     di
        jmp     key

escape: xor     al, al
        out     0xf4, al
        hlt

draw:   lodsb
        test    al, al
        jz      .end
        stosw
        jmp     draw
.end:   ret

cursor: mov     cx, di
        shr     cx, 1
        mov     dx, 0x3d4
        mov     al, 0x0e
        mov     ah, ch
        out     dx, ax
        mov     al, 0x0f
        mov     ah, cl
        out     dx, ax
        ret

banner: db      "a kernel's screen", 0
colours:
        db      "yellow on red ", 0xc9, 0xcd, 0xbb, 0
line:   db      "com1 speaks", 13, 10, 0

characters:                             ; by scan code of set 1
        db      0, 0, "1234567890", 0, 0, 0, 0, "qwertyuiop", 0, 0, 0, 0, "asdfghjkl", 0, 0, 0, 0, 0
        db      "zxcvbnm", 0, 0, 0, 0, 0, 0, " "
        times   0x80 - ($ - characters) db 0
