; SMEP and SMAP: ring 0 neither runs nor touches pages of ring 3, but by STAC; the CPU's own accesses to
; such a page; and their instructions. SDM vol. 3 §4.6, vol. 2 (STAC, CLAC).

%include "pc.inc"
%include "long.inc"

TABLE   equ 0x30000
PAGES   equ 0x31000
FRAME   equ 0x40000
AREA    equ 0x40000000

main:   say     "smap:"
        mov     edi, TABLE
        xor     eax, eax
        mov     ecx, 0x800
        rep     stosd
        enter_long
        ; The first 2 MiB become ring 0's, but for a copy at 1 GiB: page 0 of user, page 1 of supervisor.
        mov     qword [PAGES], FRAME | 7
        mov     qword [PAGES + 8], FRAME | 3
        mov     qword [TABLE], PAGES | 7
        mov     qword [PDPT + 8], TABLE | 7
        mov     dword [FRAME], 0x00c3c3c3
        mov     rax, cr0
        or      eax, 1 << 16
        mov     cr0, rax
        mov     ebx, AREA
        mov     eax, 7
        xor     ecx, ecx
        cpuid
        bt      ebx, 7
        setc    al
        fact8   "smep", al
        bt      ebx, 20
        setc    al
        fact8   "smap", al
        mov     ebx, AREA
        try     "before", call rbx
        try     "readbefore", mov al, [rbx]
        mov     qword [DIRECTORIES], 0x83       ; what runs here is ring 0's
        mov     rax, cr3
        mov     cr3, rax
        mov     rax, cr4
        or      eax, 1 << 20                    ; SMEP
        mov     cr4, rax
        try     "smepx", call rbx
        try     "smepread", mov al, [rbx]
        lea     rsi, [rbx + 0x1000]
        try     "supx", call rsi
        mov     rax, cr4
        or      eax, 1 << 21                    ; SMAP
        mov     cr4, rax
        try     "read", mov al, [rbx]
        try     "write", mov [rbx], al
        try     "rmw", inc byte [rbx]
        stac
        mov     al, [rbx]
        pushfq
        pop     rcx
        mov     [rbx + 8], al
        clac
        shr     ecx, 18
        fact    "ac", rcx
        try     "clac", mov al, [rbx]
        stac
        try     "stacx", call rbx               ; SMEP doesn't care
        clac
        pushfq
        or      dword [rsp], 1 << 18
        popfq
        mov     al, [rbx + 8]                   ; POPF sets AC as well
        clac
        try     "supread", mov al, [rsi]
        mov     edi, AREA + 16
        mov     ecx, 4
        try     "rep", rep stosb
        fact    "ecx", rcx
        ; An LDT in a page of ring 3: an implicit access, which AC doesn't help.
        stac
        mov     rax, FLAT_DATA
        mov     [rbx + 0x800], rax
        mov     qword [gdt + FREE], 0x0f | 0x800 << 16
        mov     dword [gdt + FREE + 4], 0x8200 | AREA & 0xff000000
        mov     qword [gdt + FREE + 8], 0
        mov     eax, FREE
        lldt    ax
        mov     ecx, 4
        try     "implicit", mov fs, ecx
        clac
        mov     rax, cr4
        and     eax, ~(1 << 21 | 1 << 20)
        mov     cr4, rax
        mov     qword [DIRECTORIES], 0x87
        mov     rax, cr3
        mov     cr3, rax
        user    "ustac", stac
        finish
        bits    32
