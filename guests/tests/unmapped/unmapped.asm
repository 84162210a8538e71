; Where no RAM is: reads of nothing, writes to it, code from it, from a device's page and from ROM's place, a
; jump beyond all memory, a page table and a stack there. What such memory reads is all ones.

%include "pc.inc"
%include "long.inc"

NOTHING equ 0xd0000000          ; neither RAM nor device
BEYOND     equ 0x8_0000_0000       ; beyond RAM: 32 GiB
APIC    equ 0xfee00000

main:   say     "unmapped:"
        fact    "read", [NOTHING]
        mov     dword [NOTHING], 0x12345678
        fact    "written", [NOTHING]
        fact16  "read16", [NOTHING + 1]
        mov     esi, NOTHING
        mov     edi, own + 0x100
        mov     ecx, 4
        rep     movsd
        fact    "movs", [own + 0x10c]
        mov     edi, NOTHING
        mov     eax, 1
        mov     ecx, 100
        rep     stosd
        fact    "stos", ecx
        lock inc dword [NOTHING]
        fact    "lock", [NOTHING]
        xor     eax, eax
        xchg    [NOTHING], eax
        fact    "xchg", eax
        push    dword [NOTHING]
        pop     eax
        fact    "push", eax
        ; Code that is all ones: FF FF is no instruction.
        mov     eax, NOTHING
        try     "call", call eax
        try     "jump", jmp eax
        enter_long
        ; 1 GiB and up: tables beyond RAM read all ones, which has reserved bits set.
        mov     qword [PDPT + 8 * 4], DIRECTORIES | 7
        mov     rax, BEYOND | 7
        mov     [PDPT + 8 * 5], rax
        mov     rax, cr3
        mov     cr3, rax
        mov     rbx, 4 << 30
        mov     rcx, [rbx + own]                ; through another's directory
        cmp     rcx, [own]
        sete    cl
        fact8   "shared", cl
        mov     rbx, 5 << 30
        try     "tables", mov al, [rbx]
        mov     ebx, NOTHING
        mov     rax, [rbx]
        fact    "wide", rax
        mov     eax, 0xffffffff
        cmpxchg [rbx], ecx
        setz    cl
        fact8   "cmpxchg", cl
        ; The local APIC's page: a register is read as data, and as code it is what reads give: EAX, AL.
        mov     ebx, APIC
        mov     eax, [rbx + 0x30]
        and     eax, 0xf0
        fact    "apic", rax
        ; The stack on nothing: what was pushed doesn't come back.
        mov     rdx, rsp
        mov     esp, NOTHING + 0x800
        push    rdx
        pop     rcx
        mov     rsp, rdx
        fact    "stack", rcx
        finish
        bits    32
