; SSE in 64-bit mode: when it is #UD and #NM, #XM and MXCSR, alignment, masked results, reserved bits of MXCSR,
; page faults in the middle. SDM vol. 1 §10-11, vol. 3 §13.

%include "pc.inc"
%include "long.inc"

main:   say     "sse:"
        enter_long
        try     "noosfxsr", addps xmm0, xmm1
        mov     rax, cr4
        or      eax, 1 << 9                     ; OSFXSR
        mov     cr4, rax
        mov     rax, cr0
        and     eax, ~(1 << 2)
        or      eax, 1 << 1
        mov     cr0, rax
        try     "now", addps xmm0, xmm1
        stmxcsr [own]
        fact32  "mxcsr", [own]
        xorps   xmm0, xmm0
        mov     eax, 0x3f800000
        movd    xmm1, eax
        divss   xmm1, xmm0
        movd    eax, xmm1
        fact    "inf", rax
        stmxcsr [own]
        fact32  "ze", [own]
        mov     dword [own], 0x1d80             ; ZM off
        ldmxcsr [own]
        mov     eax, 0x3f800000
        movd    xmm1, eax
        try     "noxmm", divss xmm1, xmm0       ; #UD without CR4.OSXMMEXCPT
        mov     rax, cr4
        or      eax, 1 << 10
        mov     cr4, rax
        try     "xm", divss xmm1, xmm0
        movd    eax, xmm1
        fact    "kept", rax                     ; the operand isn't changed
        stmxcsr [own]
        fact32  "flags", [own]
        try     "next", addps xmm2, xmm2        ; nothing is pending
        mov     dword [own], 1 << 16 | 0x1f80
        try     "reserved", ldmxcsr [own]
        mov     dword [own], 0x1f80
        ldmxcsr [own]
        mov     esi, own + 0x100
        try     "aligned", movaps xmm3, [rsi]
        try     "unaligned", movaps xmm3, [rsi + 8]
        try     "unalignedw", movaps [rsi + 4], xmm3
        try     "movups", movups xmm3, [rsi + 4]
        try     "operand", addps xmm3, [rsi + 4]
        try     "scalar", addss xmm3, [rsi + 5]
        mov     rbx, 0x123456789ff8
        try     "pf", movups xmm3, [rbx]
        mov     rbx, 1 << 47
        try     "gp", movups xmm3, [rbx]
        mov     rax, 0x0123456789abcdef
        movq    xmm4, rax
        punpcklbw xmm4, xmm4
        movq    rcx, xmm4
        fact    "punpck", rcx
        pshufd  xmm5, xmm4, 0x1b
        movq    rcx, xmm5
        fact    "pshufd", rcx
        pmovmskb ecx, xmm4
        fact    "mask", rcx
        mov     rax, 0x4008000000000000         ; 3.0
        movq    xmm6, rax
        cvttsd2si rcx, xmm6
        fact    "cvt", rcx
        mov     rax, 0x7ff8000000000000
        movq    xmm6, rax
        cvttsd2si ecx, xmm6
        fact    "indefinite", rcx
        stmxcsr [own]
        fact32  "ie", [own]
        ucomisd xmm6, xmm6
        setp    al
        fact8   "unordered", al
        mov     rax, cr0
        or      eax, 1 << 3
        mov     cr0, rax
        try     "nm", addps xmm0, xmm1
        try     "nmld", ldmxcsr [own]
        clts
        mov     rax, cr0
        or      eax, 1 << 2
        mov     cr0, rax
        try     "em", addps xmm0, xmm1
        mov     rax, cr0
        and     eax, ~(1 << 2)
        mov     cr0, rax
        try     "lock", db 0xf0, 0x0f, 0x58, 0xc1
        user    "user", addps xmm0, xmm1
        finish
        bits    32
