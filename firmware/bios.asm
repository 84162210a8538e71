; pykvm's BIOS: the services of a PC/AT's that boot sectors and 16-bit entries call. 8 KiB, at F000:E000.
;
; There is no power-on self test: the loader has put what is booted into memory, says in `handoff` where it
; is and what the machine has, and enters `post` with the registers that the booted code is to have.
; Source of the services: Ralf Brown's Interrupt List; of the layout of 0040:0000: IBM PC AT Technical
; Reference, "System BIOS". DS is 0040 and BP the caller's frame (below) in every service.

        bits    16
        cpu     686
BASE            equ 0xe000
        org     BASE

; The BIOS data area
COM             equ 0x00        ; ports of com1 to com4
EQUIPMENT       equ 0x10
MEMORY          equ 0x13        ; KiB below the extended BIOS data area
SHIFTS          equ 0x17
KEYS_HEAD       equ 0x1a
KEYS_TAIL       equ 0x1c
KEYS            equ 0x1e
KEYS_END        equ 0x3e
MODE            equ 0x49
COLUMNS         equ 0x4a
PAGE_SIZE       equ 0x4c
CURSOR          equ 0x50        ; column, row
CURSOR_SHAPE    equ 0x60
CRTC            equ 0x63
TICKS           equ 0x6c
MIDNIGHT        equ 0x70
DISK_STATUS     equ 0x74
DISKS           equ 0x75
KEYS_FROM       equ 0x80
KEYS_TO         equ 0x82
ROWS            equ 0x84        ; less one

; The caller's frame
F_ES            equ 0
F_DS            equ 2
F_DI            equ 4
F_SI            equ 8
F_BX            equ 20
F_DX            equ 24
F_CX            equ 28
F_AX            equ 32
F_IP            equ 36
F_CS            equ 38
F_FLAGS         equ 40
CARRY           equ 1 << 0
ZERO            equ 1 << 6
INTERRUPTS      equ 1 << 9

%macro  enter_service 0
        pushad
        push    ds
        push    es
        mov     bp, sp
        push    0x40
        pop     ds
        cld
%endmacro

; A service by AH: `serve table`, whose entries are `db AH` and `dw routine`; the table ends with 0xff and what
; is done for all others.
%macro  serve 1
        mov     si, %1
        jmp     dispatch
%endmacro

entry:  jmp     post
        align   4

; What the loader fills in: pykvm/boot/bios.py has the same table.
handoff:
target: dw      0x7c00, 0                       ; IP and CS of what is booted
target_flags:   dw INTERRUPTS, 0
disk_base:      dd 0                            ; where the image lies in memory, and its sectors: 0 for none
disk_sectors:   dd 0
disk_number:    db 0x80
disk_heads:     db 16
disk_track:     db 63                           ; sectors in one
disk_type:      db 0                            ; of a diskette, by INT 13h/08h
disk_cylinders: dw 1
map_count:      dw 0
high_kib:       dd 0                            ; memory from 1 MiB up to what the image takes
map:    times   8 * 20 db 0                     ; as INT 15h/E820h gives it

dispatch:                                       ; on AH, by the table at CS:SI
        mov     ah, [bp + F_AX + 1]
.next:  cmp     byte [cs:si], 0xff
        je      .found
        cmp     ah, [cs:si]
        je      .found
        add     si, 3
        jmp     .next
.found: call    [cs:si + 1]
leave_service:
        pop     es
        pop     ds
        popad
        iret

set_carry:
        or      byte [bp + F_FLAGS], CARRY
        ret
clear_carry:
        and     byte [bp + F_FLAGS], ~CARRY
        ret
unsupported:                                    ; AH=86h with carry
        mov     byte [bp + F_AX + 1], 0x86
        jmp     set_carry

%include "post.inc"
%include "video.inc"
%include "disk.inc"
%include "system.inc"
%include "keyboard.inc"

        times   0xfff0 - BASE - ($ - $$) db 0
        jmp     0xf000:restart                  ; where a CPU begins after reset, and programs that restart jump
        db      "11/29/26"                      ; the date, the model (AT) and no checksum
        db      0, 0xfc, 0
