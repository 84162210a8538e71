; SYSCALL and SYSRET in 64-bit mode: registers, flags and masks, selectors, to 64-bit and to compatibility
; mode, with TF, and their faults. SDM vol. 2 (SYSCALL, SYSRET).

%include "pc.inc"
%include "long.inc"

STAR    equ 0xc0000081
LSTAR   equ 0xc0000082
FMASK   equ 0xc0000084
EFER    equ 0xc0000080

main:   say     "syscall:"
        enter_long
        try     "nosce", syscall
        try     "nosysret", o64 sysret
        mov     ecx, EFER
        rdmsr
        or      eax, 1
        wrmsr
        set_msr LSTAR, 0, entry
        set_msr FMASK, 0, 1 << 10 | 1 << 0      ; DF and CF go
        set_msr STAR, 0x00200008, 0             ; SYSRET's base 0x20, SYSCALL's 0x08
        descriptor CODE, LONG_CODE              ; SYSCALL's CS must be 64-bit code
        ; From ring 3.
        mov     dword [user_flags], 0x8d7 & ~(1 << 8) | 1 << 10
        user    "ring3", syscall
        mov     rax, [own]
        sub     rax, [t_start]
        fact    "rcx", rax                      ; behind the SYSCALL
        fact    "r11", [own + 8]
        fact    "cs", [own + 16]
        fact    "ss", [own + 24]
        fact    "flags", [own + 32]
        fact    "rsp", [own + 40]
        fact    "retcs", [t_cs]
        fact    "retflags", [t_flags]
        ; From ring 0: it returns there by a jump.
        mov     qword [own + 48], 1
        mov     dword [user_flags], 2
        syscall
zero:   mov     rax, rcx
        sub     rax, zero
        fact    "ring0", rax
        mov     qword [own + 48], 0
        ; SYSRET to an address that isn't canonical.
        mov     rcx, 1 << 47
        mov     r11d, 2
        try     "badrcx", o64 sysret
        user    "usysret", o64 sysret
        ; SYSRET to compatibility mode.
        trial_of "compat", compat, compat_after
        mov     ecx, compat
        mov     r11d, 2
        mov     rbx, -1
        mov     esp, user_stack
        sysret
        bits    32
compat: mov     ebx, cs
        mov     [own + 16], ebx
        mov     ebx, ss
        mov     [own + 24], ebx
        int     DONE
        bits    64
compat_after:
        call    told64
        fact32  "ccs", [own + 16]
        fact32  "css", [own + 24]
        ; RF and VM of R11 don't come back, IF and AC do.
        trial_of "back", at_r11, r11_after
        mov     ecx, at_r11
        mov     r11d, 1 << 17 | 1 << 16 | 1 << 18 | 1 << 9 | 1 << 5 | 2
        mov     esp, user_stack
        o64 sysret
at_r11: int     DONE
r11_after:
        call    told64
        mov     rax, [t_flags]
        fact    "r11flags", rax
        finish

entry:  mov     [own], rcx
        mov     [own + 8], r11
        pushfq
        pop     qword [own + 32]
        mov     [own + 40], rsp
        mov     eax, cs
        mov     [own + 16], rax
        mov     eax, ss
        mov     [own + 24], rax
        cld
        cmp     qword [own + 48], 0
        jne     .ring0
        o64 sysret
.ring0: jmp     rcx
        bits    32
