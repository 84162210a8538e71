; The keyboard behind the i8042: self tests, identity, echo, LEDs, rate, scan code sets, reset, and IRQ 1 by a
; byte put into the output buffer, with translation and without. IBM's PS/2 Keyboard and Auxiliary Device.

%include "pc.inc"

LAST    equ own                 ; the byte that came by IRQ 1, and how many came
COUNT   equ own + 4

%macro  command 1
        mov     bl, %1
        call    to_controller
%endmacro
%macro  send 1
        mov     bl, %1
        call    to_data
%endmacro
%macro  answer 1                ; name
        call    from_data
        fact    %1, eax
%endmacro

main:   say     "keyboard:"
        gate    0x31, irq1
        mov     dword [0xfee000f0], 0x1ff
        mov     dword [0xfee00350], 0x700       ; LINT0: ExtINT
        mov     al, 0x11
        out     PIC1, al
        mov     al, 0x30
        out     PIC1 + 1, al
        mov     al, 4
        out     PIC1 + 1, al
        mov     al, 1
        out     PIC1 + 1, al
        mov     al, 0xff
        out     PIC1 + 1, al
        command 0xaa
        answer  "selftest"
        command 0xab
        answer  "wire"
        command 0x60                            ; no translation, no interrupt
        send    0x04
        command 0x20
        answer  "ram"
        send    0xff
        answer  "resetack"
        answer  "bat"
        send    0xf2
        answer  "idack"
        answer  "id1"
        answer  "id2"
        send    0xee
        answer  "echo"
        send    0xed
        answer  "leds"
        send    0x07
        answer  "ledsset"
        send    0xf3
        answer  "rate"
        send    0x20
        answer  "rateset"
        send    0xf0
        answer  "set"
        send    0x00
        answer  "setack"
        answer  "which"
        send    0xf0
        answer  "set1"
        send    0x01
        answer  "set1ack"
        send    0xf0
        answer  "ask"
        send    0x00
        answer  "askack"
        answer  "now"
        send    0xf6
        answer  "defaults"
        send    0xf5
        answer  "disable"
        send    0xf4
        answer  "enable"
        ; IRQ 1: masked, then let in.
        command 0x60
        send    0x05
        mov     al, 0xfd
        out     PIC1 + 1, al
        command 0xd2                            ; as if the keyboard had sent it
        send    0x1c
        sti
.wait:  cmp     dword [COUNT], 0
        je      .wait
        cli
        fact    "irq", [COUNT]
        fact    "byte", [LAST]
        in      al, 0x64
        and     eax, 1
        fact    "left", eax
        finish

to_controller:
        call    ready
        mov     al, bl
        out     0x64, al
        ret

to_data:
        call    ready
        mov     al, bl
        out     0x60, al
        ret

ready:  in      al, 0x64
        test    al, 2
        jnz     ready
        ret

from_data:
        in      al, 0x64
        test    al, 1
        jz      from_data
        in      al, 0x60
        movzx   eax, al
        ret

irq1:   push    eax
        in      al, 0x60
        movzx   eax, al
        mov     [LAST], eax
        add     dword [COUNT], 1
        mov     al, 0x20
        out     PIC1, al
        pop     eax
        iretd
