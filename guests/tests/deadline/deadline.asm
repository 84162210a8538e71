; The time-stamp counter: it rises, is written, follows IA32_TSC_ADJUST nowhere it isn't; the LAPIC timer's
; TSC-deadline mode; x2APIC mode's registers by MSRs. SDM vol. 3 §17.17, §10.5.4.1, §10.12.

%include "pc.inc"

DEADLINE equ 0x6e0
COUNT   equ own

main:   say     "deadline:"
        mov     eax, 1
        cpuid
        mov     [own + 0x20], ecx
        bt      ecx, 24
        setc    al
        fact8   "offered", al
        bt      ecx, 21
        setc    al
        fact8   "x2apic", al
        rdtsc
        mov     ebx, eax
        mov     esi, edx
        rdtsc
        sub     eax, ebx
        sbb     edx, esi
        setnc   al
        fact8   "rises", al
        mov     ecx, 0x10
        xor     eax, eax
        mov     edx, 0x1000
        wrmsr
        rdtsc
        fact    "written", edx
        mov     dword [0xfee000f0], 0x1ff
        mov     dword [0xfee00080], 0
        gate    0x40, tick
        test    dword [own + 0x20], 1 << 24
        jz      .none
        mov     dword [0xfee00320], 0x40 | 2 << 17
        rdtsc
        add     eax, 1000000
        adc     edx, 0
        mov     [own + 8], eax
        mov     [own + 12], edx
        mov     ecx, DEADLINE
        wrmsr
        sti
.wait:  cmp     dword [COUNT], 0
        je      .wait
        cli
        rdtsc
        sub     eax, [own + 8]
        sbb     edx, [own + 12]
        setnc   al
        fact8   "due", al
        mov     ecx, DEADLINE
        rdmsr
        fact    "disarmed", eax
        fact    "current", [0xfee00390]
        ; In the past: at once. 0: never.
        mov     dword [COUNT], 0
        mov     eax, 1
        xor     edx, edx
        wrmsr
        sti
.past:  cmp     dword [COUNT], 0
        je      .past
        cli
        fact    "past", [COUNT]
        mov     dword [COUNT], 0
        rdtsc
        add     eax, 1000000000                 ; far enough for it not to come in between
        adc     edx, 0
        mov     [own + 8], eax
        mov     [own + 12], edx
        mov     ecx, DEADLINE
        wrmsr
        xor     eax, eax
        xor     edx, edx
        wrmsr
        sti
.spin:  rdtsc
        sub     eax, [own + 8]
        sbb     edx, [own + 12]
        jc      .spin
        nop
        cli
        fact    "disarm", [COUNT]
        mov     dword [0xfee00320], 0x40        ; another mode: the deadline reads 0 and isn't taken
        mov     ecx, DEADLINE
        mov     eax, -1
        mov     edx, -1
        wrmsr
        rdmsr
        fact    "othermode", eax
        ; x2APIC.
        mov     ecx, 0x1b
        rdmsr
        or      eax, 1 << 10
        wrmsr
        rdmsr
        fact    "mode", eax
        mov     ecx, 0x802
        rdmsr
        fact    "id", eax
        mov     ecx, 0x80f
        rdmsr
        fact    "svr", eax
        mov     dword [COUNT], 0
        mov     ecx, 0x83f                      ; SELF IPI
        mov     eax, 0x40
        xor     edx, edx
        wrmsr
        mov     ecx, 0x822
        rdmsr
        fact    "irr", eax
        gate    0x40, tick2
        window
        fact    "self", [COUNT]
        mov     ecx, 0x830                      ; ICR, 64 bits, self
        mov     eax, 1 << 18 | 0x40
        xor     edx, edx
        wrmsr
        window
        fact    "icr", [COUNT]
        mov     ecx, 0x80b
        mov     eax, 1
        try     "eoi1", wrmsr                   ; EOI takes 0 only
        mov     ecx, 0x80e
        try     "dfr", rdmsr                    ; there is none
        mov     ecx, 0x802
        try     "idwrite", wrmsr
        mov     ecx, 0x83f
        try     "selfread", rdmsr
        mov     ecx, 0x1b
        rdmsr
        and     eax, ~(1 << 10)
        try     "backwards", wrmsr              ; only by way of off
.none:  finish

tick:   inc     dword [COUNT]
        mov     dword [0xfee000b0], 0
        iretd
tick2:  push    eax
        push    ecx
        push    edx
        inc     dword [COUNT]
        mov     ecx, 0x80b
        xor     eax, eax
        xor     edx, edx
        wrmsr
        pop     edx
        pop     ecx
        pop     eax
        iretd
