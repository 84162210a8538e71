; A reserved bit in the page table entry of an address that is read.
%include "start.inc"
start:  find_directory
        bts     qword [rbx + 8 * 4], 13         ; of a 2 MiB page's entry bits 20:13 must be 0
        mov     rax, cr3
        mov     cr3, rax
bug:    mov     rax, [0x800000]
