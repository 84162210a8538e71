; The MC146818: registers that hold what is written, BCD and binary, SET, the update cycle, flags and C's clear
; on read, the periodic and the update interrupt, the alarm. Motorola MC146818 data sheet.

%include "pc.inc"

%macro  get 1                   ; register to al
        mov     al, %1
        out     0x70, al
        in      al, 0x71
%endmacro
%macro  set 2
        mov     al, %1
        out     0x70, al
        mov     al, %2
        out     0x71, al
%endmacro

main:   say     "rtc:"
        get     0x0d
        fact8   "valid", al
        set     0x0b, 0x82                      ; SET, 24 hours, BCD
        set     0x0a, 0x26
        get     0x0a
        and     al, 0x7f
        fact8   "a", al
        get     0x0b
        fact8   "b", al
        set     0, 0x58
        set     2, 0x59
        set     4, 0x23
        set     6, 7
        set     7, 0x31
        set     8, 0x12
        set     9, 0x99
        get     0
        fact8   "seconds", al
        get     9
        fact8   "year", al
        get     0x0a
        and     al, 0x80
        fact8   "noupdate", al                  ; while SET is on
        set     0x0e, 0x5a
        get     0x0e
        fact8   "ram", al
        set     0x3f, 0xa5
        get     0x3f
        fact8   "ram3f", al
        set     0x0a, 0x20                      ; no periodic rate, or its flag may come between two reads
        get     0x0c
        get     0x0c
        fact8   "cclear", al
        set     0x0a, 0x26
        ; Two seconds later it is a new year.
        set     0x0b, 0x02
.wait:  get     9
        cmp     al, 0
        jne     .wait
        get     4
        fact8   "hours", al
        get     2
        fact8   "minutes", al
        get     7
        fact8   "day", al
        get     8
        fact8   "month", al
        ; The update-ended flag without its interrupt: IRQF isn't set.
.uf:    get     0x0c
        test    al, 0x10
        jz      .uf
        and     al, 0x90
        fact8   "uf", al
        ; Binary.
        set     0x0b, 0x86
        set     0, 45
        set     2, 30
        set     4, 13
        get     0
        fact8   "binary", al
        set     0x0b, 0x84                      ; 12 hours, binary
        set     4, 0x81                         ; one in the afternoon
        get     4
        fact8   "pm", al
        set     0x0b, 0x06
        ; The periodic flag comes with its rate; with PIE there is IRQF.
        set     0x0a, 0x23
        get     0x0c
        mov     ecx, 100000                     ; much longer than 1/8192 s
.pf:    get     0x0c
        test    al, 0x40
        loopz   .pf
        and     al, 0xc0
        fact8   "pf", al
        set     0x0b, 0x46
.irqf:  get     0x0c
        test    al, 0x80
        jz      .irqf
        and     al, 0xc0
        fact8   "irqf", al
        set     0x0b, 0x06
        ; The alarm at any time: each second.
        set     1, 0xff
        set     3, 0xff
        set     5, 0xff
        get     0x0c
.af:    get     0x0c
        test    al, 0x20
        jz      .af
        and     al, 0x30
        fact8   "af", al
        finish
