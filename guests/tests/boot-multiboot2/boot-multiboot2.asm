; Multiboot 2: an ELF file that may be moved, and asks for nearly all there is. It prints the registers at entry
; (Multiboot2 2.0 §3.3), then every tag of the boot information (§3.6) as it lies there, by its type.

%macro  headers 0
        elf_header EM_386, start, 1
        whole_file
        align   8
mb2:    dd      0xe85250d6, 0, mb2_end - mb2, -(0xe85250d6 + mb2_end - mb2)
        dw      1, 0                    ; information request: command line to new RSDP
        dd      .asked - $ + 4
        dd      1, 2, 3, 4, 6, 9, 14, 15, 21
.asked: align   8
        dw      5, 0                    ; framebuffer: a screen, which this machine lacks
        dd      20, 1024, 768, 32
        align   8
        dw      6, 0                    ; module alignment
        dd      8
        dw      10, 0                   ; relocatable: where it was linked for will do
        dd      24, BASE, 0x4fffff, 0x1000, 0
        dw      99, 1                   ; unknown, but optional
        dd      8
        dw      0, 0
        dd      8
mb2_end:
%endmacro

%define SECTIONS        section_headers - BASE
%define SECTION_COUNT   3
%define SECTION_NAMES   2

%include "boot.inc"

start:  arrived "boot-multiboot2"
        mov     ebp, [saved_ebx]
        bytes   "size", ebp, 8
        mov     edi, ebp
        add     edi, 8
.tag:   mov     eax, [edi]
        push    esi
        mov     esi, tag
        call    print
        mov     eax, edi
        sub     eax, ebp                        ; the names are the tags' offsets
        call    hex
        mov     al, '='
        call    put
        mov     esi, edi
        mov     ecx, [edi + 4]
        call    dump
        pop     esi
        cmp     dword [edi], 3                  ; a module: what lies there, up to 8 bytes
        jne     .next
        say     ":"
        mov     esi, [edi + 8]
        mov     ecx, 8
        call    dump
.next:  mov     eax, [edi]
        mov     ecx, [edi + 4]
        add     ecx, 7
        and     ecx, -8
        add     edi, ecx
        test    eax, eax
        jnz     .tag
        sub     edi, ebp
        fact    "end", edi
        finish

[section .data]
tag:    db      " tag", 0
section_headers:
        times   10 dd 0
        dd      1, 1, 6, BASE, 0, 0x1000, 0, 0, 16, 0           ; .text: PROGBITS, allocated, executable
        dd      7, 3, 0, 0, names - BASE, NAMES_SIZE, 0, 0, 1, 0        ; .shstrtab: in no segment's memory
names:  db      0, ".text", 0, ".shstrtab", 0
NAMES_SIZE      equ $ - names
