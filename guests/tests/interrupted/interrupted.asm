; A timer interrupts long REP instructions, whose registers say how far they came, and loops of all kinds; in the
; end all is done once. SDM vol. 2 (REP).

%include "pc.inc"

APIC    equ 0xfee00000
COUNT   equ own
INSIDE  equ own + 4             ; interrupts at a REP itself
WRONG   equ own + 8
SOURCE    equ 0x200000
TARGET      equ 0x600000
LENGTH    equ 0x300000

main:   say     "interrupted:"
        mov     dword [APIC + 0xf0], 0x1ff
        mov     dword [APIC + 0x80], 0
        gate    0x40, tick
        mov     dword [APIC + 0x3e0], 0xb
        mov     dword [APIC + 0x320], 0x40 | 1 << 17
        mov     dword [APIC + 0x380], 20000     ; 20 µs to 200 µs
        sti
        mov     edi, SOURCE
        mov     ecx, LENGTH / 4
        mov     eax, 0x01020304
        rep     stosd
        fact    "stosd", ecx
        mov     esi, SOURCE
        mov     edi, TARGET
        mov     ecx, LENGTH
        rep     movsb
        fact    "esi", esi
        fact    "edi", edi
        mov     byte [TARGET + LENGTH - 5], 0x77
        mov     esi, SOURCE
        mov     edi, TARGET
        mov     ecx, LENGTH
        repe    cmpsb
        fact    "cmps", ecx
        mov     edi, TARGET
        mov     ecx, LENGTH
        mov     al, 0x77
        repne   scasb
        fact    "scas", ecx
        std
        mov     edi, TARGET + LENGTH - 4
        mov     ecx, LENGTH / 4
        xor     eax, eax
        rep     stosd
        cld
        mov     esi, TARGET
        mov     ecx, LENGTH / 4
        xor     ebx, ebx
.sum:   lodsd
        or      ebx, eax
        loop    .sum
        fact    "zero", ebx
        mov     ecx, 2000000
.spin:  dec     ecx
        jnz     .spin
        cli
        mov     dword [APIC + 0x380], 0
        cmp     dword [COUNT], 10
        setae   al
        fact8   "many", al
        fact    "wrong", [WRONG]
        finish

tick:   push    eax
        push    ebx
        inc     dword [COUNT]
        mov     ebx, [esp + 8]
        cmp     ebx, $$                         ; within the kernel's code
        jb      .bad
        cmp     ebx, tick
        jae     .bad
        jmp     .end
.bad:   inc     dword [WRONG]
.end:   mov     dword [APIC + 0xb0], 0
        pop     ebx
        pop     eax
        iretd
