; /init of an initramfs, for 32-bit kernels and for 64-bit ones with their 32-bit system calls: says that it
; runs, and powers the machine off. An ELF file of one segment, by `nasm -f bin`.

bits 32
ORIGIN equ 0x08048000
SYS_WRITE equ 4
SYS_REBOOT equ 88                       ; reboot(2), with its two magic numbers
REBOOT_MAGIC1 equ 0xFEE1DEAD
REBOOT_MAGIC2 equ 0x28121969
POWER_OFF equ 0x4321FEDC
EM_386 equ 3
PT_LOAD equ 1

org ORIGIN

header:
        db 0x7F, "ELF", 1, 1, 1         ; 32 bits, little-endian, version 1
        times 9 db 0
        dw 2, EM_386                    ; an executable
        dd 1, start, program_header - header, 0, 0
        dw program_header - header, PROGRAM_HEADER_SIZE, 1, 0, 0, 0
program_header:
        dd PT_LOAD, 0, ORIGIN, ORIGIN, end - header, end - header, 5, 0x1000
PROGRAM_HEADER_SIZE equ $ - program_header

start:
        mov eax, SYS_WRITE
        mov ebx, 1
        mov ecx, text
        mov edx, TEXT_SIZE
        int 0x80
        mov eax, SYS_REBOOT
        mov ebx, REBOOT_MAGIC1
        mov ecx, REBOOT_MAGIC2
        mov edx, POWER_OFF
        int 0x80
        jmp $

text:   db "init runs", 10
TEXT_SIZE equ $ - text
end:
