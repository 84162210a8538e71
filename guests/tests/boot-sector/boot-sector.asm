; A boot sector: what a BIOS leaves in the registers, and that the sector behind the first is in memory too.

COM1            equ 0x3f8
DEBUG_EXIT      equ 0xf4

        org     0x7c00
        bits    16

%macro  told 2
        mov     si, %%name
        call    print
        mov     ax, %2
        call    hex
        jmp     %%on
%%name: db      " ", %1, "=", 0
%%on:
%endmacro

start:  mov     [cs:saved_dx], dx               ; as long as the other segments aren't known
        mov     [cs:saved_sp], sp
        mov     [cs:saved_ss], ss
        mov     [cs:saved_ds], ds
        call    .here
.here:  pop     bx
        push    cs
        pop     ds
        pushf
        pop     word [saved_flags]
        cld
        mov     si, head
        call    print
        told    "cs", cs
        told    "ip", bx
        told    "dl", [saved_dx]
        told    "ds", [saved_ds]
        told    "flags", [saved_flags]
        mov     eax, cr0
        told    "cr0", ax
        told    "signature", [0x7dfe]
        told    "second", [second]
        mov     al, 10
        call    put
        xor     al, al
        out     DEBUG_EXIT, al
        hlt

head:   db      "boot-sector:", 0
saved_dx:       dw 0
saved_sp:       dw 0
saved_ss:       dw 0
saved_ds:       dw 0
saved_flags:    dw 0

put:    push    dx
        mov     dx, COM1
        out     dx, al
        pop     dx
        ret

print:  lodsb
        test    al, al
        jz      .done
        call    put
        jmp     print
.done:  ret

hex:    mov     cx, 4
.digit: rol     ax, 4
        push    ax
        and     al, 15
        cmp     al, 10
        sbb     al, 0x69
        das
        or      al, 0x20
        call    put
        pop     ax
        loop    .digit
        ret

        times   510 - ($ - $$) db 0
        dw      0xaa55
second: dw      0x1234
        times   1024 - ($ - $$) db 0
