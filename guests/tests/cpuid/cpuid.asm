; CPUID against itself and against what works: leaves in range, out of range, features that imply others,
; OSXSAVE and APIC following their switches, widths, the brand string. SDM vol. 2 (CPUID).

%include "pc.inc"
%include "long.inc"

%macro  implies 3+              ; name, bit of leaf 1 EDX: the instruction must work
        mov     ebp, [own + 12]
        bt      ebp, %2
        jnc     %%no
        try     %1, %3
        jmp     %%done
%%no:   say     " ", %1, "=absent"
%%done:
%endmacro

main:   say     "cpuid:"
        pushfd
        xor     dword [esp], 1 << 21
        popfd
        pushfd
        pop     eax
        and     eax, 1 << 21
        fact    "id", eax
        xor     eax, eax
        cpuid
        cmp     eax, 7
        setae   al
        fact8   "leaves", al
        mov     eax, 0x80000000
        cpuid
        cmp     eax, 0x80000008
        setae   al
        fact8   "extended", al
        mov     eax, 0x80000000
        cpuid
        shr     eax, 16
        fact    "range", eax
        mov     eax, 1
        cpuid
        mov     [own], eax
        mov     [own + 4], ebx
        mov     [own + 8], ecx
        mov     [own + 12], edx
        shr     ebx, 24
        fact    "apicid", ebx
        mov     eax, [own + 4]
        shr     eax, 8
        and     eax, 0xff
        fact    "clflush", eax                  ; in units of 8 bytes
        mov     eax, [own + 12]
        and     eax, 0x0789_b97d & ~(1 << 12 | 1 << 18)
        fact    "base", eax                     ; what every x86-64 has
        mov     eax, [own + 8]
        and     eax, 1 << 27
        fact    "osxsave", eax                  ; CR4.OSXSAVE is off
        mov     eax, [own + 8]
        shr     eax, 31
        fact    "hypervisor", eax
        implies "tsc", 4, rdtsc
        implies "cmov", 15, cmovc eax, ebx
        implies "cx8", 8, cmpxchg8b [own + 0x40]
        mov     ecx, 0x1b                       ; the APIC bit follows the APIC's switch
        rdmsr
        push    eax
        and     eax, ~(1 << 11)
        wrmsr
        mov     eax, 1
        cpuid
        shr     edx, 9
        and     edx, 1
        fact    "apicoff", edx
        mov     ecx, 0x1b
        pop     eax
        xor     edx, edx
        wrmsr
        mov     eax, 1
        cpuid
        shr     edx, 9
        and     edx, 1
        fact    "apicon", edx
        ; The upper halves are cleared; EAX, EBX, ECX and EDX all change.
        enter_long
        mov     rax, 0xffffffff_00000001
        mov     rbx, -1
        mov     rcx, 0xffffffff_00000000
        mov     rdx, -1
        cpuid
        mov     rbp, rax
        or      rbp, rbx
        or      rbp, rcx
        or      rbp, rdx
        shr     rbp, 32
        fact    "upper", rbp
        mov     eax, 0x80000001
        cpuid
        mov     eax, edx
        and     eax, 1 << 29 | 1 << 20 | 1 << 11
        fact    "longnx", rax
        and     ecx, 1
        fact    "lahf", rcx
        try     "lahfworks", lahf
        mov     eax, 0x80000008
        cpuid
        cmp     ah, 48
        setae   cl
        fact8   "virtual", cl
        movzx   ecx, al
        cmp     ecx, 36
        setae   cl
        fact8   "physical", cl
        mov     eax, 0x80000002
        cpuid
        test    eax, eax
        setnz   cl
        fact8   "brand", cl
        ; Beyond the last basic leaf: the same for any such leaf.
        mov     eax, 0x3fffffff
        xor     ecx, ecx
        cpuid
        mov     r8, rax
        mov     r9, rbx
        mov     eax, 0x2fffffff
        xor     ecx, ecx
        cpuid
        cmp     rax, r8
        sete    cl
        cmp     rbx, r9
        sete    ch
        and     cl, ch
        fact8   "beyond", cl
        user    "user", cpuid
        finish
        bits    32
