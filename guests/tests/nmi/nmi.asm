; Non-maskable interrupts, which the LAPIC sends to itself: IF doesn't count, the next is blocked until IRET,
; one is kept. SDM vol. 3 §6.7, §10.6.1.

%include "pc.inc"

APIC    equ 0xfee00000
SVR     equ APIC + 0xf0
ICR     equ APIC + 0x300
COUNT   equ own
EIP     equ own + 4
NESTED  equ own + 8
SEND    equ own + 12            ; how many the handler sends
DEPTH   equ own + 16

%macro  nmi 0
        mov     dword [ICR + 0x10], 0
        mov     dword [ICR], 4 << 8 | 1 << 14   ; NMI to this CPU, by its APIC ID
        wait_a_while
%endmacro

main:   say     "nmi:"
        mov     dword [SVR], 0x1ff
        mov     eax, [APIC + 0x20]
        mov     [ICR + 0x10], eax
        gate    2, handler
        nmi
        fact    "masked", [COUNT]               ; with IF off
        mov     dword [COUNT], 0
        mov     dword [SEND], 3                 ; the handler sends three more: they are one
        nmi
        fact    "blocked", [COUNT]
        fact    "nested", [NESTED]
        mov     dword [COUNT], 0
        mov     dword [SEND], 1
        nmi
        fact    "kept", [COUNT]
        ; A fault in the handler and its IRET end the blocking.
        mov     dword [COUNT], 0
        mov     dword [SEND], 0
        gate    2, faulting
        gate    6, skips
        nmi
        fact    "early", [COUNT]
        fact    "depth", [DEPTH]
        gate    2, handler
        mov     dword [COUNT], 0
        mov     dword [ICR], 4 << 8 | 1 << 14
        wait_a_while
        fact    "more", [COUNT]
        finish

handler:
        push    eax
        push    ecx
        inc     dword [COUNT]
        mov     ecx, [SEND]
        mov     dword [SEND], 0
        mov     eax, [COUNT]
        mov     [EIP], eax
        jecxz   .done
.send:  mov     dword [ICR], 4 << 8 | 1 << 14
        loop    .send
        wait_a_while
        mov     eax, [COUNT]
        mov     [NESTED], eax                   ; still the first
.done:  pop     ecx
        pop     eax
        iretd

faulting:
        push    eax
        inc     dword [DEPTH]
        inc     dword [COUNT]
        cmp     dword [COUNT], 1
        jne     .out
        mov     dword [ICR], 4 << 8 | 1 << 14
        wait_a_while
        ud2                                     ; its IRET lets the second in, here
        mov     eax, [COUNT]
        mov     [EIP], eax
.out:   pop     eax
        iretd
skips:  add     dword [esp], 2
        iretd
