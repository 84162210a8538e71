; Multiboot 1: an ELF file with a header that asks for aligned modules and the memory's size. It prints the
; registers at entry (Multiboot 0.6.96 §3.2), then the boot information and all that it points to (§3.3).

%macro  headers 0
        elf_header EM_386, start, 1
        whole_file
        align   4
        dd      0x1badb002, 3, -(0x1badb002 + 3)
%endmacro

%define SECTIONS        section_headers - BASE
%define SECTION_COUNT   3
%define SECTION_NAMES   2

%include "boot.inc"

start:  arrived "boot-multiboot"
        mov     ebp, [saved_ebx]
        bytes   "info", ebp, 116
        text    "loader", [ebp + 64]
        text    "cmdline", [ebp + 16]
        mov     edi, [ebp + 24]
        bytes   "mod1", edi, 16
        text    "name1", [edi + 8]
        bytes   "at1", [edi], 16
        add     edi, 16
        bytes   "mod2", edi, 16
        text    "name2", [edi + 8]
        bytes   "at2", [edi], 16
        bytes   "mmap", [ebp + 48], [ebp + 44]
        mov     edi, [ebp + 36]
        bytes   "sections", edi, 3 * 40
        bytes   "names", [edi + 2 * 40 + 12], NAMES_SIZE
        finish

[section .data]
section_headers:
        times   10 dd 0
        dd      1, 1, 6, BASE, 0, 0x1000, 0, 0, 16, 0           ; .text: PROGBITS, allocated, executable
        dd      7, 3, 0, 0, names - BASE, NAMES_SIZE, 0, 0, 1, 0        ; .shstrtab: in no segment's memory
names:  db      0, ".text", 0, ".shstrtab", 0
NAMES_SIZE      equ $ - names
