; The x87 and SSE where a translator is not at ease: operands in memory in real mode and in virtual-8086 mode,
; under single steps, with a breakpoint armed, in segments with a base, in 16-bit forms. SDM vol. 1 §8, §10.

%include "pc.inc"
%include "long.inc"

BASED   equ FREE
CODE16  equ FREE + 8
DATA16  equ FREE + 16
COUNT   equ own + 0x40

main:   say     "fpumodes:"
        mov     eax, cr0
        and     eax, ~(1 << 2 | 1 << 3)
        or      eax, 1 << 5 | 1 << 1
        mov     cr0, eax
        descriptor BASED, 0x004093030000_0fff
        descriptor CODE16, 0x00009b000000ffff
        descriptor DATA16, 0x000093000000ffff
        ; A segment with a base and a limit.
        mov     eax, BASED
        mov     fs, eax
        fninit
        fldpi
        mov     ebx, 0x10
        fstp    dword [fs:ebx + 8]
        fact    "based", [0x30018]
        fldpi
        try     "limit", fst qword [fs:0xffc]
        fild    dword [fs:ebx + 8]
        fistp   dword [own]
        fact    "fild", [own]
        fninit
        ; Under single steps.
        gate    1, debug
        mov     dword [own], 7
        mov     esi, own
        pushfd
        or      dword [esp], 1 << 8
        popfd
        fild    dword [esi]
        fiadd   dword [esi]
        fistp   dword [esi + 4]
        fnstcw  [esi + 8]
        pushfd
        and     dword [esp], ~(1 << 8)
        popfd
        fact    "stepped", [own + 4]
        fact    "steps", [COUNT]
        fact16  "cw", [own + 8]
        ; With a breakpoint armed, on what an instruction stores to.
        mov     dword [COUNT], 0
        mov     eax, own + 4
        mov     dr0, eax
        mov     eax, 2 | 1 << 16 | 3 << 18
        mov     dr7, eax
        fild    dword [esi]
        fistp   dword [esi + 12]
        xor     eax, eax
        mov     dr7, eax
        fact    "armed", [own + 12]
        ; Virtual-8086 mode.
        mov     dword [0x10020], 0x40490fdb     ; pi
        trial_of "v86", v86, v86_after
        push    dword 0
        push    dword 0
        push    dword 0x1000                    ; DS
        push    dword 0
        push    dword 0x700
        push    dword 0x800
        push    dword 1 << 17 | 3 << 12 | 2
        push    dword 0
        push    dword v86
        iretd
        bits    16
v86:    fld     dword [0x20]
        fistp   word [0x24]
        fnstcw  [bx + 0x26]
        int     DONE
        bits    32
v86_after:
        call    told
        fact    "v86is", [0x10024]
        ; Real mode, with 16-bit addresses and 16-bit environments.
        mov     eax, DATA16
        mov     ds, eax
        mov     es, eax
        mov     ss, eax
        jmp     CODE16:.bits16
        bits    16
.bits16:
        mov     eax, cr0
        and     al, ~1
        mov     cr0, eax
        jmp     0:.real
.real:  xor     ax, ax
        mov     ds, ax
        mov     ss, ax
        mov     ax, 0x3000
        mov     es, ax
        fninit
        mov     word [own], 1234
        mov     bx, own
        xor     si, si
        fild    word [bx + si]
        fadd    st0
        fistp   word [es:0x30]
        fldpi
        fstp    tword [bx + 16]
        fnstenv [own + 0x20]                    ; 14 bytes
        mov     ebx, own
        fnstcw  [ebx + 0x30]
        fnstsw  [bx + 0x32]
        lgdt    [cs:gdt_pointer]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        jmp     dword CODE:back
        bits    32
back:   mov     eax, DATA
        mov     ss, eax
        mov     eax, USER_DATA
        mov     ds, eax
        mov     es, eax
        mov     fs, eax
        mov     esp, stack_top
        fact16  "real", [0x30030]
        fact    "tword", [own + 20]
        fact16  "env", [own + 0x20]
        fact16  "envtag", [own + 0x24]
        fact16  "cw16", [own + 0x30]
        fact16  "sw16", [own + 0x32]
        ; SSE in 64-bit mode under single steps.
        enter_long
        mov     eax, debug64
        mov     [idt + 16], ax
        mov     rax, cr4
        or      eax, 3 << 9
        mov     cr4, rax
        mov     rax, 0x1122334455667788
        mov     [own + 0x100], rax
        mov     [own + 0x108], rax
        mov     esi, own + 0x100
        mov     dword [COUNT], 0
        pushfq
        or      dword [rsp], 1 << 8
        popfq
        movaps  xmm0, [rsi]
        paddb   xmm0, [rel operand_here]
        movups  [rsi + 0x11], xmm0
        movq    rax, xmm0
        cvtsi2sd xmm1, [rsi]
        pushfq
        and     dword [rsp], ~(1 << 8)
        popfq
        fact    "sse", [own + 0x111]
        fact    "ssesteps", [COUNT]
        movq    rax, xmm1
        fact    "cvt", rax
        finish

debug64:
        inc     dword [COUNT]
        iretq
        bits    32
debug:  inc     dword [COUNT]
        iretd

[section .data align=16]
        align   16
operand_here:
        times 16 db 1
__?SECT?__
