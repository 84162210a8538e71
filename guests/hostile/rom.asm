; Writes to where a PC has its ROMs and to where nothing is, in every size.
%include "hostile.inc"
        mov     ebx, 0xfff00000         ; up to the reset vector
.high:  call    write
        add     ebx, 0x1000
        jnc     .high
        mov     ebx, 0xc0000
.low:   call    write
        add     ebx, 0x1000
        cmp     ebx, 0x100000
        jb      .low
        power_off

write:  mov     rax, 0x1122334455667788
        attempt mov [rbx], rax
        attempt mov [rbx + 3], rax
        attempt mov [rbx + 0xffc], rax
        attempt mov [rbx + 0xfff], eax
        attempt mov [rbx + 8], ax
        attempt mov [rbx + 10], al
        attempt lock add [rbx], eax
        attempt xchg [rbx], rax
        attempt mov rax, [rbx]
        mov     rdi, rbx
        mov     ecx, 5
        attempt rep stosw
        ret
