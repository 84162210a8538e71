; String I/O: INS and OUTS of all sizes with and without REP, both directions, to the serial port and from the
; CMOS, their faults in the middle, and segment override of OUTS only. SDM vol. 2 (INS, OUTS).

%include "pc.inc"
%include "long.inc"

AREA    equ 0x40000000
TABLE   equ 0x30000
PAGES   equ 0x31000

main:   mov     dx, COM1
        mov     esi, head
        mov     ecx, head.end - head
        rep     outsb                           ; the line's beginning
        fact    "ecx", ecx
        mov     eax, esi
        sub     eax, head.end
        fact    "esi", eax
        ; The CMOS: the same register again and again.
        mov     al, 0x3e
        out     0x70, al
        mov     al, 0x5a
        out     0x71, al
        mov     edi, own + 0x100
        mov     dx, 0x71
        mov     ecx, 5
        rep     insb
        fact    "insb", [own + 0x100]
        fact8   "insb5", [own + 0x104]
        mov     eax, edi
        sub     eax, own + 0x100
        fact    "edi", eax
        std
        mov     edi, own + 0x107
        mov     ecx, 2
        rep     insb
        cld
        fact16  "back", [own + 0x106]
        mov     eax, edi
        sub     eax, own + 0x100
        fact    "ediback", eax
        ; POST codes: a port that takes all sizes.
        mov     dx, 0x80
        mov     esi, head
        mov     ecx, 3
        rep     outsw
        fact    "outsw", ecx
        outsd
        mov     eax, esi
        sub     eax, head
        fact    "after", eax
        mov     ecx, 0
        rep     outsb
        mov     eax, esi
        sub     eax, head
        fact    "none", eax
        mov     ecx, 0x10002
        mov     edi, own + 0x200
        a16 rep insb                            ; CX and DI: two turns
        fact    "cx", ecx
        ; The segment of OUTS can be another, INS writes to ES whatever is said.
        descriptor FREE, 0x00cf93000000ffff | 0x30000 << 16 | 0x3 << 32
        mov     eax, FREE
        mov     fs, eax
        mov     byte [0x30000 + 0x40], '!'
        mov     esi, 0x40
        mov     dx, COM1
        fs      outsb
        mov     al, 0x3e
        out     0x70, al
        mov     dx, 0x71
        mov     dword [own + 0x300], 0
        mov     edi, own + 0x300
        db      0x64
        insb
        fact8   "es", [own + 0x300]
        ; Ring 3 may not.
        user    "user", outsb
        user    "userrep", rep insb
        ; A fault in the middle leaves the registers where it came.
        mov     edi, TABLE
        xor     eax, eax
        mov     ecx, 0x800
        rep     stosd
        enter_long
        mov     qword [TABLE], PAGES | 7
        mov     qword [PDPT + 8], TABLE | 7
        mov     qword [PAGES], 0x40000 | 7
        mov     rax, cr3
        mov     cr3, rax
        mov     edi, AREA + 0xffd
        mov     ecx, 10
        mov     edx, 0x71
        try     "ins", rep insb
        fact    "insrcx", rcx
        mov     eax, edi
        fact    "insrdi", rax
        mov     esi, AREA + 0xffc
        mov     ecx, 10
        mov     edx, 0x80
        try     "outs", rep outsw
        fact    "outsrcx", rcx
        fact    "rsi", rsi
        mov     rsi, 1 << 47
        try     "canonical", outsb
        finish
        bits    32

[section .data align=4]
head:   db      "stringio: start=1"
.end:
__?SECT?__
