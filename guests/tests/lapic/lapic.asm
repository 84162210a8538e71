; The local APIC: identity, self-IPIs, IRR, ISR, TPR and PPR, EOI, nesting, the timer one-shot, periodic and
; masked, its divider, software disable, x2APIC. SDM vol. 3 §10.

%include "pc.inc"

APIC    equ 0xfee00000
TPR     equ APIC + 0x80
PPR     equ APIC + 0xa0
EOI     equ APIC + 0xb0
SVR     equ APIC + 0xf0
ISR     equ APIC + 0x100
IRR     equ APIC + 0x200
ESR     equ APIC + 0x280
ICR     equ APIC + 0x300
TIMER   equ APIC + 0x320
LINT0   equ APIC + 0x350
INITIAL equ APIC + 0x380
CURRENT equ APIC + 0x390
DIVIDE  equ APIC + 0x3e0
LAST    equ own
COUNT   equ own + 4
ORDER   equ own + 8
KEEP    equ own + 12            ; the handler sends no EOI

%macro  send 1
        mov     dword [ICR + 0x10], 0
        mov     dword [ICR], 1 << 18 | (%1)
        mov     eax, [ICR]
%endmacro

main:   say     "lapic:"
        mov     ecx, 0x1b
        rdmsr
        fact    "base", eax
        fact    "id", [APIC + 0x20]
        mov     eax, [APIC + 0x30]
        and     eax, 0xf0
        fact    "integrated", eax
%assign v 0x30
%rep    0x50
        gate    v, irq %+ v
%assign v v + 1
%endrep
        gate    0xff, spurious
        gate    5, spurious
        mov     dword [SVR], 0x1ff
        mov     dword [TPR], 0
        fact    "svr", [SVR]
        send    0x51
        fact    "irr", [IRR + 0x20]
        fact    "icr", [ICR]
        window
        fact    "vector", [LAST]
        fact    "isr", [ISR + 0x20]             ; after EOI
        ; Priorities: the higher class first; TPR holds back.
        mov     dword [COUNT], 0
        send    0x41
        send    0x61
        send    0x52
        mov     dword [TPR], 0x50
        fact    "ppr", [PPR]
        window
        fact    "above", [COUNT]
        fact    "above1", [LAST]
        mov     dword [TPR], 0x40
        window
        fact    "next", [LAST]
        mov     dword [TPR], 0
        window
        fact    "all", [COUNT]
        fact    "order", [ORDER]
        ; In service: PPR is its class, lower and equal ones wait.
        mov     dword [KEEP], 1
        send    0x55
        window
        fact    "inservice", [ISR + 0x20]
        fact    "ppr2", [PPR]
        mov     dword [KEEP], 0
        mov     dword [COUNT], 0
        send    0x51
        window
        fact    "same", [COUNT]
        send    0x62
        window
        fact    "nested", [LAST]
        mov     dword [EOI], 0
        window
        fact    "after", [LAST]
        ; The same vector twice is one.
        mov     dword [COUNT], 0
        send    0x51
        send    0x51
        window
        fact    "twice", [COUNT]
        ; Vectors below 16 are errors.
        mov     dword [ESR], 0
        send    5
        mov     dword [ESR], 0
        fact    "esr", [ESR]
        window
        mov     dword [ESR], 0
        ; Self by destination, logical and physical.
        mov     dword [COUNT], 0
        mov     dword [ICR + 0x10], 0
        mov     dword [ICR], 0x44
        mov     eax, [ICR]
        window
        fact    "physical", [COUNT]
        mov     dword [APIC + 0xe0], -1         ; flat
        mov     dword [APIC + 0xd0], 1 << 24
        mov     dword [ICR + 0x10], 3 << 24
        mov     dword [ICR], 0x45 | 1 << 11
        mov     eax, [ICR]
        window
        fact    "logical", [COUNT]
        mov     dword [ICR + 0x10], 2 << 24
        mov     dword [ICR], 0x45 | 1 << 11
        mov     eax, [ICR]
        window
        fact    "other", [COUNT]
        mov     dword [ICR], 0x46 | 2 << 18     ; all
        mov     eax, [ICR]
        window
        fact    "everyone", [COUNT]
        mov     dword [ICR], 0x46 | 3 << 18     ; all but this
        mov     eax, [ICR]
        window
        fact    "others", [COUNT]
        ; The timer.
        mov     dword [COUNT], 0
        mov     dword [DIVIDE], 0xb
        mov     dword [TIMER], 0x70
        mov     dword [INITIAL], 10000
        sti
.once:  cmp     dword [COUNT], 0
        je      .once
        cli
        fact    "shot", [LAST]
        fact    "current", [CURRENT]
        mov     ecx, 10000
.idle:  loop    .idle
        window
        fact    "once", [COUNT]
        mov     dword [TIMER], 0x71 | 1 << 17   ; periodic
        mov     dword [INITIAL], 500000         ; 0.5 ms: KVM takes no period below 0.2 ms
        sti
.times: cmp     dword [COUNT], 5
        jb      .times
        cli
        fact    "periodic", [LAST]
        mov     eax, [CURRENT]
        cmp     eax, 500000
        setbe   al
        fact8   "within", al
        mov     dword [INITIAL], 0              ; stops
        window
        mov     dword [COUNT], 0
        fact    "stopped", [CURRENT]
        mov     dword [TIMER], 0x72 | 1 << 16   ; masked: it counts
        mov     dword [INITIAL], 100
.masked: cmp    dword [CURRENT], 0
        jne     .masked
        window
        fact    "masked", [COUNT]
        mov     dword [DIVIDE], 0
        fact    "divide", [DIVIDE]
        ; Software disable masks the LVT.
        mov     dword [LINT0], 0x700
        mov     dword [SVR], 0xff
        fact    "lint0", [LINT0]
        mov     dword [LINT0], 0x700
        fact    "lint0still", [LINT0]
        mov     dword [SVR], 0x1ff
        fact    "lint0on", [LINT0]
        finish

spurious:
        inc     dword [COUNT]
        iretd

%assign v 0x30
%rep    0x50
irq %+ v: push  v
        jmp     near irq
%assign v v + 1
%endrep
irq:    pop     dword [LAST]
        push    eax
        inc     dword [COUNT]
        mov     eax, [ORDER]
        shl     eax, 8
        or      eax, [LAST]
        mov     [ORDER], eax
        cmp     dword [KEEP], 0
        jne     .keep
        mov     dword [EOI], 0
.keep:  pop     eax
        iretd
