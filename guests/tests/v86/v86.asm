; Virtual-8086 mode under a monitor: sensitive instructions at IOPL 0 and 3, INT n, the I/O bitmap, faults
; and their frame, addresses that wrap at 1 MiB, and a return by the monitor. SDM vol. 3 §20.

%include "pc.inc"

; try86 "name", EFLAGS, instruction: in virtual-8086 mode; INT DONE follows it.
%macro  try86 3+
        trial_of %1, %%at, %%after
        push    dword 0x1000            ; GS, FS, DS, ES
        push    dword 0x1000
        push    dword 0x1000
        push    dword 0x1000
        push    dword 0x700             ; SS:SP
        push    dword 0x800
        push    dword %2 | 1 << 17      ; VM
        push    dword 0
        push    dword %%at
        iretd
        bits    16
%%at:   %3
        int     DONE
        bits    32
%%after: call   told
%endmacro

IOPL3   equ 3 << 12

main:   say     "v86:"
        mov     word [0x10010], 0x1234
        try86   "nop", 2, nop
        fact16  "cs", [t_cs]
        fact    "flags", [t_flags]
        try86   "nop3", IOPL3 | 2, nop
        fact    "flags3", [t_flags]
        fact16  "sp", [t_sp]
        try86   "load", 2, mov ax, [0x10]
        fact16  "ax", ax
        try86   "cli", 2, cli
        try86   "cli3", IOPL3 | 2, cli
        try86   "sti", 2, sti
        try86   "pushf", 2, pushf
        try86   "pushf3", IOPL3 | 2, pushf
        try86   "popf", 2, popf
        try86   "int", 2, int 0x21
        try86   "int3f", IOPL3 | 2, int 0x21    ; the gate's DPL is 0
        try86   "int3", 2, int3                 ; not IOPL-sensitive, but DPL 0
        try86   "iret", 2, iret
        try86   "hlt", IOPL3 | 2, hlt
        try86   "lidt", IOPL3 | 2, lidt [0]
        try86   "lldt", IOPL3 | 2, lldt ax      ; not known in this mode: #UD
        try86   "lar", IOPL3 | 2, lar ax, ax
        try86   "arpl", IOPL3 | 2, arpl ax, ax
        try86   "cr0", IOPL3 | 2, mov eax, cr0
        try86   "ud", 2, ud2
        xor     eax, eax
        try86   "aam", 2, db 0xd4, 0
        try86   "smsw", 2, smsw bx
        fact16  "msw", bx
        ; The I/O bitmap counts, IOPL doesn't.
        try86   "in", IOPL3 | 2, in al, 0x80
        mov     word [tss + 102], 104
        mov     edi, tss + 104
        mov     al, 0xff
        mov     ecx, 0x20
        rep     stosb
        mov     byte [tss + 104 + 16], 0xfe     ; port 0x80 is free
        descriptor TSS, 0x0000890000000087 | tss << 16
        mov     eax, TSS
        ltr     ax
        try86   "inok", 2, in al, 0x80
        try86   "in16", 2, in ax, 0x80
        try86   "in81", 2, in al, 0x81
        mov     edx, 0x200
        try86   "beyond", 2, in al, dx
        ; Limits of 64 KiB, and addresses past 1 MiB.
        mov     ebx, 0xffff
        try86   "limit", 2, mov ax, [bx]
        mov     ebx, 0x10000
        try86   "limit32", 2, mov al, [ebx]
        mov     byte [0x100010], 0x5a
        mov     eax, 0xffff
        trial_of "high", high, high_after
        push    dword 0
        push    dword 0xffff
        push    dword 0
        push    dword 0
        push    dword 0
        push    dword 0x8000
        push    dword 1 << 17 | 2
        push    dword 0
        push    dword high
        iretd
        bits    16
high:   mov     al, [fs:0x20]
        int     DONE
        bits    32
high_after:
        call    told
        fact8   "al", al
        ; A monitor: the #GP handler carries INT 0x21 out for the program, by the program's own vectors.
        gate    13, monitor
        mov     dword [0x21 * 4], service
        try86   "served", 2, int 0x21
        fact16  "answer", bx
        finish

monitor:                                ; error, EIP, CS, EFLAGS, ESP, SS, ES, DS, FS, GS
        push    eax
        push    ebx
        mov     eax, USER_DATA
        mov     ds, eax
        mov     ebx, [esp + 12]         ; the program's instruction, CS is 0
        cmp     word [ebx], 0x21cd
        je      .int
        cmp     byte [ebx], 0xcf
        je      .iret
        cmp     word [ebx], 0xcd | DONE << 8
        jne     unexpected
        pop     ebx                     ; the trial's end: as if this were the library's handler
        pop     eax
        push    13
        jmp     fault
.int:   movzx   eax, word [esp + 28]    ; its stack: SS:SP
        shl     eax, 4
        sub     word [esp + 24], 6
        add     eax, [esp + 24]
        lea     ebx, [ebx + 2]
        mov     [eax], bx
        mov     bx, [esp + 16]
        mov     [eax + 2], bx
        mov     bx, [esp + 20]
        mov     [eax + 4], bx
        movzx   ebx, word [0x21 * 4]
        mov     [esp + 12], ebx
        movzx   ebx, word [0x21 * 4 + 2]
        mov     [esp + 16], ebx
        jmp     .go
.iret:  movzx   eax, word [esp + 28]
        shl     eax, 4
        add     eax, [esp + 24]
        movzx   ebx, word [eax]
        mov     [esp + 12], ebx
        movzx   ebx, word [eax + 2]
        mov     [esp + 16], ebx
        add     word [esp + 24], 6
.go:    pop     ebx
        pop     eax
        add     esp, 4
        iretd

        bits    16
service:
        mov     bx, 0x600d
        iret
        bits    32
