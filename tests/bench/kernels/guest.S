/* A kernel for tests/bench/run: one thing, COUNT times, between the bytes b and e on com1. Then it ends the
 * machine through debug-exit. WORK says what; ECX counts.
 *
 * Multiboot 1 with address fields (Multiboot Specification 0.6.96, 3.1.1 and 3.1.3), so that pykvm, QEMU and
 * kvmloop.c start the same file in the same state: 32-bit, flat segments, no paging. */
#define MAGIC 0x1badb002
#define ADDRESS_FIELDS 0x10000
#define COM1 0x3f8
#define LSR 5
#define THRE 0x20
#define FCR 2
#define FIFOS 1
#define FIFO_DEPTH 16
#define DEBUG_EXIT 0xf4
#define POST_PORT 0x80
#define IOAPIC 0xfec00000
#define NOTHING 0xd0000000

    .code32
    .globl start
start:
    .align 4
    .long MAGIC, ADDRESS_FIELDS, -(MAGIC + ADDRESS_FIELDS)
    .long start, start, end, end, entry

    .macro wait_for_thre
    mov $COM1 + LSR, %edx
2:  in %dx, %al
    test $THRE, %al
    jz 2b
    .endm

#if defined OUT /* a byte to a device of one register */
    .macro work
    out %al, $POST_PORT
    .endm
#elif defined IN
    .macro work
    in $POST_PORT, %al
    .endm
#elif defined MMIO_WRITE /* the I/O APIC's index register, where pykvm has an I/O APIC of its own */
    .macro work
    movl %eax, IOAPIC
    .endm
#elif defined MMIO_READ
    .macro work
    movl IOAPIC, %eax
    .endm
#elif defined HOLE_WRITE /* where nobody listens */
    .macro work
    movl %eax, NOTHING
    .endm
#elif defined BYTES /* to com1, as Linux's earlyprintk and simple kernels do it: wait for THRE, send */
    .macro work
    wait_for_thre
    mov $'x', %al
    mov $COM1, %edx
    out %al, %dx
    .endm
#elif defined SEND /* to com1, without asking */
    .macro work
    mov $COM1, %edx
    mov $'x', %al
    out %al, %dx
    .endm
#elif defined FIFO /* as a driver does it: wait for THRE, fill the FIFO */
    .macro work
    wait_for_thre
    mov $COM1, %edx
    mov $'x', %al
    .rept FIFO_DEPTH
    out %al, %dx
    .endr
    .endm
#elif defined IDLE /* one halt with all interrupts masked but on: COUNT is 1 and never done */
    .macro work
    mov $0xff, %al
    out %al, $0x21
    out %al, $0xa1
2:  sti
    hlt
    jmp 2b
    .endm
#endif

entry:
    mov $COM1 + FCR, %edx
    mov $FIFOS, %al
    out %al, %dx
    mov $COM1, %edx
    mov $'b', %al
    out %al, %dx
    xor %eax, %eax
    mov $COUNT, %ecx
1:  work
    dec %ecx
    jnz 1b
    mov $COM1, %edx
    mov $'e', %al
    out %al, %dx
    xor %eax, %eax
    out %al, $DEBUG_EXIT
    cli
    hlt
end:
