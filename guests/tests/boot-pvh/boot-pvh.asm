; PVH: an ELF file whose entry stands in a note of Xen's; its e_entry is somewhere else. It prints the registers
; at entry (Xen, docs/misc/pvh.pandoc), then hvm_start_info and all that it points to.

%macro  headers 0
        elf_header EM_386, wrong, 2
        whole_file
        dd      PT_NOTE, note - BASE, note, note, note_end - note, note_end - note, 4, 4
note:   dd      4, 4, 18
        db      "Xen", 0
        dd      start
note_end:
%endmacro

%define SECTIONS        0
%define SECTION_COUNT   0
%define SECTION_NAMES   0

%include "boot.inc"

wrong:  hlt
        jmp     wrong

start:  arrived "boot-pvh"
        str     ecx
        lar     eax, ecx
        shr     eax, 8
        fact    "tr", eax
        lsl     eax, ecx
        fact    "trlimit", eax
        sgdt    [gdt_pointer]                   ; the TSS's base, from its descriptor
        mov     edi, ecx
        add     edi, [gdt_pointer + 2]
        bytes   "tss", edi, 8
        mov     ebp, [saved_ebx]
        bytes   "info", ebp, 56
        text    "cmdline", [ebp + 24]
        bytes   "rsdp", [ebp + 32], 36
        mov     ecx, [ebp + 48]                 ; entries of the memory map, of 24 bytes
        lea     ecx, [ecx + ecx * 2]
        shl     ecx, 3
        bytes   "memmap", [ebp + 40], ecx
        mov     edi, [ebp + 16]
        bytes   "mod1", edi, 32
        text    "name1", [edi + 16]
        bytes   "at1", [edi], 16
        add     edi, 32
        bytes   "mod2", edi, 32
        text    "name2", [edi + 16]
        bytes   "at2", [edi], 8
        finish

[section .data]
gdt_pointer:    dw 0, 0, 0
