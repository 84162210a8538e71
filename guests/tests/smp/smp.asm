; Four CPUs: INIT and SIPI, the ids of those that come up, IPIs to one, by set, to all others and as NMI, a CPU
; reset by INIT while it waits, a second SIPI without effect. SDM vol. 3 §8.4, §10.6.

%include "pc.inc"

APIC    equ 0xfee00000
START   equ 0x30000             ; the page that SIPI starts others in
SIPI    equ 0x4600 | START >> 12
INIT    equ 0x4500
FIXED   equ 0x4000
NMI     equ 0x4400
OTHERS  equ 3 << 18
LOGICAL equ 1 << 11
VECTOR  equ 0x40
STACKS  equ 0x40000             ; 4 KiB for each id
UP      equ own                 ; a bit for each id that came up …
STARTS  equ own + 4             ; … how many starts there were, …
READY   equ own + 8             ; … and how many wait for interrupts
TAKEN   equ own + 12            ; a bit for each id that took the interrupt
NMIS    equ own + 16            ; and for NMIs
IDS     equ own + 20            ; ids in the order of the ranks

; Write ICR: destination, the rest.
%macro  send 2
        mov     dword [APIC + 0x310], (%1) << 24
        mov     dword [APIC + 0x300], %2
%endmacro
; Wait until the variable has the value; a machine that never gets there ends by its time.
%macro  await 2
%%more: pause
        cmp     dword [%1], %2
        jne     %%more
%endmacro

main:   say     "smp:"
        gate    VECTOR, taken
        gate    2, nmi
        mov     dword [APIC + 0xf0], 0x1ff
        mov     dword [APIC + 0xd0], 1 << 24
        fact    "bsp", [APIC + 0x20]
        mov     esi, starter
        mov     edi, START
        mov     ecx, starter.end - starter
        rep     movsb
        mov     eax, 1
        cpuid
        shr     ebx, 16
        fact8   "addressable", bl
        ; One that is sent INIT alone stays where it is.
        send    1, INIT
        mov     ecx, 10000
.quiet: pause
        loop    .quiet
        fact    "init", [STARTS]
        send    1, SIPI
        await   READY, 1
        fact    "one", [UP]
        ; SIPI to one that runs has no effect.
        send    1, SIPI
        send    2, INIT
        send    2, SIPI
        await   READY, 2
        send    3, INIT
        send    3, SIPI
        await   READY, 3
        fact    "up", [UP]
        fact    "starts", [STARTS]
        ; To one, by its id.
        send    2, FIXED | VECTOR
        await   TAKEN, 4
        fact    "physical", [TAKEN]
        ; To a set: each has the bit of its id in LDR.
        mov     dword [TAKEN], 0
        send    0xa, FIXED | LOGICAL | VECTOR
        await   TAKEN, 0xa
        fact    "logical", [TAKEN]
        mov     dword [TAKEN], 0
        send    0, FIXED | OTHERS | VECTOR
        await   TAKEN, 0xe
        fact    "others", [TAKEN]
        send    0, NMI | OTHERS
        await   NMIS, 0xe
        fact    "nmi", [NMIS]
        ; Lowest priority: one of them takes it.
        mov     dword [TAKEN], 0
        send    0xe, 0x4100 | LOGICAL | VECTOR
.lowest: pause
        cmp     dword [TAKEN], 0
        je      .lowest
        mov     eax, [TAKEN]
        lea     ecx, [eax - 1]
        and     eax, ecx
        fact    "more", eax
        ; INIT resets one that waits in HLT: it takes nothing any more, until it is started again.
        send    3, INIT
        mov     dword [TAKEN], 0
        send    1, FIXED | VECTOR
        send    3, FIXED | VECTOR
        await   TAKEN, 2
        fact    "reset", [TAKEN]
        send    3, SIPI
        await   READY, 4
        fact    "again", [STARTS]
        ; A storm: each is sent to a thousand times, and takes at least the last.
        mov     ebx, 1000
.storm: send    0, FIXED | OTHERS | VECTOR
        dec     ebx
        jnz     .storm
        mov     dword [TAKEN], 0
        send    0, FIXED | OTHERS | VECTOR
        await   TAKEN, 0xe
        fact    "storm", [TAKEN]
        finish

; Marks the bit of this CPU's id in a variable.
%macro  mark 1
        push    eax
        push    ecx
        mov     ecx, [APIC + 0x20]
        shr     ecx, 24
        lock bts dword [%1], ecx
        pop     ecx
        pop     eax
%endmacro

taken:  mark    TAKEN
        mov     dword [APIC + 0xb0], 0
        iretd
nmi:    mark    NMIS
        iretd

; Real mode at START:0, from SIPI on.
        bits    16
starter:
        cli
        xor     ax, ax
        mov     ds, ax
        o32 lgdt [gdt_pointer]
        o32 lidt [idt_pointer]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        jmp     dword CODE:second
.end:
        bits    32
second: mov     eax, DATA
        mov     ds, eax
        mov     es, eax
        mov     ss, eax
        mov     eax, [APIC + 0x20]
        shr     eax, 24
        mov     ecx, eax
        inc     eax
        shl     eax, 12
        lea     esp, [eax + STACKS]
        mov     dword [APIC + 0xf0], 0x1ff
        mov     eax, 1 << 24
        shl     eax, cl
        mov     [APIC + 0xd0], eax
        lock bts dword [UP], ecx
        lock inc dword [STARTS]
        sti
        lock inc dword [READY]
.wait:  hlt
        jmp     .wait
