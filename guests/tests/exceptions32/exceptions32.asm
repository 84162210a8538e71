; Every exception that an instruction of 32-bit protected mode can raise, once: its vector, its error code
; and whether the saved EIP is at the instruction (a fault) or behind it (a trap). SDM vol. 3 §6.15.

%include "pc.inc"

main:   say     "exceptions32:"
        descriptor FREE, FLAT_DATA & ~(1 << 47)
        xor     ecx, ecx
        try     "div", div ecx
        mov     eax, 0x80000000
        cdq
        neg     edx
        mov     ecx, 1
        try     "idiv", idiv ecx
        try     "aam", db 0xd4, 0
        try     "icebp", db 0xf1
        try     "int3", int3
        try     "int", int 3
        mov     al, 0x7f
        add     al, 1
        try     "into", into
        xor     eax, eax
        try     "nointo", into
        mov     eax, 5
        try     "bound", bound eax, [limits]
        mov     eax, 4
        try     "nobound", bound eax, [limits]
        try     "ud2", ud2
        try     "lockud", db 0xf0, 0x90
        mov     eax, cr0
        or      eax, 8                          ; TS
        mov     cr0, eax
        try     "ts", fld1
        clts
        mov     eax, cr0
        or      eax, 4                          ; EM
        mov     cr0, eax
        try     "em", fld1
        mov     eax, cr0
        and     eax, ~4
        mov     cr0, eax
        lldt    [zero]
        try     "np", mov fs, [not_present]     ; #NP of a data segment
        try     "ss", mov ss, [not_present]     ; #SS of the stack's
        try     "gp", mov fs, [beyond]
        try     "nullss", mov ss, [zero]
        try     "codess", mov ss, [code]
        try     "nocs", jmp 0:0
        try     "gpint", int 0x80               ; not in the IDT
        try     "idtlimit", int 0xff
        mov     ecx, 0x12345678
        try     "rdmsr", rdmsr
        mov     eax, cr0
        or      eax, 1 << 18                    ; AM
        mov     cr0, eax
        mov     dword [user_flags], 1 << 18 | 2 ; AC
        user    "ac", mov eax, [limits + 1]
        user    "aligned", mov eax, [limits]
        try     "noac", mov eax, [limits + 1]
        mov     dword [user_flags], 2
        user    "userint", int 0x20             ; a gate of ring 0
        user    "userhlt", hlt
        user    "userin", in al, 0x80
        user    "usercli", cli
        user    "usercr", mov eax, cr0
        user    "userlgdt", lgdt [gdt_pointer]
        user    "usersgdt", sgdt [own]
        finish

[section .data align=4]
        align   4
limits: dd      0, 4
zero:   dd      0
not_present: dd FREE
beyond: dd      0x200
code:   dd      CODE
__?SECT?__
