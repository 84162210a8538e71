; Instructions of 15 bytes and more, prefixes that mean nothing or too much, LOCK where it may not be, REX in
; wrong places, undefined opcodes and group members. SDM vol. 2 §2.1, §2.3.11.

%include "pc.inc"
%include "long.inc"

%macro  both 2                  ; "f" is the prefix 66; in 32-bit and 64-bit mode
        try     %1, db "ffffffffffffff", 0x90
        try     %2, db "fffffffffffffff", 0x90
%endmacro

main:   say     "lengths:"
        both    "fifteen", "sixteen"
        try     "imm15", db 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x81, 0x05, own & 255, own >> 8, 0, 0, 0, 0, 0, 0
        try     "imm16", db 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x81, 0x05, own & 255, own >> 8, 0, 0, 0, 0, 0, 0
        try     "rep", db 0xf3, 0xf2, 0xf3, 0x90
        try     "repmov", db 0xf3, 0x89, 0xc0   ; ignored
        try     "segment", db 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, 0x90
        mov     eax, 1
        try     "locknop", db 0xf0, 0x90
        try     "lockreg", db 0xf0, 0x01, 0xc0
        try     "lockmem", db 0xf0, 0x01, 0x05, own & 255, own >> 8, 0, 0
        try     "lockcmp", db 0xf0, 0x39, 0x05, own & 255, own >> 8, 0, 0
        try     "lockmov", db 0xf0, 0x89, 0x05, own & 255, own >> 8, 0, 0
        try     "lockxchg", db 0xf0, 0x87, 0x05, own & 255, own >> 8, 0, 0
        try     "lockbt", db 0xf0, 0x0f, 0xba, 0x25, own & 255, own >> 8, 0, 0, 1
        try     "lockbts", db 0xf0, 0x0f, 0xba, 0x2d, own & 255, own >> 8, 0, 0, 1
        try     "lockcx8", db 0xf0, 0x0f, 0xc7, 0x0d, own & 255, own >> 8, 0, 0
        try     "cx8reg", db 0x0f, 0xc7, 0xc8
        try     "leareg", db 0x8d, 0xc0
        try     "lesreg", db 0xc4, 0xc0         ; VEX, which isn't enabled
        try     "movcs", db 0x8e, 0xc8
        try     "movseg6", db 0x8e, 0xf0
        try     "fe2", db 0xfe, 0xd0
        try     "ff7", db 0xff, 0xff
        try     "farreg", db 0xff, 0xd8
        try     "pop1", db 0x8f, 0xc8
        try     "mov1", db 0xc7, 0xc8, 0, 0, 0, 0
        try     "bt0", db 0x0f, 0xba, 0xc0, 0
        try     "ud0", db 0x0f, 0xff, 0xc0
        try     "ud1", db 0x0f, 0xb9, 0xc0
        try     "nop0f", db 0x0f, 0x1f, 0xc0
        try     "nop0f0d", db 0x0f, 0x0d, 0x05, own & 255, own >> 8, 0, 0
        try     "0f04", db 0x0f, 0x04
        try     "0f24", db 0x0f, 0x24, 0xc0
        try     "0f36", db 0x0f, 0x36
        try     "0fa6", db 0x0f, 0xa6, 0xc0
        try     "movcr7", db 0x0f, 0x20, 0xf8
        try     "salc", db 0xd6
        try     "test1", db 0xf6, 0xc8, 1       ; the same as /0
        try     "shl6", db 0xd0, 0xf0           ; the same as /4
        try     "82", db 0x82, 0xc0, 1          ; the same as 80
        enter_long
        both    "wide15", "wide16"
        mov     eax, 0x11223344
        mov     ecx, 0x55667788
        try     "rexlast", db 0x48, 0x66, 0x89, 0xc8    ; REX before a prefix is ignored
        fact    "rexax", rax
        try     "rexrex", db 0x40, 0x48, 0x89, 0xc8     ; the last REX counts
        fact    "rexrax", rax
        try     "rex66", db 0x66, 0x48, 0x89, 0xc8      ; REX.W wins over 66
        fact    "rex66ax", rax
        try     "rexint3", db 0x4f, 0xcc
        try     "segments", db 0x26, 0x2e, 0x36, 0x3e, 0x90
        try     "82w", db 0x82, 0xc0, 1
        try     "salcw", db 0xd6
        try     "pushcs", db 0x0e
        try     "lahf", lahf
        try     "arpl", db 0x63, 0xc8           ; MOVSXD
        try     "les", db 0xc4, 0x05, 0, 0, 0, 0
        try     "jmpfar", db 0xea, 0, 0, 0, 0, 8, 0
        try     "lockinc", lock inc qword [own]
        try     "lockrex", db 0xf0, 0x48, 0xff, 0xc0
        try     "movabs", db 0x48, 0xa1, own & 255, own >> 8, 0, 0, 0, 0, 0, 0
        try     "movabs67", db 0x67, 0x48, 0xa1, own & 255, own >> 8, 0, 0
        mov     ecx, 0
        try     "jecxz", db 0x67, 0xe3, 0x00
        finish
        bits    32
