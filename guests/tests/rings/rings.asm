; Between rings and widths in 64-bit mode: IRETQ to ring 3, to compatibility mode and back, far jumps, CALL and
; RET, SWAPGS, segment bases, FSGSBASE, call gates of 16 bytes. SDM vol. 3 §5, vol. 2.

%include "pc.inc"
%include "long.inc"

GSBASE  equ 0xc0000101
KGSBASE equ 0xc0000102
FSBASE  equ 0xc0000100
GATE    equ FREE

%macro  base 2                  ; name, MSR
        mov     ecx, %2
        rdmsr
        shl     rdx, 32
        or      rax, rdx
        fact    %1, rax
%endmacro

main:   say     "rings:"
        enter_long
        set_msr GSBASE, 0x1234, 0x10000
        set_msr KGSBASE, 0, 0x30000
        mov     dword [0x30008], 0x600d
        swapgs
        fact32  "gs", [gs:8]
        base    "gsbase", GSBASE
        base    "kgsbase", KGSBASE
        set_msr FSBASE, 0, 0x30004
        fact32  "fs", [fs:4]
        mov     eax, USER_DATA
        mov     fs, eax
        base    "fsloaded", FSBASE
        set_msr FSBASE, 0, 0x30004
        try     "ds", mov eax, [0x30008]
        try     "wrfs", wrfsbase rax            ; CR4.FSGSBASE is off
        mov     rax, cr4
        or      eax, 1 << 16
        mov     cr4, rax
        mov     eax, 0x30008
        wrfsbase rax
        rdfsbase rcx
        fact    "wrfsbase", rcx
        mov     rdx, 1 << 47
        try     "badbase", wrfsbase rdx
        user    "urdfs", rdfsbase rcx
        fact    "urcx", rcx
        ; IRETQ to ring 3, and what is there.
        user    "ring3", mov eax, cs
        fact    "cs3", rax
        ; IRETQ in ring 0: SS and RSP are always popped.
        mov     rbx, rsp
        push    0                               ; SS: null, allowed in ring 0
        push    0x7800
        push    2
        push    CODE64
        push    iret0
        iretq
iret0:  mov     rax, rsp
        mov     ecx, ss
        mov     rsp, rbx
        fact    "rsp0", rax
        fact    "ss0", rcx
        push    0
        push    user_stack
        push    2
        push    USER_CODE64
        push    iret0
        try     "nullss", iretq                 ; not in ring 3
        mov     rsp, rbx
        push    USER_DATA
        mov     rax, 1 << 47
        push    user_stack
        push    2
        push    USER_CODE64
        push    rax
        try     "badrip", iretq
        mov     rsp, rbx
        push    DATA
        push    user_stack
        push    1 << 17 | 2                     ; VM means nothing here
        push    CODE64
        push    iretvm
        iretq
iretvm: mov     rsp, rbx
        pushfq
        pop     rax
        fact    "vm", rax
        ; Compatibility mode in ring 3: 32-bit code, flat.
        trial_of "compat", compat, compat_after
        push    USER_DATA
        push    user_stack
        push    2
        push    USER_CODE
        push    compat
        mov     rax, -1
        mov     r8, 0x1122334455667788
        iretq
        bits    32
compat: inc     eax                             ; no REX prefix here
        mov     [own], eax
        mov     eax, 0x12345678
        push    eax
        mov     [own + 8], esp
        aam                                     ; valid here
        int     DONE
        bits    64
compat_after:
        mov     r9, r8
        call    told64
        fact    "inc", [own]
        fact    "esp", [own + 8]
        fact    "r8", r9
        ; Compatibility mode in ring 0 by a far jump, and back.
        jmp     far dword [to_32]
        bits    32
in_32:  mov     ebx, cs
        jmp     CODE64:in_64
        bits    64
in_64:  mov     esp, stack_top
        fact    "cs32", rbx
        ; A call gate: 16 bytes, to 64-bit code, from ring 3.
        mov     eax, gated
        mov     [gdt + GATE], ax
        mov     word [gdt + GATE + 2], CODE64
        mov     word [gdt + GATE + 4], 0xec00
        shr     eax, 16
        mov     [gdt + GATE + 6], ax
        mov     qword [gdt + GATE + 8], 0
        user    "gate", call far dword [to_gate]
        fact    "gatecs", [own]
        fact    "gaters", [own + 8]
        fact    "gatess", [own + 16]
        fact    "gaterip", [own + 24]
        mov     word [gdt + GATE + 2], CODE
        user    "gate32", call far dword [to_gate]
        mov     word [gdt + GATE + 2], CODE64
        mov     dword [gdt + GATE + 12], 0x1f00
        user    "gatetype", call far dword [to_gate]
        ; RETF to ring 3.
        trial_of "retf", retf3, retf3_after
        push    USER_DATA
        push    user_stack
        push    USER_CODE64
        push    retf3
        o64 retf
retf3:  mov     eax, cs
        int     DONE
retf3_after:
        call    told64
        fact    "retfcs", rax
        descriptor FREE + 16, LONG_CODE | 1 << 54       ; L and D both
        try     "ld", jmp far dword [to_ld]
        finish

gated:  mov     eax, cs
        mov     [own], rax
        mov     [own + 8], rsp
        mov     eax, ss
        mov     [own + 16], rax
        mov     rax, [rsp]
        sub     rax, [t_start]
        mov     [own + 24], rax
        o64 retf
        bits    32

[section .data align=8]
        align   8
to_32:  dd      in_32
        dw      CODE, 0
to_gate: dd     0
        dw      GATE | 3, 0
to_ld:  dd      0
        dw      FREE + 16, 0
__?SECT?__
