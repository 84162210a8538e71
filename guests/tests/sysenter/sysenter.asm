; SYSENTER and SYSEXIT in 32-bit protected mode and in 64-bit mode, and their faults. SDM vol. 2.

%include "pc.inc"
%include "long.inc"

main:   say     "sysenter:"
        user    "null", sysenter                ; SYSENTER_CS is 0: #GP
        mov     ecx, user_stack
        mov     edx, back32
        try     "nullexit", sysexit
        user    "userexit", sysexit
        set_msr 0x174, 0, FREE                  ; SS is 8 above, ring 3's CS 16, its SS 24
        set_msr 0x175, 0, ring0_stack
        set_msr 0x176, 0, entry32
        descriptor FREE, FLAT_CODE
        descriptor FREE + 8, FLAT_DATA
        descriptor FREE + 16, FLAT_CODE | DPL3
        descriptor FREE + 24, FLAT_DATA | DPL3
        descriptor FREE + 32, LONG_CODE | DPL3  ; of SYSEXIT to 64-bit mode, and its SS
        descriptor FREE + 40, FLAT_DATA | DPL3
        mov     dword [user_flags], 0x202
        user    "done", sysenter
        mov     dword [user_flags], 2
        fact    "cs", [own]
        fact    "ss", [own + 4]
        fact    "esp", [own + 8]
        fact    "flags", [own + 12]             ; IF is off
        fact    "backcs", [t_cs]
        fact    "backsp", [t_sp]
        jmp     go_long
entry32:
        mov     [own + 8], esp
        mov     eax, cs
        mov     [own], eax
        mov     eax, ss
        mov     [own + 4], eax
        pushfd
        pop     eax
        and     eax, 0x202
        mov     [own + 12], eax
        mov     edx, back32
        mov     dword [t_start], back32
        mov     ecx, 0x6800
        sysexit
back32: int     DONE

go_long:
        enter_long
        mov     ecx, 0x175
        mov     edx, 0x00001234
        mov     eax, 0x56780000
        wrmsr
        mov     ecx, 0x175
        xor     eax, eax
        xor     edx, edx
        rdmsr
        shl     rdx, 32
        or      rax, rdx
        fact    "wide", rax
        set_msr 0x175, 0, ring0_stack
        set_msr 0x176, 0, entry64
        user    "done64", sysenter
        fact    "cs64", [own]
        fact    "ss64", [own + 8]
        fact    "rsp64", [own + 16]
        fact    "backcs64", [t_cs]
        fact    "backsp64", [t_sp]
        mov     rdx, 1 << 47
        mov     ecx, user_stack
        try     "badrip", o64 sysexit
        finish
entry64:
        mov     [own + 16], rsp
        mov     eax, cs
        mov     [own], rax
        mov     eax, ss
        mov     [own + 8], rax
        mov     edx, back64
        mov     dword [t_start], back64
        mov     ecx, 0x6800
        o64 sysexit
back64: int     DONE
        bits    32
