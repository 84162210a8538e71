; A plain 32-bit ELF file: entered in protected mode as Linux is, with boot_params in ESI (Linux,
; Documentation/arch/x86/boot.rst, "32-bit Boot Protocol"). It prints the registers at entry and what it is told.

%macro  headers 0
        elf_header EM_386, start, 1
        whole_file
%endmacro

%define SECTIONS        0
%define SECTION_COUNT   0
%define SECTION_NAMES   0

%include "boot.inc"

start:  mov     [saved_esi], esi
        arrived "boot-elf32"
        mov     ebp, [saved_esi]
        fact    "esi", ebp
        bytes   "rsdp", ebp + 0x70, 8
        bytes   "header", ebp + 0x1f1, 0x7b
        text    "cmdline", [ebp + 0x228]
        bytes   "ramdisk", ebp + 0x218, 8
        bytes   "disk", [ebp + 0x218], [ebp + 0x21c]
        movzx   ecx, byte [ebp + 0x1e8]         ; e820 entries, of 20 bytes
        imul    ecx, 20
        bytes   "e820", ebp + 0x2d0, ecx
        finish

[section .data]
        align   4
saved_esi:      dd 0
