; Who may change which flags: POPF, IRET, CLI, STI by ring and IOPL, reserved bits, SAHF, ID and AC, port
; access by IOPL and by the bitmap, PVI. SDM vol. 1 §3.4.3, vol. 2 (POPF), vol. 1 §18.5.

%include "pc.inc"

IOPL1   equ 1 << 12
IOPL3   equ 3 << 12

main:   say     "flags:"
        push    dword -1 & ~(1 << 8 | 1 << 9)   ; not TF and IF
        popfd
        pushfd
        pop     eax
        fact    "all", eax                      ; NT, IOPL, AC, ID; never VM, VIP, VIF
        push    dword 0
        popfd
        pushfd
        pop     eax
        fact    "none", eax
        push    word 0xffff & ~(3 << 8)
        popfw
        pushfd
        pop     eax
        fact    "word", eax
        push    dword 1 << 18 | 2
        popfd
        push    word 2
        popfw
        pushfd
        pop     eax
        fact    "keepsac", eax                  ; 16 bits leave the upper ones
        push    dword 1 << 16 | 2
        popfd
        pushfd
        pop     eax
        fact    "rf", eax                       ; POPF clears RF
        mov     ah, 0xff
        sahf
        lahf
        mov     bl, ah
        fact8   "sahf", bl
        xor     eax, eax
        sahf
        lahf
        mov     bl, ah
        fact8   "sahf0", bl
        ; Ring 3 with IOPL 0: POPF changes neither IF nor IOPL, and says nothing.
        mov     dword [user_flags], 2
        mov     edi, do_popf
        user    "popf", call edi
        fact    "after", [own]
        mov     dword [user_flags], 0x202
        user    "popfif", call edi
        fact    "afterif", [own]
        mov     dword [user_flags], IOPL3 | 2
        user    "popf3", call edi
        fact    "after3", [own]
        mov     dword [user_flags], IOPL1 | 2
        user    "cli1", cli
        mov     dword [user_flags], IOPL3 | 2
        user    "cli3", cli
        user    "sti3", sti
        mov     eax, [t_flags]
        fact    "if3", eax
        user    "hlt3", hlt
        mov     edi, do_iret
        user    "iret3", call edi
        fact    "iretflags", [own]
        mov     dword [user_flags], 0x202
        user    "iret0", call edi
        fact    "iretif", [own]
        ; Ports.
        mov     dword [user_flags], 2
        user    "in", in al, 0x80
        user    "out", out 0x80, al
        user    "ins", insb
        mov     dword [user_flags], IOPL3 | 2
        user    "in3", in al, 0x80
        mov     dword [user_flags], 2
        mov     word [tss + 102], 104
        mov     edi, tss + 104
        mov     al, 0xff
        mov     ecx, 0x20
        rep     stosb
        mov     byte [tss + 104 + 16], 0xf0     ; ports 0x80 to 0x83
        descriptor TSS, 0x0000890000000088 | tss << 16
        mov     eax, TSS
        ltr     ax
        user    "map", in al, 0x80
        user    "map4", in eax, 0x80
        user    "map83", in ax, 0x83
        user    "map84", in al, 0x84
        user    "map7f", in al, 0x7f
        ; SMSW, STR, SIDT in ring 3; CLTS, LMSW not.
        user    "smsw", smsw eax
        user    "str", str eax
        user    "clts", clts
        user    "lmsw", lmsw ax
        user    "wbinvd", wbinvd
        user    "invd", invd
        user    "invlpg", invlpg [eax]
        user    "rdtsc", rdtsc
        mov     eax, cr4
        or      eax, 1 << 2                     ; TSD
        mov     cr4, eax
        user    "tsd", rdtsc
        try     "tsd0", rdtsc
        user    "rdpmc", rdpmc
        ; LMSW can set PE and not clear it.
        xor     eax, eax
        lmsw    ax
        smsw    eax
        fact    "lmsw0", eax
        mov     eax, 0xf                        ; MP, EM, TS
        lmsw    ax
        smsw    eax
        fact    "lmswf", eax
        clts
        mov     eax, 1
        lmsw    ax
        finish

do_popf:
        push    dword 0x202 | IOPL3 | 0xc0
        popfd
        pushfd
        pop     dword [own]
        push    dword 2 | IOPL3
        popfd
        ret
do_iret:
        push    dword 2 | IOPL1 | 1 << 14
        push    cs
        push    dword .on
        iretd
.on:    pushfd
        pop     dword [own]
        push    dword 2
        popfd
        ret
