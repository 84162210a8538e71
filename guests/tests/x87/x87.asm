; The x87: exceptions that wait for the next instruction, #MF and masked results, stack faults, the status and
; tag words, precision and rounding, environment and state in memory, FWAIT with TS and MP. SDM vol. 1 §8.

%include "pc.inc"

%macro  sw 1
        fnstsw  ax
        fact16  %1, ax
%endmacro

main:   say     "x87:"
        mov     eax, cr0
        and     eax, ~(1 << 2 | 1 << 3)
        or      eax, 1 << 5 | 1 << 1            ; NE, MP
        mov     cr0, eax
        fninit
        sw      "init"
        fnstcw  [own]
        fact16  "cw", [own]
        fld1
        fldz
        fdiv                                    ; masked: infinity, ZE
        sw      "zero"
        fstp    dword [own]
        fact    "inf", [own]
        fnclex
        fldz
        fldz
        fdiv
        fstp    qword [own]
        fact    "nan", [own + 4]                ; the indefinite NaN
        sw      "invalid"
        fninit
        fstp    dword [own]                     ; empty: underflow of the stack
        sw      "under"
        fninit
        mov     ecx, 9
.push:  fldz
        loop    .push
        sw      "over"
        fnstenv [own]
        fact16  "tag", [own + 8]
        fninit
        ; Unmasked: the next one faults.
        mov     word [own], 0x37b               ; ZE
        fldcw   [own]
        fld1
        fldz
        try     "pending", fdivp
        try     "mf", fld1
        sw      "es"
        try     "fwait", fwait
        try     "nowait", fnop
        try     "fnclex", fnclex
        try     "after", fld1
        fninit
        ; Constants, arithmetic, rounding.
        fldpi
        fistp   dword [own]
        fact    "pi", [own]
        mov     word [own + 8], 0xf7f           ; to zero
        fldcw   [own + 8]
        fldl2t
        fadd    st0
        fistp   dword [own]
        fact    "chop", [own]
        mov     word [own + 8], 0xb7f           ; up
        fldcw   [own + 8]
        fldl2t
        fistp   dword [own]
        fact    "up", [own]
        fninit
        mov     dword [own], 100
        fild    dword [own]
        fsqrt
        fistp   word [own]
        fact16  "sqrt", [own]
        fld1
        fld1
        fadd
        fld1
        fcom
        sw      "com"
        fcomi   st1
        setb    al
        fact8   "comi", al
        fninit
        fld1
        fchs
        fxam
        sw      "fxam"
        fbstp   [own]
        fact    "bcd", [own]
        fact16  "bcdsign", [own + 8]
        fldz
        fld1
        fxch
        fstp    tword [own]
        fact    "zerolow", [own]
        fstp    tword [own]
        fact    "onelow", [own]
        fact    "onehigh", [own + 4]
        fact16  "oneexp", [own + 8]
        mov     dword [own], 0x7fffffff
        mov     dword [own + 4], 0x7fffffff
        fild    qword [own]
        fistp   dword [own]
        fact    "toobig", [own]                 ; the integer indefinite
        sw      "ie"
        fninit
        fld1
        fldpi
        fnsave  [own + 0x100]
        fact16  "savedtag", [own + 0x100 + 8]
        fact16  "savedsw", [own + 0x100 + 4]
        sw      "saveinit"
        frstor  [own + 0x100]
        sw      "restored"
        fistp   dword [own]
        fact    "three", [own]
        ; TS and MP.
        mov     eax, cr0
        or      eax, 1 << 3
        mov     cr0, eax
        try     "ts", fld1
        try     "tswait", fwait
        mov     eax, cr0
        and     eax, ~(1 << 1)
        mov     cr0, eax
        try     "nomp", fwait
        clts
        finish
