; Back and forth between protected and real mode: segments that keep their limits in real mode ("unreal"), big
; code, D bits, 16-bit protected mode, and what a reload brings back. SDM vol. 3 §9.9, §20.1.

%include "pc.inc"

CODE16  equ FREE
DATA16  equ FREE + 8
SMALL   equ FREE + 16           ; data, limit 0xfff

main:   say     "unreal:"
        descriptor CODE16, 0x00009b000000ffff
        descriptor DATA16, 0x000093000000ffff
        descriptor SMALL,  0x0000930000000fff
        mov     dword [0x200000], 0x600df00d
        mov     dword [own + 0x100], 0
        mov     eax, USER_DATA                  ; limits of 4 GiB
        mov     fs, eax
        mov     eax, SMALL
        mov     gs, eax
        mov     eax, DATA16
        mov     ds, eax
        mov     es, eax
        mov     ss, eax
        jmp     CODE16:.bits16
        bits    16
.bits16:
        ; 16-bit protected mode: SP and IP are 16 bits wide.
        mov     esp, 0x1234_9000
        push    ax
        mov     ebx, esp                        ; the upper half stays
        pop     ax
        mov     esp, stack_top
        mov     [own], ebx
        mov     eax, cr0
        and     al, ~1
        mov     cr0, eax
        mov     ax, 1                           ; real mode already, with the old CS
        mov     [own + 4], ax
        jmp     0:.real
.real:  xor     ax, ax
        mov     ss, ax
        mov     ds, ax
        mov     word [13 * 4], fault13
        mov     word [13 * 4 + 2], 0
        mov     word [12 * 4], fault12
        mov     word [12 * 4 + 2], 0
        mov     word [6 * 4], fault6
        mov     word [6 * 4 + 2], 0
        lidt    [cs:ivt]
        ; FS has still 4 GiB.
        mov     ebx, 0x200000
        mov     eax, [fs:ebx]
        mov     [own + 8], eax
        ; Loading it in real mode changes the base, not the limit.
        mov     ax, 0x100
        mov     fs, ax
        mov     eax, [fs:ebx - 0x1000]
        mov     [own + 12], eax
        ; GS has a limit of 0xfff, which a load doesn't widen either.
        xor     ax, ax
        mov     gs, ax
        mov     word [own + 16], 0
        mov     word [own + 18], .gs - .gs_at
.gs_at: mov     al, [gs:0x1000]
.gs:    ; DS with 64 KiB: #GP beyond.
        mov     word [own + 18], .ds - .ds_at
.ds_at: mov     eax, [ds:ebx]
.ds:    mov     bx, 0xfffd
        mov     word [own + 18], .wrap - .wrap_at
.wrap_at: mov   eax, [bx]
.wrap:  mov     word [own + 18], .ss - .ss_at
        mov     ebp, 0x10000
.ss_at: mov     al, [ebp]
.ss:    ; Instructions that are not known in real mode.
        mov     word [own + 18], .lldt - .lldt_at
.lldt_at: lldt  ax
.lldt:  mov     word [own + 18], .verr - .verr_at
.verr_at: verr  ax
.verr:  mov     ax, [own + 16]
        mov     [own + 20], ax
        ; A vector beyond IDTR's limit is #GP.
        lidt    [cs:short_ivt]
        mov     word [own + 16], 0
        mov     word [own + 18], .int - .int_at
.int_at: int    0x40
.int:   mov     ax, [own + 16]
        mov     [own + 24], ax
        ; LMSW into protected mode: CS stays as it is until a jump.
        lgdt    [cs:gdt_pointer]
        smsw    ax
        or      al, 1
        lmsw    ax
        mov     bx, cs
        mov     [own + 28], bx
        jmp     dword CODE:back
        bits    32
back:   mov     eax, DATA
        mov     ss, eax
        mov     eax, USER_DATA
        mov     ds, eax
        mov     es, eax
        mov     fs, eax
        mov     gs, eax
        mov     esp, stack_top
        lidt    [idt_pointer]
        fact    "esp16", [own]
        fact    "oldcs", [own + 4]
        fact    "big", [own + 8]
        fact    "bigbase", [own + 12]
        fact    "faults", [own + 20]
        fact    "int", [own + 24]
        fact16  "cs", [own + 28]
        finish

        bits    16
fault13:
        push    ax
        mov     ax, [cs:own + 16]
        shl     ax, 2
        or      ax, 1
        jmp     skip
fault12:
        push    ax
        mov     ax, [cs:own + 16]
        shl     ax, 2
        or      ax, 2
        jmp     skip
fault6: push    ax
        mov     ax, [cs:own + 16]
        shl     ax, 2
        or      ax, 3
skip:   mov     [cs:own + 16], ax
        push    bp
        mov     bp, sp
        mov     ax, [cs:own + 18]
        add     [bp + 4], ax
        pop     bp
        pop     ax
        iret
        bits    32

[section .data align=4]
ivt:    dw      0x3ff
        dd      0
short_ivt:
        dw      0xff
        dd      0
__?SECT?__
