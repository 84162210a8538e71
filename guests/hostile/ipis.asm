; Four CPUs that interrupt, reset and start each other without end, also such as nobody is, in every way that ICR has.
%include "hostile.inc"
APIC    equ     0xfee00000
START   equ     0x8000          ; the page that SIPI starts the others in
OTHERS  equ     3 << 18
ALL     equ     2 << 18
LOGICAL equ     1 << 11
        mov     ebx, APIC
        mov     dword [rbx + 0xf0], 0x1ff       ; on
        mov     dword [rbx + 0xd0], 1 << 24
        mov     esi, starter
        mov     edi, START
        mov     ecx, starter.end - starter
        rep     movsb
        mov     r15d, .again                    ; where `caught` goes on
.again: mov     dword [rbx + 0xb0], 0           ; EOI
        sti
        mov     dword [rbx + 0x300], OTHERS | 0x4500                    ; INIT
        mov     dword [rbx + 0x300], OTHERS | 0x4600 | START >> 12      ; SIPI
        mov     ecx, 300
.storm: mov     dword [rbx + 0x300], OTHERS | 0x4600 | START >> 12
        mov     dword [rbx + 0x300], OTHERS | 0x4050                    ; fixed
        mov     dword [rbx + 0x300], OTHERS | 0x4000                    ; a vector that isn't allowed
        mov     dword [rbx + 0x300], OTHERS | 0x4300                    ; reserved
        mov     dword [rbx + 0x300], OTHERS | 0x8500                    ; INIT, level de-assert
        mov     [rbx + 0x310], ecx                                      ; to ids that nobody has
        shl     dword [rbx + 0x310], 24
        mov     dword [rbx + 0x300], 0x4051
        mov     dword [rbx + 0x300], LOGICAL | 0x4151                   ; lowest priority
        mov     dword [rbx + 0x300], ALL | 0x4052
        loop    .storm
        jmp     .again

; Real mode at START, from SIPI on; then 32-bit code with interrupts off, until INIT ends it.
        bits    16
starter:
        xor     ax, ax
        mov     ds, ax
        o32 lgdt [START + .pointer - starter]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        jmp     dword 8:START + .flat - starter
        bits    32
.flat:  mov     eax, 16
        mov     ds, eax
        mov     dword [APIC + 0xf0], 0x1ff
.more:  mov     dword [APIC + 0x310], 0
        mov     dword [APIC + 0x300], 0x4050    ; to the first
        mov     dword [APIC + 0x300], 0x4400    ; as NMI
        mov     dword [APIC + 0x300], OTHERS | 0x4053
        mov     dword [APIC + 0x310], 0xff << 24
        mov     dword [APIC + 0x300], LOGICAL | 0x4154
        jmp     .more
        align   8
.gdt:   dq      0
        dq      0x00cf9b000000ffff      ; code: 4 GiB
        dq      0x00cf93000000ffff      ; data
.pointer:
        dw      23
        dd      START + .gdt - starter
.end:
