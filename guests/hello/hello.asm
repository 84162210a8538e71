; hello: the smallest guest that says something.
;
; It runs in real mode, as a PC starts: 16-bit registers, segments of 64 KiB, no protection. Each
; `out` to the serial port leaves the guest (an exit): pykvm carries the byte to your terminal.
;
;   nasm -f bin -o hello.bin hello.asm

        bits 16
        org 0                   ; all segments start where the file is loaded: kernel.load

COM1    equ 0x3f8               ; transmitter holding register of the first serial port
PM1_CNT equ 0x604               ; ACPI's power management control register
S5      equ 5 << 10             ; sleep type 5: soft off
SLP_EN  equ 1 << 13             ; sleep now

start:
        mov     si, text
        mov     cx, text.end - text
        mov     dx, COM1
next:
        lodsb
        out     dx, al
        loop    next

        mov     dx, PM1_CNT
        mov     ax, S5 | SLP_EN
        out     dx, ax          ; the machine is off after this

text:   db      "Hello from inside the virtual machine.", 13, 10
.end:
