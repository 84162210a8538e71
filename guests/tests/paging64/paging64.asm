; 4-level paging: pages of 4 KiB, 2 MiB and 1 GiB, accessed and dirty bits, write protection, user and
; supervisor pages, execute-disable, reserved bits, the error code and CR2 of each fault. SDM vol. 3 §4.5-4.8.

%include "pc.inc"
%include "long.inc"

TABLE   equ 0x30000             ; maps 0x40000000 and up: PDPT entry 1
PAGES   equ 0x31000
FRAME   equ 0x40000             ; the page behind all of it
AREA    equ 0x40000000

%macro  map 2                   ; number of the page, entry
        mov     rax, %2
        mov     [PAGES + 8 * (%1)], rax
        mov     eax, AREA + 0x1000 * (%1)
        invlpg  [rax]
%endmacro

main:   say     "paging64:"
        mov     edi, TABLE
        xor     eax, eax
        mov     ecx, 0x800
        rep     stosd
        enter_long
        mov     qword [TABLE], PAGES | 7
        mov     qword [PDPT + 8], TABLE | 7
        mov     rax, cr0
        or      eax, 1 << 16                    ; WP
        mov     cr0, rax
        mov     rax, cr3
        mov     cr3, rax
        mov     dword [FRAME], 0x00c3c3c3       ; returns
        mov     ebx, AREA
        ; Accessed and dirty.
        map     0, FRAME | 7
        fact    "fresh", [PAGES]
        mov     al, [rbx]
        fact    "read", [PAGES]
        fact    "table", [TABLE]
        mov     [rbx + 8], al
        fact    "written", [PAGES]
        ; Not present.
        map     0, FRAME
        try     "absent", mov al, [rbx]
        try     "absentw", mov [rbx + 1], al
        try     "absentx", call rbx
        user    "uabsent", mov al, [rbx + 2]
        user    "uabsentw", mov [rbx + 3], al
        user    "uabsentx", jmp rbx
        ; Read-only.
        map     0, FRAME | 5
        try     "ro", mov al, [rbx]
        try     "row", mov [rbx], al
        try     "rorw", inc byte [rbx]
        user    "urow", mov [rbx], al
        try     "nodirty", mov al, [PAGES]
        fact    "rostate", [PAGES]
        mov     rax, cr0
        and     eax, ~(1 << 16)
        mov     cr0, rax
        try     "nowp", mov [rbx + 8], al
        user    "unowp", mov [rbx + 8], al
        fact    "nowpstate", [PAGES]
        or      eax, 1 << 16
        mov     cr0, rax
        try     "wpagain", mov [rbx], al
        ; Supervisor.
        map     0, FRAME | 3
        try     "sup", mov [rbx + 8], al
        user    "usup", mov al, [rbx]
        user    "usupw", mov [rbx], al
        user    "usupx", jmp rbx
        ; The upper levels count as well.
        map     0, FRAME | 7
        mov     qword [TABLE], PAGES | 5
        mov     rax, cr3
        mov     cr3, rax
        try     "upperro", mov [rbx], al
        mov     qword [TABLE], PAGES | 3
        mov     rax, cr3
        mov     cr3, rax
        user    "uppersup", mov al, [rbx]
        mov     qword [TABLE], 0
        mov     rax, cr3
        mov     cr3, rax
        try     "noupper", mov al, [rbx]
        mov     qword [TABLE], PAGES | 7
        ; Execute-disable.
        map     0, FRAME | 7 | 1 << 63
        try     "nx", call rbx
        user    "unx", jmp rbx
        try     "nxread", mov al, [rbx]
        map     0, FRAME | 7
        try     "x", call rbx
        mov     ecx, 0xc0000080
        rdmsr
        and     eax, ~(1 << 11)
        wrmsr
        map     0, FRAME | 7 | 1 << 63
        try     "nonxe", mov al, [rbx]          ; reserved without EFER.NXE
        rdmsr
        or      eax, 1 << 11
        wrmsr
        ; Reserved bits.
        map     0, FRAME | 7 | 1 << 51
        try     "rsvd", mov al, [rbx]
        try     "rsvdw", mov [rbx], al
        user    "ursvd", mov al, [rbx]
        mov     rax, 0x600087
        mov     [TABLE + 8], rax                ; 2 MiB at AREA + 2 MiB
        mov     esi, AREA + 0x200000
        mov     dword [0x612345], 0x2b00b1e5
        mov     eax, [rsi + 0x12345]
        fact    "two", rax
        mov     [rsi + 0x12345], al
        fact    "twostate", [TABLE + 8]
        mov     rax, 0x602087                   ; bit 13 must be 0
        mov     [TABLE + 8], rax
        invlpg  [rsi]
        try     "tworsvd", mov al, [rsi]
        mov     qword [PDPT + 16], 0x87         ; 1 GiB at 2 GiB
        mov     rax, cr3
        mov     cr3, rax
        mov     edi, 0x80000000
        mov     rax, [rdi + 0x612345]
        fact    "one", rax
        fact    "onestate", [PDPT + 16]
        mov     qword [PDPT + 16], 0x100087 | 1 << 29
        mov     rax, cr3
        mov     cr3, rax
        try     "onersvd", mov al, [rdi]
        mov     qword [PML4 + 8], PDPT | 7 | 1 << 7
        mov     rax, 1 << 39
        try     "pml4ps", mov al, [rax]
        ; An access over two pages, of which the second is missing.
        map     0, FRAME | 7
        map     1, 0
        mov     eax, 0x11223344
        try     "cross", mov [rbx + 0xffe], eax
        fact16  "half", [FRAME + 0xffe]
        map     1, FRAME + 0x1000 | 7
        try     "crossok", mov [rbx + 0xffe], eax
        fact16  "low", [FRAME + 0xffe]
        fact16  "high", [FRAME + 0x1000]
        ; Pages that aren't neighbours.
        map     1, FRAME + 0x4000 | 7
        mov     [rbx + 0xffd], eax
        fact8   "apart", [FRAME + 0x4000]
        ; A stale entry is dropped by INVLPG; a global page survives CR3.
        mov     byte [FRAME + 0x100], 0xaa
        mov     byte [FRAME + 0x4100], 0xbb
        mov     rax, cr4
        or      eax, 1 << 7
        mov     cr4, rax
        map     1, FRAME + 0x4000 | 7 | 1 << 8
        fact8   "global", [rbx + 0x1100]
        map     1, FRAME | 7
        fact8   "changed", [rbx + 0x1100]
        finish
        bits    32
