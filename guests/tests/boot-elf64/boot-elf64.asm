; A plain 64-bit ELF file: entered in long mode, the first 4 GiB mapped 1:1, boot_params in RSI (Linux,
; Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"). It prints the registers at entry and what it is told.

BASE            equ 0x100000
COM1            equ 0x3f8
DEBUG_EXIT      equ 0xf4

        org     BASE
        bits    64

        db      0x7f, "ELF", 2, 1, 1
        times   9 db 0
        dw      2, 62
        dd      1
        dq      start, 64, 0
        dd      0
        dw      64, 56, 1, 64, 0, 0
        dd      1, 7                            ; PT_LOAD
        dq      0, BASE, BASE, file_end - $$, file_end - $$ + 0x4000, 0x1000

; fact "name", value
%macro  fact 2
        mov     rax, %2
        lea     rsi, [rel %%name]
        call    fact_of
        jmp     %%on
%%name: db      " ", %1, "=", 0
%%on:
%endmacro

; bytes "name", register or load, count
%macro  bytes 3
        mov     rbx, %2
        mov     ecx, %3
        lea     rsi, [rel %%name]
        call    bytes_of
        jmp     %%on
%%name: db      " ", %1, "=", 0
%%on:
%endmacro

start:  lea     rsp, [rel file_end + 0x4000]
        pushfq
        pop     r13
        cld
        mov     rbp, rsi
        lea     rsi, [rel head]
        call    print
        fact    "rsi", rbp
        fact    "rflags", r13
        fact    "cr0", cr0
        fact    "cr4", cr4
        mov     ecx, 0xc0000080
        rdmsr
        fact    "efer", rax
        mov     ecx, cs
        lar     eax, ecx
        fact    "cs", rax
        mov     ecx, ds
        lar     eax, ecx
        fact    "ds", rax
        mov     rax, cr3                        ; where the last 2 MiB of the first 4 GiB are mapped to
        mov     rax, [rax]
        and     rax, -0x1000
        mov     rax, [rax + 3 * 8]
        and     rax, -0x1000
        mov     rax, [rax + 511 * 8]
        and     rax, -0x200000
        fact    "top", rax
        lea     rbx, [rbp + 0x1f1]
        bytes   "header", rbx, 0x7b
        mov     ebx, [rbp + 0x228]
        bytes   "cmdline", rbx, 10
        mov     ebx, [rbp + 0x218]
        bytes   "disk", rbx, [rbp + 0x21c]
        movzx   ecx, byte [rbp + 0x1e8]         ; e820 entries, of 20 bytes
        imul    ecx, 20
        lea     rbx, [rbp + 0x2d0]
        bytes   "e820", rbx, ecx
        mov     al, 10
        call    put
        xor     eax, eax
        out     DEBUG_EXIT, al
        hlt

head:   db      "boot-elf64:", 0
digits: db      "0123456789abcdef"

put:    mov     dx, COM1
        out     dx, al
        ret

print:  lodsb
        test    al, al
        jz      .done
        call    put
        jmp     print
.done:  ret

fact_of:
        push    rax
        call    print
        pop     rbx
        mov     ecx, 60
.zeros: mov     rax, rbx
        shr     rax, cl
        jnz     .digit
        sub     ecx, 4
        jnz     .zeros
.digit: mov     rax, rbx
        shr     rax, cl
        call    digit
        sub     ecx, 4
        jns     .digit
        ret

bytes_of:
        call    print
.next:  jecxz   .done
        mov     al, [rbx]
        shr     al, 4
        call    digit
        mov     al, [rbx]
        call    digit
        inc     rbx
        dec     ecx
        jmp     .next
.done:  ret

digit:  and     eax, 15
        lea     rdx, [rel digits]
        mov     al, [rdx + rax]
        jmp     put

file_end:
