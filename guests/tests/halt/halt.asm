; HLT: woken by the PIT's tick, by an interrupt of the LAPIC's own, many times, in 64-bit mode and in ring 0
; only; the saved EIP is behind it. SDM vol. 2 (HLT).

%include "pc.inc"
%include "long.inc"

COUNT   equ own
EIP     equ own + 8

main:   say     "halt:"
        mov     al, 0x11                        ; the PICs, at 0x20 and 0x28
        out     PIC1, al
        out     PIC2, al
        mov     al, 0x20
        out     PIC1 + 1, al
        mov     al, 0x28
        out     PIC2 + 1, al
        mov     al, 4
        out     PIC1 + 1, al
        mov     al, 2
        out     PIC2 + 1, al
        mov     al, 1
        out     PIC1 + 1, al
        out     PIC2 + 1, al
        mov     al, 0xfe
        out     PIC1 + 1, al
        mov     dword [0xfee000f0], 0x1ff
        mov     dword [0xfee00350], 0x700       ; LINT0: ExtINT
        gate    0x20, tick
        mov     al, 0x34
        out     0x43, al
        mov     al, 1193182 / 1000 & 0xff
        out     0x40, al
        mov     al, 1193182 / 1000 >> 8
        out     0x40, al
        mov     ecx, 20
.next:  sti                                     ; it can only come while the CPU halts
        hlt
.halted:
        cli
        loop    .next
        mov     eax, [EIP]
        sub     eax, .halted
        fact    "eip", eax
        cmp     dword [COUNT], 20
        setae   al
        fact8   "woken", al
        user    "user", hlt
        enter_long
        gate    0x20, tick64
        mov     qword [COUNT], 0
        mov     ecx, 5
.next64:
        sti
        hlt
.halted64:
        cli
        loop    .next64
        mov     rax, [EIP]
        sub     rax, .halted64
        fact    "eip64", rax
        cmp     dword [COUNT], 5
        setae   al
        fact8   "woken64", al
        finish

tick64: push    rax
        mov     rax, [rsp + 8]
        mov     [EIP], rax
        inc     dword [COUNT]
        mov     al, 0x20
        out     PIC1, al
        pop     rax
        iretq
        bits    32
tick:   push    eax
        mov     eax, [esp + 4]
        mov     [EIP], eax
        inc     dword [COUNT]
        mov     al, 0x20
        out     PIC1, al
        pop     eax
        iretd
