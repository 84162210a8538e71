; Runs the registers of the IOAPIC and of the local APIC as code, as far as it gets, and then over again.
%include "hostile.inc"
.again: mov     eax, 0xfec00000
        attempt call rax
        mov     eax, 0xfee00000
        attempt call rax
        mov     eax, 0xfec00ffe         ; the end of a device, and what is behind it
        attempt call rax
        jmp     .again
