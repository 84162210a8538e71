; A boot sector that calls what a BIOS offers, and tells what came back. The sector reads the rest of it by INT 13h.

COM1            equ 0x3f8
DEBUG_EXIT      equ 0xf4
SECTORS         equ 8
HIGH            equ 0x200000

        org     0x7c00
        bits    16

; fact "name", value
%macro  fact 2
        push    ax
        pushf
        push    si
        push    %2
        mov     si, %%name
        call    print
        pop     ax
        call    hex
        pop     si
        popf
        pop     ax
        jmp     %%on
%%name: db      " ", %1, "=", 0
%%on:
%endmacro

; carry "name": 1 where the call failed
%macro  carry 1
        setc    [result]
        fact    %1, word [result]
%endmacro

start:  xor     ax, ax
        mov     ds, ax
        mov     es, ax
        cld
        mov     [drive], dl
        mov     ax, 0x0200 | SECTORS - 1
        mov     bx, 0x9000                      ; not behind the sector, where a loader may have put it already
        mov     cx, 2
        mov     dh, 0
        int     0x13
        jc      .failed
        mov     si, 0x9000
        mov     di, 0x7e00
        mov     cx, (SECTORS - 1) * 256
        rep     movsw
        jmp     further
.failed:
        mov     al, 1
        out     DEBUG_EXIT, al
        hlt

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
hex:    push    cx
        mov     cx, 4
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
        pop     cx
        ret

drive:  dw      0               ; and head 0
result: dw      0
packet: db      16, 0
        dw      1, 0x9000, 0
        dq      SECTORS - 1
        times   510 - ($ - $$) db 0
        dw      0xaa55

further:
        mov     si, head
        call    print

        mov     ax, 0x0201                      ; the last sector, by cylinder, head and sector
        mov     bx, 0x9000
        mov     cx, SECTORS
        mov     dx, [drive]
        int     0x13
        carry   "read"
        fact    "last", word [0x91fe]
        mov     ax, 0x0201                      ; there is no sector 0
        mov     cx, 0
        mov     dx, [drive]
        int     0x13
        carry   "sector0"
        mov     word [0x9000], 0xfeed           ; written, and read again
        mov     ax, 0x0301
        mov     bx, 0x9000
        mov     cx, SECTORS - 1
        mov     dx, [drive]
        int     0x13
        carry   "write"
        mov     word [0x9000], 0
        mov     ax, 0x0201
        mov     bx, 0x9000
        mov     cx, SECTORS - 1
        mov     dx, [drive]
        int     0x13
        fact    "written", word [0x9000]
        mov     ah, 0x41
        mov     bx, 0x55aa
        mov     dl, [drive]
        int     0x13
        carry   "edd"
        fact    "eddbx", bx
        mov     word [0x91fe], 0
        mov     ah, 0x42
        mov     si, packet
        mov     dl, [drive]
        int     0x13
        carry   "eddread"
        fact    "eddlast", word [0x91fe]
        mov     dword [packet + 8], 0x1000000   ; beyond the end
        mov     ah, 0x42
        mov     si, packet
        mov     dl, [drive]
        int     0x13
        carry   "beyond"
        mov     word [0x9000], 26
        mov     ah, 0x48
        mov     si, 0x9000
        mov     dl, [drive]
        int     0x13
        fact    "size", word [0x9010]
        fact    "bytes", word [0x9018]
        mov     ah, 0x08
        mov     dl, [drive]
        xor     di, di
        int     0x13
        carry   "parameters"
        mov     dh, 0
        fact    "disks", dx
        mov     ah, 2                           ; a drive that isn't there
        mov     al, 1
        mov     cx, 1
        mov     dx, 0x83
        int     0x13
        carry   "nodrive"

        int     0x12
        fact    "low", ax
        mov     ah, 0x88
        int     0x15
        cmp     ax, 14 << 10
        setae   [result]
        fact    "extended", word [result]
        xor     ebx, ebx                        ; memory from 1 MiB on, in MiB, by the map
        mov     di, 0x9000
.map:   mov     eax, 0xe820
        mov     edx, 'PAMS'
        mov     ecx, 20
        int     0x15
        jc      .mapped
        cmp     dword [di], 0x100000
        jne     .next
        fact    "kind", word [di + 16]
        mov     eax, [di + 8]
        shr     eax, 20
        fact    "mib", ax
