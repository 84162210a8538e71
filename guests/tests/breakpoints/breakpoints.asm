; Debug registers: breakpoints on code, on reads and on writes, by length, DR6, RF, general detect, GE, DR4 and
; DR5, I/O breakpoints, and reads of the registers. SDM vol. 3 §17.2-17.3.

%include "pc.inc"

COUNT   equ own
CAUSE     equ own + 4
EIP     equ own + 8
FLAGS   equ own + 12
DATA1   equ own + 0x40

%macro  hits 2                  ; name, the instruction that the offset counts from
        %strcat %%ip %1, "ip"
        %strcat %%dr6 %1, "dr6"
        fact    %1, [COUNT]
        mov     eax, [EIP]
        test    eax, eax
        jz      %%none
        sub     eax, %2
%%none: fact    %%ip, eax
        fact    %%dr6, [CAUSE]
        xor     eax, eax
        mov     [COUNT], eax
        mov     [EIP], eax
        mov     [CAUSE], eax
%endmacro
%macro  arm 2                   ; DR0, DR7
        mov     eax, %1
        mov     dr0, eax
        mov     eax, %2
        mov     dr7, eax
%endmacro

main:   say     "breakpoints:"
        gate    1, debug
        xor     eax, eax
        mov     dr6, eax
        mov     eax, dr6
        fact    "dr6", eax
        mov     eax, dr7
        fact    "dr7", eax
        mov     eax, 0x12345678
        mov     dr3, eax
        mov     ebx, dr3
        fact    "dr3", ebx
        ; On code: a fault, before the instruction; IRET with RF lets it pass.
        arm     code, 2                         ; G0
        mov     ecx, 0
code:   inc     ecx
        fact    "ran", ecx
        hits    "code", code
        fact    "rf", [FLAGS]
        ; On a write: a trap, behind it.
        arm     DATA1, 2 | 1 << 16 | 3 << 18    ; 4 bytes, write
write:  mov     dword [DATA1], 1
        nop
        hits    "write", write
        mov     ebx, [DATA1]
        hits    "read", write                   ; a read doesn't count
        mov     byte [DATA1 + 3], 1
        hits    "byte", write
        mov     byte [DATA1 + 4], 1
        hits    "beside", write
        mov     dword [DATA1 - 1], 1            ; overlaps
        hits    "overlap", write
        ; On reads and writes.
        arm     DATA1, 2 | 3 << 16              ; 1 byte
load:   mov     bl, [DATA1]
        nop
        hits    "rw", load
        mov     bl, [DATA1 + 1]
        hits    "rwbeside", load
        mov     edi, DATA1 - 2
        mov     ecx, 4
movs:   rep     stosb                           ; the trap comes after the turn
        nop
        fact    "repecx", ecx
        hits    "rep", movs
        push    dword [DATA1]
        pop     eax
        hits    "push", load
        ; Two that match the same access.
        mov     eax, DATA1
        mov     dr1, eax
        arm     DATA1, 0x0a | 1 << 16 | 1 << 20
both:   mov     byte [DATA1], 1
        nop
        hits    "both", both
        ; Local enable, and an I/O breakpoint.
        mov     eax, cr4
        or      eax, 1 << 3                     ; DE
        mov     cr4, eax
        arm     0x80, 1 | 2 << 16
io:     out     0x80, al
        nop
        hits    "io", io
        in      al, 0x81
        hits    "io81", io
        try     "dr4", mov eax, dr4             ; with DE there is none
        mov     eax, cr4
        and     eax, ~(1 << 3)
        mov     cr4, eax
        mov     eax, dr4
        fact    "dr4is6", eax
        ; General detect.
        arm     0, 1 << 13
gd:     mov     eax, dr0
        hits    "gd", gd
        mov     eax, dr7
        fact    "gdoff", eax
        xor     eax, eax
        mov     dr7, eax
        ; In ring 3.
        user    "userdr", mov eax, dr0
        arm     DATA1, 1 | 1 << 16
        mov     eax, 5
        user    "userwrite", mov [DATA1], al
        fact    "usercount", [COUNT]
        fact    "userdr6", [CAUSE]
        xor     eax, eax
        mov     dr7, eax
        finish

debug:  push    eax
        inc     dword [COUNT]
        mov     eax, dr6
        mov     [CAUSE], eax
        xor     eax, eax
        mov     dr6, eax
        mov     eax, [esp + 4]
        mov     [EIP], eax
        mov     eax, [esp + 12]
        and     eax, 1 << 16
        mov     [FLAGS], eax
        or      dword [esp + 12], 1 << 16
        pop     eax
        iretd
