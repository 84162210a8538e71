; Interrupts in 64-bit mode: the frame's alignment, stacks by IST, of ring 3 and of ring 0, double fault with
; a bad stack, gates' types, and what a wrong TSS does. SDM vol. 3 §6.14.

%include "pc.inc"
%include "long.inc"

IST1    equ 0x5000
IST2    equ 0x5800
SEEN    equ own + 0x40

main:   say     "ist:"
        enter_long
        mov     dword [tss + 36], IST1
        mov     dword [tss + 44], IST2 - 3      ; the CPU aligns it
        gate    0x40, note
        gate    0x41, note
        mov     byte [idt + 0x41 * 16 + 4], 1
        gate    0x42, note
        mov     byte [idt + 0x42 * 16 + 4], 2
        gate    0x43, note, TRAP32
        mov     esp, stack_top - 8 - 4
        sti
        int     0x40
        cli
        fact    "rsp", [SEEN]
        fact    "cs", [SEEN + 16]
        fact    "oldrsp", [SEEN + 32]
        fact    "oldss", [SEEN + 40]
        fact    "if", [SEEN + 48]
        mov     esp, stack_top
        int     0x41
        fact    "ist1", [SEEN]
        int     0x42
        fact    "ist2", [SEEN]
        sti
        int     0x43
        cli
        fact    "trapif", [SEEN + 48]
        or      byte [idt + 0x40 * 16 + 5], 0x60
        or      byte [idt + 0x41 * 16 + 5], 0x60
        user    "ring3", int 0x40
        fact    "stack3", [SEEN]
        fact    "ss3", [SEEN + 40]
        fact    "nowss", [SEEN + 56]
        user    "ring3ist", int 0x41
        fact    "stack3ist", [SEEN]
        ; A ring-0 fault with a stack that isn't mapped: #PF, #DF, which its IST saves.
        mov     byte [idt + 8 * 16 + 4], 1
        mov     rbx, 0x123400000000
        trial_of "df", df_at, df_after
        mov     rsp, rbx
df_at:  push    rax
df_after:
        mov     esp, stack_top
        call    told64
        fact    "dfsp", [t_sp]
        ; #SS with its own stack: RSP not canonical.
        mov     byte [idt + 12 * 16 + 4], 2
        mov     rbx, 1 << 62
        trial_of "ss", ss_at, ss_after
        mov     rsp, rbx
ss_at:  push    rax
ss_after:
        mov     esp, stack_top
        call    told64
        ; #PF by a wrong address with its IST, twice: the stack starts anew each time.
        mov     byte [idt + 14 * 16 + 4], 1
        mov     rbx, 0x123400000000
        try     "pf", mov al, [rbx]
        mov     byte [idt + 14 * 16 + 4], 0
        ; Gates.
        mov     byte [idt + 0x40 * 16 + 5], 0xed        ; no 64-bit gate type
        try     "type", int 0x40
        mov     byte [idt + 0x40 * 16 + 5], 0x6e
        try     "absent", int 0x40
        mov     byte [idt + 0x40 * 16 + 5], 0xee
        mov     word [idt + 0x40 * 16 + 2], DATA
        try     "data", int 0x40
        mov     word [idt + 0x40 * 16 + 2], CODE
        try     "code32", int 0x40
        mov     word [idt + 0x40 * 16 + 2], 0
        try     "null", int 0x40
        mov     word [idt + 0x40 * 16 + 2], CODE64
        mov     dword [idt + 0x40 * 16 + 8], 0x8000
        try     "offset", int 0x40
        finish

note:   mov     [SEEN], rsp
        push    rax
        mov     rax, [rsp + 16]
        mov     [SEEN + 16], rax
        mov     rax, [rsp + 32]
        mov     [SEEN + 32], rax
        mov     rax, [rsp + 40]
        mov     [SEEN + 40], rax
        pushfq
        pop     rax
        and     eax, 1 << 9
        mov     [SEEN + 48], rax
        mov     eax, ss
        mov     [SEEN + 56], rax
        pop     rax
        iretq
        bits    32
