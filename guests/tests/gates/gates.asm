; Call gates: from ring 3 to ring 0 with a switch of stacks and copied parameters, back by RETF, without a
; switch, to conforming code, and their checks. SDM vol. 3 §5.8.3-5.8.6.

%include "pc.inc"

INNER   equ FREE | 3            ; to ring 0, two parameters
SAME    equ FREE + 8            ; DPL 0, to ring 0
ABSENT  equ FREE + 16 | 3
TODATA  equ FREE + 24 | 3
GATE16  equ FREE + 32 | 3       ; a 16-bit gate, one parameter
CONF    equ FREE + 40

%macro  call_gate 3             ; selector, attributes and count, target selector; the offset in eax
        mov     [gdt + ((%1) & ~3)], ax
        mov     word [gdt + ((%1) & ~3) + 2], %3
        mov     word [gdt + ((%1) & ~3) + 4], %2
        shr     eax, 16
        mov     [gdt + ((%1) & ~3) + 6], ax
%endmacro

main:   say     "gates:"
        mov     eax, inner
        call_gate INNER, 0xec02, CODE
        mov     eax, same
        call_gate SAME, 0x8c00, CODE
        mov     eax, inner
        call_gate ABSENT, 0x6c00, CODE
        mov     eax, inner
        call_gate TODATA, 0xec00, DATA
        mov     eax, inner16
        call_gate GATE16, 0xe401, CODE
        descriptor CONF, 0x00cf9f000000ffff
        call    SAME:0x12345678                 ; the offset of the instruction doesn't count
        fact    "same", eax
        user    "dpl", call SAME | 3:0
        user    "absent", call ABSENT:0
        user    "todata", call TODATA:0
        user    "jmpinner", jmp INNER:0         ; a jump can't change the ring
        user    "direct", call CODE | 3:0
        ; By the gate with two parameters.
        trial_of "inner", ring3, ring3.after
        push    USER_DATA
        push    user_stack
        push    dword 2
        push    USER_CODE
        push    ring3
        iretd
ring3:  push    dword 0x11111111
        push    dword 0x22222222
        call    INNER:0
        mov     [own + 32], esp                 ; both parameters are gone: RETF 8
        mov     [own + 36], cs
        mov     [own + 40], ss
        int     DONE
.after: call    told
        fact    "cs", [own]
        fact    "first", [own + 4]
        fact    "second", [own + 8]
        fact    "oldesp", [own + 12]
        fact    "oldss", [own + 16]
        fact    "esp", [own + 20]
        fact    "ss", [own + 24]
        fact    "from", [own + 28]
        fact    "backesp", [own + 32]
        fact16  "backcs", [own + 36]
        fact16  "backss", [own + 40]
        ; By the 16-bit gate.
        trial_of "gate16", ring3w, ring3w.after
        push    USER_DATA
        push    user_stack
        push    dword 2
        push    USER_CODE
        push    ring3w
        iretd
ring3w: push    word 0x3333
        call    GATE16:0
        mov     [own + 32], esp
        int     DONE
.after: call    told
        fact16  "param16", [own + 4]
        fact    "esp16", [own + 20]
        fact    "back16", [own + 32]
        ; A return to ring 3 drops segments that ring 3 may not use.
        trial_of "null", ring3d, ring3d.after
        mov     eax, DATA
        mov     fs, eax
        mov     eax, USER_DATA
        mov     gs, eax
        push    USER_DATA
        push    user_stack
        push    USER_CODE
        push    ring3d
        retf
ring3d: mov     [own], fs
        mov     [own + 4], gs
        int     DONE
.after: call    told
        fact16  "fs", [own]
        fact16  "gs", [own + 4]
        ; To ring 3 by RETF with a bad stack.
        mov     [t_stack], esp
        push    DATA
        push    user_stack
        push    USER_CODE
        push    ring3d
        try     "badss", retf
        finish

same:   mov     eax, 0x5a
        retf

inner:  mov     eax, [esp + 4]                  ; ring 0: EIP, CS, the second parameter, the first, ESP, SS
        mov     [own], eax
        mov     eax, [esp + 12]
        mov     [own + 4], eax
        mov     eax, [esp + 8]
        mov     [own + 8], eax
        mov     eax, [esp + 16]
        mov     [own + 12], eax
        mov     eax, [esp + 20]
        mov     [own + 16], eax
        mov     [own + 20], esp
        mov     eax, ss
        mov     [own + 24], eax
        mov     eax, cs
        mov     [own + 28], eax
        retf    8

inner16:
        mov     ax, [esp + 4]
        mov     [own + 4], ax
        mov     [own + 20], esp
        o16 retf 2
