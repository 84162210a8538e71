; A GDT where no memory is: its descriptors read all ones, which is conforming code, present, of ring 3.

%include "pc.inc"

NOTHING equ 0xd0000000          ; neither RAM nor device

main:   say     "nogdt:"
        lgdt    [ones]
        mov     eax, USER_DATA
        mov     fs, eax
        mov     eax, fs
        fact    "fs", eax
        lar     ecx, eax
        fact    "lar", ecx
        lsl     ecx, eax
        fact    "lsl", ecx
        lgdt    [gdt_pointer]
        mov     eax, USER_DATA
        mov     fs, eax
        finish

[section .data align=4]
ones:   dw      0x1ff
        dd      NOTHING
__?SECT?__
