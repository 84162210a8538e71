; String I/O across pages, over the end of memory, out of nothing, from and to device memory, and backwards.
%include "hostile.inc"
        mov     r8d, places
.place: mov     edx, 0x80
mov     edi, [r8]
        mov     esi, edi
        mov     edx, 0x80
        mov     r9d, 2
.way:   mov     esi, [r8]
        mov     ecx, 37
        attempt rep outsb
        mov     esi, [r8]
        mov     ecx, 37
        attempt rep outsw
        mov     esi, [r8]
        mov     ecx, 37
        attempt rep outsd
        mov     edi, [r8]
        mov     ecx, 37
        attempt rep insb
        mov     edi, [r8]
        mov     ecx, 37
        attempt rep insw
        mov     edi, [r8]
        mov     ecx, 37
        attempt rep insd
        std
        dec     r9d
        jnz     .way
        cld
        add     r8d, 4
        cmp     r8d, places.end
        jb      .place
        ; From and to addresses that aren't mapped, or aren't addresses.
        mov     rsi, 0x8000000000000000
        mov     ecx, 3
        attempt rep outsb
        mov     rdi, 0xffffffffffffffff
        mov     ecx, 3
        attempt rep insd
        mov     rsi, 0x100000000 - 2    ; the last that is mapped
        mov     ecx, 3
        attempt rep outsw
        power_off

places: dd      0x300ffd, 0x3ffffb, RAM_END - 17, RAM_END - 1, RAM_END, HOLE - 3, 0xfec00000, 0xfee00300
        dd      0xfffffff1, 0xbffffffe, 0x20
.end:
