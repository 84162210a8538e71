; FXSAVE and FXRSTOR: the image of x87 and XMM registers, 64-bit and 32-bit forms, alignment, MXCSR's checks,
; the abridged tag, and MMX's place in it. SDM vol. 1 §10.5, vol. 2 (FXSAVE).

%include "pc.inc"
%include "long.inc"

AREA    equ own + 0x200         ; 0x2680: 16-byte aligned
BACK    equ own + 0x400

main:   say     "fxsave:"
        enter_long
        mov     rax, cr4
        or      eax, 3 << 9
        mov     cr4, rax
        mov     rax, cr0
        and     eax, ~(1 << 2 | 1 << 3)
        mov     cr0, rax
        mov     edi, AREA
        mov     ecx, 512
        mov     al, 0xcc
        rep     stosb
        fninit
        fld1
        fldpi
        mov     rax, 0x1122334455667788
        movq    xmm0, rax
        movq    xmm15, rax
        o64 fxsave [AREA]
        fact16  "fcw", [AREA]
        fact16  "fsw", [AREA + 2]
        fact8   "ftw", [AREA + 4]
        fact32  "mxcsr", [AREA + 24]
        fact16  "mask", [AREA + 28]
        fact    "st0", [AREA + 32]
        fact16  "st0exp", [AREA + 40]
        fact    "st1", [AREA + 48]
        fact    "xmm0", [AREA + 160]
        fact    "xmm15", [AREA + 400]
        fact    "rest", [AREA + 416]            ; not written
        fact    "free", [AREA + 464]
        ; Back, after all was changed.
        fninit
        pxor    xmm0, xmm0
        pxor    xmm15, xmm15
        o64 fxrstor [AREA]
        movq    rax, xmm15
        fact    "back15", rax
        fistp   dword [own]
        fact32  "backst", [own]
        fnstsw  ax
        fact16  "backsw", ax
        try     "odd", fxsave [AREA + 8]
        try     "oddrstor", fxrstor [AREA + 8]
        mov     dword [AREA + 24], 1 << 31 | 0x1f80
        try     "badmxcsr", fxrstor [AREA]
        mov     dword [AREA + 24], 0x1f80
        ; A changed image.
        mov     byte [AREA + 4], 0x01
        mov     word [AREA + 2], 0x0000
        mov     dword [AREA + 24], 0x3f80
        fxrstor [AREA]
        fnstenv [BACK]
        fact16  "tag", [BACK + 8]
        stmxcsr [BACK]
        fact32  "newmxcsr", [BACK]
        ; MMX: the registers are the x87's, the tag is full, TOP 0.
        fninit
        mov     rax, 0xdeadbeefcafef00d
        movq    mm3, rax
        fxsave  [AREA]
        fact8   "mmxtag", [AREA + 4]
        fact16  "mmxsw", [AREA + 2]
        fact    "mm3", [AREA + 32 + 48]
        fact16  "mm3exp", [AREA + 40 + 48]
        emms
        fxsave  [AREA]
        fact8   "emms", [AREA + 4]
        mov     rax, cr0
        or      eax, 1 << 3
        mov     cr0, rax
        try     "ts", fxsave [AREA]
        clts
        mov     rbx, 0x123456789000
        try     "pf", fxsave [rbx]
        user    "user", fxsave [AREA]
        finish
        bits    32
