; The VGA in text mode: memory at 0xB8000, CRTC (start address, cursor, protection), attribute and graphics
; registers, DAC, retrace. Draws 64 Ki characters in lines that scroll. IBM's PS/2 Video Subsystem.

%include "pc.inc"

TEXT    equ 0xb8000
ROW     equ 160

%macro  set 3                   ; index port, index, value: by one 16-bit write
        mov     dx, %1
        mov     ax, %2 | (%3) << 8
        out     dx, ax
%endmacro
%macro  get 3                   ; name, index port, index
        mov     dx, %2
        mov     al, %3
        out     dx, al
        inc     edx
        in      al, dx
        fact8   %1, al
%endmacro

main:   say     "vga-text:"
        ; The text mode that a BIOS leaves, in what this kernel sets itself.
        set     0x3d4, 0x11, 0x0e               ; registers 0 to 7 may be written
        set     0x3d4, 0x01, 79
        set     0x3d4, 0x13, 40
        set     0x3d4, 0x0c, 0
        set     0x3d4, 0x0d, 0
        get     "columns", 0x3d4, 0x01
        set     0x3d4, 0x11, 0x8e               ; and now they are protected
        set     0x3d4, 0x01, 10
        get     "protected", 0x3d4, 0x01
        set     0x3ce, 0x06, 0x0e               ; text, at 0xB8000
        get     "map", 0x3ce, 0x06
        ; The palette: by turns, and the index goes on.
        mov     dx, 0x3c8
        mov     al, 7
        out     dx, al
        inc     edx
        mov     al, 0x2a
        out     dx, al
        mov     al, 0x15
        out     dx, al
        mov     al, 0x3f
        out     dx, al
        mov     dx, 0x3c7
        mov     al, 7
        out     dx, al
        mov     dx, 0x3c9
        in      al, dx
        fact8   "red", al
        in      al, dx
        fact8   "green", al
        in      al, dx
        fact8   "blue", al
        ; Attributes: 0x3DA makes the next write an index.
        mov     dx, 0x3da
        in      al, dx
        mov     dx, 0x3c0
        mov     al, 0x30
        out     dx, al
        mov     al, 0x0c
        out     dx, al
        inc     edx
        in      al, dx
        fact8   "mode", al
        ; The retrace comes and goes.
        mov     dx, 0x3da
.on:    in      al, dx
        test    al, 8
        jz      .on
.off:   in      al, dx
        test    al, 8
        jnz     .off
        say     " retrace=1"
        ; Memory: bytes, words, what is beyond the screen.
        mov     edi, TEXT
        mov     ecx, 0x8000 / 4
        mov     eax, 0x07200720
        rep     stosd
        mov     word [TEXT + 0x7ffe], 0x1f41
        fact16  "last", [TEXT + 0x7ffe]
        fact16  "blank", [TEXT + ROW * 24]
        ; 64 Ki characters: 1024 lines of 64, each moves the screen up.
        xor     ebp, ebp
.line:  mov     esi, TEXT + ROW
        mov     edi, TEXT
        mov     ecx, ROW * 24 / 4
        rep     movsd
        mov     edi, TEXT + ROW * 24
        mov     ecx, 64
        mov     ah, 7
.next:  mov     al, cl
        add     al, '0'
        mov     [edi], ax
        add     edi, 2
        loop    .next
        mov     eax, ebp
        and     eax, 15
        mov     al, [digits + eax]
        mov     ah, 0x1f
        mov     [TEXT + ROW * 24], ax
        inc     ebp
        cmp     ebp, 1024
        jb      .line
        set     0x3d4, 0x0e, (24 * 80 + 64) >> 8
        set     0x3d4, 0x0f, (24 * 80 + 64) & 0xff
        get     "cursorhigh", 0x3d4, 0x0e
        get     "cursorlow", 0x3d4, 0x0f
        fact16  "first", [TEXT]
        fact16  "bottom", [TEXT + ROW * 24]
        finish
