; 2-level paging: 4 KiB and 4 MiB pages, PSE off and on, accessed and dirty bits, rights, faults, recursive
; mapping, and a page table in the page of the code that runs. SDM vol. 3 §4.3.

%include "pc.inc"

DIR     equ 0x20000
TABLE   equ 0x21000             ; maps 0x40000000
LOW     equ 0x22000             ; maps the first 4 MiB
FRAME   equ 0x40000
AREA    equ 0x40000000

%macro  map 2
        mov     dword [TABLE + 4 * (%1)], %2
        invlpg  [AREA + 0x1000 * (%1)]
%endmacro
%macro  reload 0
        mov     eax, cr3
        mov     cr3, eax
%endmacro

main:   say     "paging32:"
        mov     edi, DIR
        xor     eax, eax
        mov     ecx, 0x800
        rep     stosd
        mov     edi, LOW
        mov     eax, 7
        mov     ecx, 1024
.low:   stosd
        add     eax, 0x1000
        loop    .low
        mov     dword [DIR], LOW | 7
        mov     dword [DIR + 0x400], TABLE | 7
        mov     dword [DIR + 0xffc], DIR | 3    ; the tables at 0xffc00000
        mov     eax, DIR
        mov     cr3, eax
        mov     eax, cr0
        or      eax, 1 << 31 | 1 << 16
        mov     cr0, eax
        mov     ebx, AREA
        mov     dword [FRAME], 0x00c3c3c3
        map     0, FRAME | 7
        fact    "fresh", [TABLE]
        mov     al, [ebx]
        fact    "read", [TABLE]
        mov     [ebx + 8], al
        fact    "written", [TABLE]
        fact    "recursive", [0xffd00000]
        fact    "self", [0xfffffffc]
        map     0, FRAME
        try     "absent", mov al, [ebx]
        try     "absentw", mov [ebx], al
        try     "absentx", call ebx
        user    "uabsent", mov al, [ebx]
        map     0, FRAME | 5
        try     "row", mov [ebx], al
        user    "urow", mov [ebx], al
        user    "uro", mov al, [ebx]
        mov     eax, cr0
        and     eax, ~(1 << 16)
        mov     cr0, eax
        try     "nowp", mov [ebx + 8], al
        mov     eax, cr0
        or      eax, 1 << 16
        mov     cr0, eax
        try     "wp", mov [ebx + 8], al
        map     0, FRAME | 3
        user    "usup", mov al, [ebx]
        user    "usupx", jmp ebx
        map     0, FRAME | 7
        mov     dword [DIR + 0x400], TABLE | 5
        reload
        try     "dirro", mov [ebx], al
        mov     dword [DIR + 0x400], TABLE | 7
        reload
        ; PS without CR4.PSE is no large page.
        mov     dword [DIR + 0x404], TABLE | 0x87
        reload
        fact8   "nopse", [AREA + 0x400000]
        mov     eax, cr4
        or      eax, 1 << 4
        mov     cr4, eax
        mov     dword [DIR + 0x404], 0x87       ; 4 MiB at 0
        reload
        mov     esi, AREA + 0x400000
        fact    "large", [esi + FRAME]
        mov     [esi + FRAME + 9], al
        fact    "largestate", [DIR + 0x404]
        mov     dword [DIR + 0x404], 0x200087   ; bit 21 is reserved
        reload
        try     "rsvd", mov al, [esi]
        ; A REP that faults in the middle goes on where it was.
        map     0, FRAME | 7
        map     1, 0
        mov     edi, AREA + 0xff0
        mov     ecx, 0x20
        mov     al, 0x55
        try     "rep", rep stosb
        fact    "ecx", ecx
        fact    "edi", edi
        mov     esi, AREA + 0x1003
        mov     edi, FRAME
        mov     ecx, 4
        try     "movs", rep movsd
        fact    "movsecx", ecx
        ; The page table that maps the code's page lies in that page.
        mov     edi, LOW2
        mov     esi, LOW
        mov     ecx, 1024
        rep     movsd
        mov     dword [DIR], LOW2 | 7
        reload
        mov     esi, moved                      ; code into the page table itself, behind what it maps here
        mov     edi, IN_TABLE
        mov     ecx, moved.end - moved
        rep     movsb
        mov     ecx, 3
        mov     edi, IN_TABLE
        call    edi
   fact    "intable", eax
        fact    "ecx2", ecx
        mov     dword [DIR], LOW | 7
        reload
        ; Paging off.
        mov     eax, cr0
        and     eax, ~(1 << 31)
        mov     cr0, eax
        fact    "off", [FRAME + 0x1010]
        finish

moved:  ; Each turn changes an entry of the table that this code lies in, and reads through it.
        xor     eax, eax
.turn:  mov     edx, ecx
        shl     edx, 12
        add     edx, FRAME | 7
        mov     [LOW2 + 4 * 0x300], edx
        invlpg  [0x300000]
        mov     [0x300010], ecx
        shl     eax, 4
        add     eax, [FRAME + 0x10 + 0x1000]
        loop    .turn
        ret
.end:

LOW2    equ 0x50000
IN_TABLE equ LOW2 + 0xf80
