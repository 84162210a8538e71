; PAE paging: the four directory pointers, pages of 4 KiB and 2 MiB, execute-disable
; in 32-bit mode, reserved bits, and a loaded pointer that is wrong. SDM vol. 3 §4.4.

%include "pc.inc"

PDPT    equ 0x20000
DIR     equ 0x21000
TABLE   equ 0x22000
DIR1    equ 0x23000
FRAME   equ 0x40000
AREA    equ 0x40000000

%macro  map 3                           ; page, low and high half
        mov     dword [TABLE + 8 * (%1) + 4], %3
        mov     dword [TABLE + 8 * (%1)], %2
        invlpg  [AREA + 0x1000 * (%1)]
%endmacro

main:   say     "pae:"
        mov     edi, PDPT
        xor     eax, eax
        mov     ecx, 0x1000
        rep     stosd
        mov     dword [DIR], 0x87               ; 2 MiB at 0
        mov     dword [DIR1], TABLE | 7
        mov     dword [PDPT], DIR | 1
        mov     dword [PDPT + 8], DIR1 | 1
        mov     dword [FRAME], 0x00c3c3c3
        mov     eax, cr4
        or      eax, 1 << 5
        mov     cr4, eax
        mov     eax, PDPT
        mov     cr3, eax
        mov     eax, cr0
        or      eax, 1 << 31 | 1 << 16
        mov     cr0, eax
        mov     ebx, AREA
        map     0, FRAME | 7, 0
        mov     al, [ebx]
        fact    "read", [TABLE]
        mov     [ebx + 8], al
        fact    "written", [TABLE]
        fact    "dir", [DIR1]
        fact    "pdpt", [PDPT + 8]              ; has no accessed bit
        fact    "large", [DIR]
        map     0, FRAME, 0
        try     "absent", mov al, [ebx]
        try     "absentx", call ebx             ; no I/D without NXE
        map     0, FRAME | 5, 0
        try     "row", mov [ebx], al
        map     0, FRAME | 3, 0
        user    "usup", mov [ebx], al
        map     0, FRAME | 7, 1 << 31
        try     "nonxe", mov al, [ebx]
        mov     ecx, 0xc0000080
        rdmsr
        or      eax, 1 << 11
        wrmsr
        map     0, FRAME | 7, 1 << 31
        try     "nx", call ebx
        try     "nxread", mov al, [ebx]
        user    "unx", jmp ebx
        map     0, FRAME | 7, 0
        try     "x", call ebx
        map     0, FRAME, 0
        try     "absentnx", call ebx
        map     0, FRAME | 7, 1 << 30           ; bit 62 is reserved here
        try     "rsvd", mov al, [ebx]
        mov     dword [DIR1 + 8], 0x87
        mov     esi, AREA + 0x200000
        fact    "two", [esi + FRAME]
        mov     dword [DIR1 + 8], 0x4087
        invlpg  [esi]
        try     "tworsvd", mov al, [esi]
        try     "nopdpte", mov al, [0x80000000]
        mov     dword [DIR1 + 16], 0x87
        mov     dword [PDPT + 16], DIR1 | 1
        mov     eax, cr3
        mov     cr3, eax
        map     0, FRAME | 7, 0
        fact8   "loaded", [0x80000000]
        mov     dword [PDPT + 24], DIR1 | 3     ; bit 1 is reserved
        try     "badpdpte", mov cr3, eax
        mov     dword [PDPT + 24], 0
        mov     eax, cr3
        and     eax, ~0x1f
        add     eax, 0x20                       ; 32-byte alignment: PDPT + 32 holds nothing that is present
        mov     dword [PDPT + 32], DIR | 1
        mov     cr3, eax
        try     "moved", mov al, [ebx]
        mov     eax, PDPT
        mov     cr3, eax
        mov     eax, cr0
        and     eax, ~(1 << 31)
        mov     cr0, eax
        finish
