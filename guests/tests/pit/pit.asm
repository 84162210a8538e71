; The 8254: its modes' outputs on counters 0 and 2, counts by low and high byte, latches, read-back, the gate and
; the speaker port, BCD. All of it by states and orders, none by durations. Intel 8254 data sheet.

%include "pc.inc"

%macro  status 2                ; name, read-back command for the status of counter 0 or 2
        out8    0x43, %2
        %if %2 & 8
        in      al, 0x42
        %else
        in      al, 0x40
        %endif
        fact8   %1, al
%endmacro

main:   say     "pit:"
        out8    0x61, 0                         ; gate 2 low, speaker off
        in      al, 0x61
        and     al, 3
        fact8   "gate", al
        ; The control word as the status shows it; null count is set until the count is loaded.
        out8    0x43, 0xb0                      ; counter 2, both bytes, mode 0
        status  "mode0", 0xe8
        out8    0x43, 0xb4
        status  "mode2", 0xe8
        out8    0x43, 0xb6
        status  "mode3", 0xe8
        out8    0x43, 0x92                      ; low byte only, mode 1
        status  "mode1", 0xe8
        out8    0x43, 0xa9                      ; high byte only, mode 4, BCD
        status  "mode4", 0xe8
        out8    0x43, 0xbe                      ; mode 3 again: bit 3 doesn't count
        status  "mode7", 0xe8
        ; Mode 0 without its gate: it doesn't count.
        out8    0x43, 0xb0
        out8    0x42, 0x34
        out8    0x42, 0x12
        in      al, 0x42
        mov     bl, al
        in      al, 0x42
        mov     bh, al
        in      al, 0x42
        mov     cl, al
        in      al, 0x42
        cmp     bl, cl
        sete    cl
        fact8   "still", cl
        in      al, 0x61
        and     al, 0x20
        fact8   "out0", al
        ; With the gate it counts down and goes high, once.
        out8    0x43, 0xb0
        out8    0x42, 100
        out8    0x42, 0
        out8    0x61, 1
.wait0: in      al, 0x61
        test    al, 0x20
        jz      .wait0
        and     al, 0x21
        fact8   "done0", al
        out8    0x43, 0xe8
        in      al, 0x42
        and     al, 0x80
        fact8   "high0", al
        out8    0x43, 0xb0                      ; the control word alone makes it low
        in      al, 0x61
        and     al, 0x20
        fact8   "low0", al
        ; A latch holds, until both bytes were read.
        out8    0x43, 0xb4
        out8    0x42, 0xff
        out8    0x42, 0xff
        out8    0x43, 0x80                      ; latch counter 2
        out8    0x43, 0x80                      ; the second is ignored
        in      al, 0x42
        mov     bl, al
        mov     ecx, 2000
.spin:  in      al, 0x61
        loop    .spin
        in      al, 0x42
        mov     bh, al
        in      al, 0x42                        ; no longer latched: it has moved on
        mov     cl, al
        in      al, 0x42
        mov     ch, al
        cmp     cx, bx                          ; above it where a host was slow: it counts round in 55 ms
        setne   cl
        fact8   "latch", cl
        ; Read back: status and count together, status first.
        out8    0x43, 0xc8
        in      al, 0x42
        and     al, 0x3f
        fact8   "both", al
        in      al, 0x42
        in      al, 0x42
        ; Mode 3 toggles: high and low, again and again.
        out8    0x43, 0xb6
        out8    0x42, 0x80
        out8    0x42, 0
        mov     ecx, 4
.low:   in      al, 0x61
        test    al, 0x20
        jnz     .low
.high:  in      al, 0x61
        test    al, 0x20
        jz      .high
        loop    .low
        fact    "toggles", ecx
        ; Mode 2 reloads: the count goes up again.
        out8    0x43, 0x34                      ; counter 0, always gated
        out8    0x40, 0x00
        out8    0x40, 0x10
        mov     ecx, 3
.fall:  call    read0
        mov     ebx, eax
        call    read0
        cmp     eax, ebx
        jbe     .fall
        loop    .fall
        fact    "reloads", ecx
        cmp     eax, 0x1000
        setbe   al
        fact8   "within", al
        ; Mode 0 goes on counting after its end, through 0.
        out8    0x43, 0x30
        out8    0x40, 10
        out8    0x40, 0
.past:  call    read0
        cmp     eax, 0x8000
        jb      .past
        out8    0x43, 0xe2
        in      al, 0x40
        and     al, 0xbf
        fact8   "past", al
        ; BCD: no digit above 9.
        out8    0x43, 0x35
        out8    0x40, 0
        out8    0x40, 0x10                      ; 1000
        mov     ecx, 50
        xor     ebx, ebx
.bcd:   call    read0
        mov     edx, eax
        and     edx, 0xf
        cmp     edx, 9
        ja      .bad
        mov     edx, eax
        shr     edx, 4
        and     edx, 0xf
        cmp     edx, 9
        ja      .bad
        cmp     eax, 0x1000
        jbe     .good
.bad:   inc     ebx
.good:  loop    .bcd
        fact    "bcd", ebx
        ; Mode 1: it starts at the gate's edge.
        out8    0x61, 0
        out8    0x43, 0xb2
        out8    0x42, 100
        out8    0x42, 0
        in      al, 0x61
        and     al, 0x20
        fact8   "idle1", al
        out8    0x61, 1
.one:   out8    0x43, 0xe8
        in      al, 0x42
        test    al, 0x80
        jz      .one
        and     al, 0x3f
        fact8   "end1", al
        ; The refresh bit toggles.
        in      al, 0x61
        and     al, 0x10
        mov     bl, al
.fresh: in      al, 0x61
        and     al, 0x10
        cmp     al, bl
        je      .fresh
        fact    "refresh", 1
        finish

read0:  out8    0x43, 0
        xor     eax, eax
        in      al, 0x40
        mov     ah, al
        in      al, 0x40
        xchg    al, ah
        ret