.next:  test    ebx, ebx
        jnz     .map
.mapped:
        mov     word [0x9000], 0xcafe           ; to beyond 1 MiB and back
        mov     dword [0xa012], 0x93000000 | 0x9000
        mov     dword [0xa01a], 0x93000000 | HIGH
        call    move
        carry   "up"
        mov     word [0x9000], 0
        mov     dword [0xa01a], 0x93000000 | 0x9000
        mov     dword [0xa012], 0x93000000 | HIGH
        call    move
        carry   "down"
        fact    "moved", word [0x9000]
        mov     ax, 0xec00                      ; nobody has this one
        int     0x15
        carry   "unknown"

        mov     ax, 3
        int     0x10
        mov     ah, 0x0f
        int     0x10
        fact    "mode", ax
        mov     ax, 0x0e41                      ; A, then to the next row's start, then B
        int     0x10
        mov     ax, 0x0e0d
        int     0x10
        mov     ax, 0x0e0a
        int     0x10
        mov     ax, 0x0e42
        int     0x10
        mov     ah, 3
        mov     bh, 0
        int     0x10
        fact    "cursor", dx
        mov     ax, 0xb800
        mov     es, ax
        fact    "first", word [es:0]
        fact    "second", word [es:160]
        mov     ax, 0x0601                      ; up by a row
        mov     bh, 0x17
        xor     cx, cx
        mov     dx, 24 << 8 | 79
        int     0x10
        fact    "scrolled", word [es:0]
        fact    "blank", word [es:24 * 160]
        mov     ax, 0x0702                      ; a window down by two
        mov     bh, 0x07
        xor     cx, cx
        mov     dx, 5 << 8 | 10
        int     0x10
        fact    "lowered", word [es:320]
        fact    "emptied", word [es:0]
        mov     ah, 2
        mov     bh, 0
        mov     dx, 24 << 8 | 79
        int     0x10
        mov     ax, 0x0e43                      ; at the screen's end: scrolls
        int     0x10
        fact    "wrapped", word [es:24 * 160 - 2]
        mov     ah, 2
        xor     dx, dx
        int     0x10
        mov     ax, 0x0944
        mov     bx, 0x1e
        mov     cx, 3
        int     0x10
        mov     ah, 0x08
        int     0x10
        fact    "char", ax
        fact    "third", word [es:4]
        xor     ax, ax
        mov     es, ax
        mov     ax, 0x1301
        mov     bx, 0x2f
        mov     cx, 2
        mov     dx, 10 << 8
        mov     bp, string
        int     0x10
        mov     ax, 0xb800
        mov     es, ax
        fact    "string", word [es:1602]
        xor     ax, ax
        mov     es, ax

        mov     ah, 1
        int     0x16
        setz    [result]
        fact    "nokey", word [result]
        mov     ah, 0x12                        ; Ctrl, Alt and shift keys, which nobody holds
        int     0x16
        and     ax, 0x0f0f
        fact    "held", ax
        mov     ah, 5
        mov     cx, 0x1e61
        int     0x16
        mov     ah, 0
        fact    "pushed", ax
        mov     ah, 1
        int     0x16
        setz    [result]
        fact    "nokeynow", word [result]
        mov     ah, 0
        int     0x16
        fact    "key", ax

        mov     ah, 0                           ; the clock ticks by itself
        int     0x1a
        mov     bx, dx
.tick:  hlt
        mov     ah, 0
        int     0x1a
        cmp     dx, bx
        je      .tick
        sub     dx, bx
        cmp     dx, 0x100                       ; one, or a few where the host was busy
        setb    [result]
        fact    "ticks", word [result]
        mov     ah, 2
        int     0x1a
        carry   "clock"
        mov     cx, 0
        mov     dx, 20000
        mov     ah, 0x86
        int     0x15
        carry   "wait"
        int     0x11
        and     ax, 0x30
        fact    "equipment", ax
        mov     al, 10
        call    put
        xor     al, al
        out     DEBUG_EXIT, al
        hlt

move:   mov     word [0xa010], 0xffff
        mov     word [0xa018], 0xffff
        mov     ah, 0x87
        mov     cx, 1
        mov     si, 0xa000
        int     0x15
        ret

head:   db      "boot-bios:", 0
string: db      "xy"
        times   512 * SECTORS - 2 - ($ - $$) db 0
        dw      0x5ec8
