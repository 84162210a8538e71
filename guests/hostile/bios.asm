; Calls every function of the BIOS with the worst of registers: buffers over the end of the segment, of the first
; MiB and of memory, counts that no disk and no screen has. A boot sector, with the rest of its disk behind it.
COM1    equ     0x3f8
BEYOND  equ     0xffff                  ; as a segment: 16 bytes below 1 MiB, the rest above

        org     0x7c00
        bits    16
start:  xor     ax, ax
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     sp, 0x7c00
        mov     si, go
        call    print
        mov     di, 0x500               ; the descriptors of INT 15h/87h: from everywhere to nowhere
        mov     cx, 24
        mov     ax, 0xffff
        rep     stosw
        mov     bp, calls
.call:  mov     al, [bp]                ; the interrupt …
        test    al, al
        jz      done
        mov     [.number], al
        mov     byte [function], 0
.function:
        mov     al, [function]
        mov     di, [bp + 1]            ; … but for the functions that wait
.skip:  cmp     byte [di], 0
        je      .go
        cmp     [di], al
        je      .next
        inc     di
        jmp     .skip
.go:    mov     bx, worst
.registers:
        push    bp
        push    bx
        mov     ah, [function]
        mov     al, [bx]
        mov     cx, [bx + 1]
        mov     dx, [bx + 3]
        mov     si, [bx + 5]
        mov     di, si
        mov     es, [bx + 7]
        mov     ds, [bx + 9]
        mov     bx, si
        mov     bp, si
        sti
        db      0xcd                    ; INT
.number db      0
        xor     ax, ax
        mov     ds, ax
        mov     es, ax
        cld
        pop     bx
        pop     bp
        add     bx, 11
        cmp     bx, worst.end
        jb      .registers
.next:  inc     byte [function]
        jnz     .function
        add     bp, 3
        jmp     .call
done:   mov     si, text
        call    print
        mov     dx, 0x604
        mov     ax, 0x3400
        out     dx, ax
        hlt

print:  lodsb
        test    al, al
        jz      .done
        mov     dx, COM1
        out     dx, al
        jmp     print
.done:  ret

go:     db      "go", 10, 0
text:   db      "done", 10, 0
function:
        db      0
nothing:
        db      0
waits:  db      0x83, 0x86, 0           ; INT 15h: for as long as CX:DX says
%macro  worst_call 6                    ; AL, CX, DX, BX SI DI and BP, ES, DS
        db      %1
        dw      %2, %3, %4, %5, %6
%endmacro
calls:  db      0x10
        dw      nothing
        db      0x11
        dw      nothing
        db      0x12
        dw      nothing
        db      0x13
        dw      nothing
        db      0x15
        dw      waits
        db      0x1a
        dw      nothing
        db      0
worst:  worst_call 0xff, 0x07ff, 0xffff, 0x100, BEYOND, BEYOND
        worst_call 0x01, 0x0001, 0x0080, 0x8000, BEYOND, BEYOND
.end:
        times   510 - ($ - $$) db 0
        dw      0xaa55
        times   1024 db 0x90
