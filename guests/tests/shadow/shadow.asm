; Interrupt shadows: of STI and of MOV SS, what may come between, STI twice, CLI after STI, POPF without
; one, and STI before HLT. The LAPIC sends itself an interrupt that waits. SDM vol. 2 (STI, MOV, HLT).

%include "pc.inc"

APIC    equ 0xfee00000
SVR     equ APIC + 0xf0
ICR     equ APIC + 0x300
EOI     equ APIC + 0xb0
TPR     equ APIC + 0x80
VECTOR  equ 0x40
EIP     equ own
COUNT   equ own + 4

%macro  wait_one 0              ; make one wait
        mov     dword [EIP], 0
        mov     dword [ICR + 0x10], 0
        mov     dword [ICR], 1 << 18 | VECTOR   ; to itself
        mov     eax, [ICR]
%endmacro
%macro  came 2                  ; name, where from
        mov     eax, [EIP]
        sub     eax, %2
        fact    %1, eax
%endmacro

main:   say     "shadow:"
        mov     dword [SVR], 0x1ff
        mov     dword [TPR], 0
        gate    VECTOR, handler
        wait_one
sti1:   sti
        nop
        nop
        cli
        came    "sti", sti1                     ; behind the first NOP
        wait_one
clis:   sti
        cli
        nop
        fact    "sticli", [EIP]                 ; CLI in the shadow: none came
        sti
        nop
        cli
        wait_one
sti2:   sti
        sti                                     ; the shadow isn't made longer
        nop
        nop
        cli
        came    "stisti", sti2
        wait_one
        push    dword 0x202
popf1:  popfd
        nop
        cli
        came    "popf", popf1                   ; at once
        wait_one
hlts:   sti
        hlt                                     ; wakes at once, behind HLT
        nop
        cli
        came    "hlt", hlts
        wait_one
        push    dword 0x202
        push    dword CODE
        push    dword iret1
        iretd
iret1:  nop
        nop
        cli
        came    "iret", iret1                   ; at once
        fact    "count", [COUNT]
        finish

handler:
        push    eax
        mov     eax, [esp + 4]
        mov     [EIP], eax
        inc     dword [COUNT]
        mov     dword [EOI], 0
        pop     eax
        iretd
