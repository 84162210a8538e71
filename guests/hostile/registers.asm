; Turns each bit of each control register, debug register and MSR that it can, and leaves it so if it may.
%include "hostile.inc"
        mov     r14d, 4000
        mov     r13, 0x9e3779b97f4a7c15
.next:  mov     rax, r13                        ; the next of some numbers (xorshift64)
        shl     rax, 13
        xor     r13, rax
        mov     rax, r13
        shr     rax, 7
        xor     r13, rax
        mov     rax, r13
        shl     rax, 17
        xor     r13, rax
        mov     rbx, r13
        mov     ecx, ebx                        ; which bit
        and     ecx, 63
        mov     r12d, 1
        shl     r12, cl
        shr     rbx, 6
        mov     ebp, ebx
        and     ebp, 7
        shr     rbx, 3
        cmp     ebp, 3
        jae     .msr
        call    control
        jmp     .on
.msr:   mov     ecx, ebx                        ; one of 8192 in each of four ranges
        and     ecx, 0x1fff
        shr     rbx, 13
        and     ebx, 7
        mov     eax, [ranges + rbx * 4]
        or      ecx, eax
        attempt rdmsr
        shl     rdx, 32
        mov     eax, eax
        or      rax, rdx
        xor     rax, r12
        mov     rdx, rax
        shr     rdx, 32
        attempt wrmsr
.on:    dec     r14d
        jnz     .next
        power_off

; The registers in turn; CR3 in its low bits, and what ends 64-bit mode by itself.
control:
        and     ebx, 7
        jmp     [.table + rbx * 8]
        align   8
.table: dq      .cr0, .cr3, .cr4, .cr8, .dr7, .dr6, .xcr0, .dr0
%macro  turn 1
        attempt mov rax, %1
        xor     rax, r12
        attempt mov %1, rax
        ret
%endmacro
.cr0:   turn    cr0
.cr4:   turn    cr4
.cr8:   turn    cr8
.dr7:   turn    dr7
.dr6:   turn    dr6
.dr0:   turn    dr0
.cr3:   mov     rax, cr3
        mov     rdx, r12
        and     rdx, 0xfff
        xor     rax, rdx
        attempt mov cr3, rax
        ret
.xcr0:  xor     ecx, ecx
        attempt xgetbv
        xor     eax, r12d
        attempt xsetbv
        ret

ranges: dd      0, 0xc0000000, 0xc0010000, 0x40000000, 0, 0xc0000000, 0x4b564d00, 0xc0000080 & ~0x7f
