; Real mode: INT and IRET through the vector table at 0, 16-bit wraps, string and decimal instructions,
; flags. What it finds goes to memory, and is printed from protected mode. SDM vol. 3 §20, vol. 1 §7.3.

%include "pc.inc"

facts   equ own

main:   say     "real:"
        descriptor FREE, 0x00009b000000ffff     ; 16-bit code and data, limit 64 KiB
        descriptor FREE + 8, 0x000093000000ffff
        mov     eax, FREE + 8
        mov     ds, eax
        mov     es, eax
        mov     ss, eax
        lidt    [cs:ivt_pointer]
        jmp     FREE:.bits16
        bits    16
.bits16:
        mov     eax, cr0
        and     al, ~1
        mov     cr0, eax
        jmp     0:.real
.real:  xor     ax, ax
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     sp, stack_top
        mov     di, facts
        ; INT: flags, CS and IP are pushed, IF and TF are cleared.
        mov     word [0x60 * 4], handler
        mov     word [0x60 * 4 + 2], 0
        mov     word [0 * 4], divide
        mov     word [0 * 4 + 2], 0
        mov     word [4 * 4], overflow
        mov     word [4 * 4 + 2], 0
        mov     word [6 * 4], undefined
        mov     word [6 * 4 + 2], 0
        stc
        int     0x60
after:  pushf
        pop     ax
        stosw                           ; IRET brought the flags back
        ; #DE: the saved IP is at the DIV.
        xor     cx, cx
        mov     ax, 1
        xor     dx, dx
at_div: div     cx
        stosw
        mov     al, 0x7f
        inc     al
        into
        stosw
at_ud:  ud2
        stosw
        ; An address beyond 64 KiB wraps, one with base FFFF goes past 1 MiB (A20 is on).
        mov     word [0x10], 0x1234
        mov     word [0xfffe], 0x5678
        mov     bx, 0xfffe
        mov     ax, [bx + 0x12]
        stosw
        mov     ax, 0xffff
        mov     fs, ax
        mov     word [fs:0x10], 0x9abc
        mov     ax, [0]
        sub     ax, divide
        stosw
        mov     ax, 0xf000
        mov     gs, ax
        mov     sp, 2
        push    word 0x1111
        push    word 0x2222             ; to FFFE: SP wraps
        mov     ax, sp
        mov     sp, stack_top
        stosw
        mov     ax, [0xfffe]
        stosw
        ; Strings, both directions.
        mov     si, text
        mov     cx, 5
        push    di
        mov     di, 0x3000
        rep     movsb
        std
        mov     si, 0x3004
        mov     di, 0x3009
        mov     cx, 5
        rep     movsb
        cld
        mov     si, 0x3000
        mov     di, 0x3005
        mov     cx, 5
        repe    cmpsb
        mov     bx, cx
        mov     al, 'l'
        mov     di, 0x3000
        mov     cx, 10
        repne   scasb
        mov     dx, di
        pop     di
        mov     ax, bx
        stosw
        mov     ax, dx
        stosw
        ; Decimal adjustment.
        mov     al, 0x79
        add     al, 0x35
        daa
        stosw
        mov     al, 0x12
        sub     al, 0x35
        das
        stosw
        mov     ax, 0x0309
        add     al, 8
        aaa
        stosw
        mov     ax, 0x0302
        sub     al, 8
        aas
        stosw
        mov     al, 0x63
        aam
        stosw
        mov     ax, 0x0905
        aad
        stosw
        stc
        db      0xd6                    ; SALC
        stosw
        ; 32-bit operands and addresses; far pointers; XLAT, LOOP.
        mov     eax, 0x12345678
        mov     esi, 0x3100
        mov     [esi], eax
        mov     ax, [si + 2]
        stosw
        les     bx, [0x3100]
        mov     ax, es
        push    0
        pop     es
        stosw
        mov     ax, bx
        stosw
        mov     bx, text
        mov     al, 4
        xlatb
        stosw
        mov     cx, 3
        xor     ax, ax
.loop:  inc     ax
        loop    .loop
        stosw
        jcxz    .zero
        inc     ax
.zero:  stosw
        call    0:far_routine
        stosw
        mov     ax, 0xfcff              ; all but TF and IF
        push    ax
        popf
        pushf
        pop     ax
        cli
        cld
        and     ax, 0xf02a              ; IOPL and NT can be set, bit 15 and bits 3 and 5 not, bit 1 always is
        stosw
        push    word 2
        popf
        pushfd
        pop     eax
        stosw
        smsw    ax
        stosw
        ; Back.
        mov     [own - 4], di
        lgdt    [gdt_pointer]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        jmp     dword CODE:protected

handler:
        mov     bp, sp
        mov     ax, [bp]
        sub     ax, after
        stosw                           ; 0: IP was behind the INT
        mov     ax, [bp + 2]
        stosw
        mov     ax, [bp + 4]
        stosw
        pushf
        pop     ax
        stosw
        iret
divide: mov     bp, sp
        mov     ax, [bp]
        sub     ax, at_div
        add     word [bp], 2
        iret
overflow:
        mov     ax, 0x4444
        iret
undefined:
        mov     bp, sp
        mov     ax, [bp]
        sub     ax, at_ud
        add     word [bp], 2
        iret
far_routine:
        mov     bp, sp
        mov     ax, [bp + 2]
        retf

        bits    32
protected:
        mov     eax, DATA
        mov     ss, eax
        mov     eax, USER_DATA
        mov     ds, eax
        mov     es, eax
        mov     esp, stack_top
        lidt    [idt_pointer]
        mov     esi, facts
        mov     ebx, names
.print: mov     al, ' '
        call    put
        push    esi
        mov     esi, ebx
        call    print
        mov     ebx, esi
        mov     al, '='
        call    put
        pop     esi
        lodsw
        movzx   eax, ax
        call    hex
        cmp     si, [own - 4]
        jb      .print
        finish

[section .data align=4]
ivt_pointer:
        dw      0x3ff
        dd      0
text:   db      "hello"
names:  db      "ip", 0, "cs", 0, "flags", 0, "inside", 0, "back", 0, "de", 0, "into", 0, "ud", 0
        db      "wrap", 0, "hma", 0, "sp", 0, "stack", 0, "cmps", 0, "scas", 0
        db      "daa", 0, "das", 0, "aaa", 0, "aas", 0, "aam", 0, "aad", 0, "salc", 0
        db      "wide", 0, "es", 0, "bx", 0, "xlat", 0, "loop", 0, "jcxz", 0, "far", 0
        db      "popf", 0, "pushfd", 0, "msw", 0
__?SECT?__
