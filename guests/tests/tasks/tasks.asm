; Hardware tasks: switches by JMP, CALL and IRET, through a task gate and by an interrupt, busy bits, NT,
; the link, CR0.TS, the LDT, and faults of a switch. SDM vol. 3 §7.

%include "pc.inc"

OTHER   equ FREE                ; the TSS of a second task
GATE    equ FREE + 8            ; a task gate to it
SMALL   equ FREE + 16           ; a TSS that is too short
LDT     equ FREE + 24
other   equ own + 0x80
VECTOR  equ 0x40

main:   say     "tasks:"
        descriptor OTHER, 0x0000890000000067 | other << 16
        descriptor GATE,  0x0000850000000000 | OTHER << 16
        descriptor SMALL, 0x0000890000000066 | other << 16
        descriptor LDT,   0x0000820000000017 | gdt << 16
        mov     dword [other + 32], second      ; EIP
        mov     dword [other + 36], 2
        mov     dword [other + 40], 0x11111111  ; EAX
        mov     dword [other + 56], user_stack
        mov     dword [other + 72], DATA        ; ES, CS, SS, DS, FS, GS
        mov     dword [other + 76], CODE
        mov     dword [other + 80], DATA
        mov     dword [other + 84], DATA
        mov     dword [other + 88], USER_DATA
        mov     dword [other + 92], 0
        mov     dword [other + 96], LDT
        mov     word [other + 102], 104
        clts
        call    OTHER:0x1234
        fact    "called", [own]                 ; the new task's EAX
        fact    "link", [own + 4]
        fact    "nt", [own + 8]
        fact    "tr", [own + 12]
        fact    "fs", [own + 16]
        fact    "ldt", [own + 20]
        fact    "ts", [own + 24]
        fact8   "busy1", [own + 28]
        fact8   "busyold", [own + 29]
        str     eax
        fact    "back", eax
        fact8   "free", [gdt + OTHER + 5]
        pushfd
        pop     eax
        and     eax, 1 << 14
        fact    "ntnow", eax
        fact    "savedeax", [other + 40]
        fact    "savednt", [other + 36]
        sldt    eax
        fact    "ldtnow", eax
        clts
        ; JMP: the old task isn't busy any more; back by JMP.
        mov     dword [other + 32], jumped
        mov     dword [other + 36], 2
        mov     eax, 0x22222222
        jmp     GATE:0
back:   fact8   "jumpbusy", [own + 28]
        fact8   "jumpold", [own + 29]
        fact    "jumpnt", [own + 8]
        fact    "kept", eax
        ; By an interrupt through a task gate.
        mov     dword [other + 32], interrupted
        mov     dword [other + 36], 2
        mov     dword [idt + VECTOR * 8], OTHER << 16
        mov     dword [idt + VECTOR * 8 + 4], 0xe500
at_int: int     VECTOR
        fact    "intlink", [own + 4]
        fact    "inteip", [own + 8]
        int     VECTOR                          ; it goes on behind its IRET
        fact    "again", [own + 12]
        ; Faults.
        mov     byte [gdt + OTHER + 5], 0x8b
        try     "callbusy", call OTHER:0
        mov     byte [gdt + OTHER + 5], 0x09
        try     "absent", call OTHER:0
        mov     byte [gdt + OTHER + 5], 0x89
        try     "short", call SMALL:0
        try     "self", jmp TSS:0
        mov     eax, TSS
        try     "ltrbusy", ltr ax
        ; What is wrong with a segment of the new task is a fault in the new task: at its first instruction.
        mov     dword [other + 32], second
        mov     dword [other + 36], 2
        mov     dword [other + 88], 0x200       ; FS
        trial_of "badfs", second, .after
        call    OTHER:0
.after: call    told
        str     eax
        fact    "faulttr", eax
        finish

second: mov     [own], eax
        movzx   eax, word [other]
        mov     [own + 4], eax
        pushfd
        pop     eax
        and     eax, 1 << 14
        mov     [own + 8], eax
        str     eax
        mov     [own + 12], eax
        mov     eax, fs
        mov     [own + 16], eax
        sldt    eax
        mov     [own + 20], eax
        mov     eax, cr0
        and     eax, 8
        mov     [own + 24], eax
        mov     al, [gdt + OTHER + 5]
        mov     [own + 28], al
        mov     al, [gdt + TSS + 5]
        mov     [own + 29], al
        mov     eax, 0x33333333
        clts
        iretd

jumped: mov     al, [gdt + OTHER + 5]
        mov     [own + 28], al
        mov     al, [gdt + TSS + 5]
        mov     [own + 29], al
        pushfd
        pop     eax
        and     eax, 1 << 14
        mov     [own + 8], eax
        jmp     TSS:0

interrupted:
        movzx   eax, word [other]
        mov     [own + 4], eax
        mov     eax, [tss + 32]
        sub     eax, at_int                     ; where it was interrupted: behind the INT
        mov     [own + 8], eax
        iretd
        mov     dword [own + 12], 0xa6a1
        iretd
