; Segmentation in 32-bit protected mode: bases, limits and types, expand-down, conforming code, null and
; absent segments, the segment instructions. SDM vol. 3 §5.2-5.8, vol. 2 (LAR, LSL, VERR, ARPL).

%include "pc.inc"

SMALL   equ FREE                ; data, base 0x30000, limit 0xfff
DOWN    equ FREE + 8            ; expand-down, base 0x30000, limit 0xfff, 32 bits
RONLY   equ FREE + 16           ; read-only
XONLY   equ FREE + 24           ; execute-only
CONF    equ FREE + 32           ; conforming code
BASED   equ FREE + 40           ; code with a base
DOWN16  equ FREE + 48           ; expand-down of 16 bits
LDT     equ FREE + 56
PAGED   equ FREE + 64           ; limit by pages: 0x1fff

main:   say     "segments:"
        descriptor SMALL,  0x0040f3030000_0fff & ~(3 << 45)
        descriptor DOWN,   0x004097030000_0fff
        descriptor RONLY,  0x004091030000_0fff
        descriptor XONLY,  0x00cf99000000_ffff
        descriptor CONF,   0x00cf9f000000_ffff
        descriptor BASED,  0x00409b00a000_ffff
        descriptor DOWN16, 0x000097030000_0fff
        descriptor LDT,    0x000082031000_000f
        descriptor PAGED,  0x00c093030000_0001
        mov     dword [0x30ffc], 0x12345678
        mov     dword [0x31000], 0
        mov     dword [0x31004], 0
        mov     dword [0x31008], 0x0000ffff     ; LDT: entry 1, flat data of ring 0
        mov     dword [0x3100c], 0x00cf9300
        mov     eax, SMALL
        mov     fs, eax
        fact    "base", [fs:0xffc]
        fact8   "accessed", [gdt + SMALL + 5]
        try     "last", mov al, [fs:0xfff]
        try     "beyond", mov al, [fs:0x1000]
        try     "straddle", mov eax, [fs:0xffd]
        try     "straddlew", mov [fs:0xffd], eax
        try     "wrap", mov eax, [fs:0xfffffffe]
        mov     eax, PAGED
        mov     fs, eax
        try     "pagelast", mov al, [fs:0x1fff]
        try     "pagebeyond", mov al, [fs:0x2000]
        mov     eax, DOWN
        mov     fs, eax
        try     "downlow", mov al, [fs:0xfff]
        try     "downok", mov al, [fs:0x1000]
        try     "downtop", mov al, [fs:0xffffffff]
        try     "downwrap", mov eax, [fs:0xfffffffd]
        mov     eax, DOWN16
        mov     fs, eax
        try     "down16", mov al, [fs:0xffff]
        try     "down16top", mov al, [fs:0x10000]
        mov     eax, RONLY
        mov     fs, eax
        try     "ronly", mov al, [fs:0]
        try     "ronlyw", mov [fs:0], al
        mov     eax, XONLY
        try     "xload", mov fs, eax
        mov     eax, CONF
        mov     fs, eax
        try     "codew", mov [fs:0], al
        try     "coder", mov al, [fs:0]
        xor     eax, eax
        mov     fs, eax
        try     "null", mov al, [fs:0]
        try     "nullwrite", mov [fs:0], al
        mov     eax, 3
        try     "null3", mov fs, eax
        mov     eax, RONLY
        try     "ssro", mov ss, eax
        mov     eax, DATA | 1
        try     "ssrpl", mov ss, eax
        mov     eax, 0x4c                       ; LDT, without one
        try     "noldt", mov fs, eax
        mov     eax, SMALL
        try     "lldtbad", lldt ax
        mov     eax, LDT
        lldt    ax
        mov     eax, 0x0c
        try     "ldt", mov fs, eax
        try     "ldtread", mov eax, [fs:0x30ffc]
        mov     eax, 0x14
        try     "ldtlimit", mov fs, eax
        xor     eax, eax
        lldt    ax
        ; A stack with a limit: #SS.
        mov     eax, SMALL
        mov     ebx, esp
        mov     ebp, 0x1000
        mov     ss, eax
        mov     esp, 0x800
        trial_of "stack", stack_at, stack_after
        mov     [t_stack], ebx
stack_at: mov   al, [ebp]
stack_after:
        mov     ecx, ss
        call    told
        fact    "ssnow", ecx                    ; the handler's
        ; LAR, LSL, VERR, VERW, ARPL, SMSW, SLDT, STR.
        mov     ecx, DATA
        lar     eax, ecx
        fact    "lar", eax
        lsl     eax, ecx
        fact    "lsl", eax
        mov     ecx, SMALL
        lsl     eax, ecx
        fact    "lslsmall", eax
        mov     ecx, TSS
        lar     eax, ecx
        fact    "lartss", eax
        mov     ecx, 0x1f8 + 8
        mov     eax, 0x55
        lar     eax, ecx
        setz    dl
        fact    "larbad", eax
        fact8   "larzf", dl
        mov     ecx, XONLY
        verr    cx
        setz    dl
        fact8   "verrx", dl
        mov     ecx, RONLY
        verr    cx
        setz    dl
        fact8   "verr", dl
        verw    cx
        setz    dl
        fact8   "verw", dl
        mov     eax, 0x10
        mov     ecx, 0x23
        arpl    ax, cx
        setz    dl
        fact    "arpl", eax
        fact8   "arplzf", dl
        str     eax
        fact    "str", eax
        sldt    eax
        fact    "sldt", eax
        smsw    eax
        fact    "smsw", eax
        ; Far jumps and calls: a code segment with a base, conforming code, returns.
        call    BASED:based - $$
        fact    "farcall", eax
        call    CONF:conforming
        fact    "conforming", eax
        try     "fardata", jmp DATA:0
        try     "farlimit", jmp BASED:0x10000
        try     "fartss", jmp USER_CODE:0
        push    dword USER_DATA
        push    dword 0
        try     "retfdata", retf
        add     esp, 8
        user    "usermov", mov fs, eax
        mov     eax, DATA
        user    "userds", mov fs, eax           ; RPL 0, DPL 0, CPL 3
        mov     eax, CONF
        user    "userconf", mov fs, eax         ; conforming and readable: any ring
        user    "usercall", call CONF:user_conforming
        user    "usercode", call CODE:0
        lds     esi, [far_pointer]
        fact    "lds", esi
        lfs     esi, [far_pointer]
        mov     eax, fs
        fact    "lfs", eax
        push    fs
        pop     eax
        fact    "pushfs", eax
        push    dword 0xffff0000 + DATA
        pop     gs
        mov     eax, gs
        fact    "popgs", eax
        finish

based:  mov     eax, cs
        retf
conforming:
        mov     eax, cs
        retf
user_conforming:
        mov     eax, cs                         ; still ring 3: RPL is CPL
        and     eax, 3
        retf

[section .data align=4]
far_pointer:
        dd      0x12345678
        dw      USER_DATA
__?SECT?__
