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
#define VGA_TEXT 0xb8000
#define CRTC 0x3d4
#define COLUMNS 80
#define ROWS 25
#define SCREEN_END (VGA_TEXT + 2 * COLUMNS * ROWS)
#define APIC 0xfee00000
#define APIC_EOI 0xb0
#define APIC_SVR 0xf0
#define APIC_ICR 0x300
#define APIC_ICR_HIGH 0x310
#define INIT 0x4500
#define SIPI 0x4600
#define FIXED 0x4000
#define VECTOR 0x40
#define LOW_PAGE 0x8000 /* where the other CPU starts */
#define CODE 0x10
#define DATA 0x18
#define NOTHING 0xd0000000
#define STACK 0x70000

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
#elif defined VGA /* a character to the screen, which scrolls; the cursor follows at each line's end */
    .macro work
    mov %cl, %al
    and $0x3f, %al
    add $' ', %al
    mov $7, %ah
    stosw
    cmp $SCREEN_END, %edi
    jb 3f
    call scroll
3:
    .endm
#elif defined IPI /* an IPI to the other CPU, and its answer */
    .macro work
    movl $FIXED | VECTOR, APIC + APIC_ICR
    sti
    hlt /* until the answer, whose handler leaves interrupts off */
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
    mov $STACK, %esp
    mov $COM1 + FCR, %edx
    mov $FIFOS, %al
    out %al, %dx
    mov $COM1, %edx
    mov $'b', %al
    out %al, %dx
    xor %eax, %eax
#if defined VGA
    mov $VGA_TEXT, %edi
#elif defined IPI
    call two_cpus
#endif
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

#if defined VGA
scroll: /* the rows move up, the last is blank, with the cursor at its begin */
    mov %ecx, %ebp
    mov $VGA_TEXT, %edi
    lea 2 * COLUMNS(%edi), %esi
    mov $COLUMNS * (ROWS - 1) / 2, %ecx
    rep movsl
    push %edi
    mov $0x07200720, %eax
    mov $COLUMNS / 2, %ecx
    rep stosl
    pop %edi
    mov $CRTC, %edx
    mov $0x0e | ((COLUMNS * (ROWS - 1)) & 0xff00), %eax
    out %ax, %dx
    mov $0x0f | ((COLUMNS * (ROWS - 1)) & 0xff) << 8, %eax
    out %ax, %dx
    mov %ebp, %ecx
    ret
#elif defined IPI
two_cpus: /* start the other CPU; both get APIC, GDT, IDT, stack, and have interrupts off */
    lgdt gdt_at
    ljmp $CODE, $4f
4:  lidt idt_at
    movl $0x100 | 0xff, APIC + APIC_SVR
    mov $answer, %eax
    mov %ax, gate
    shr $16, %eax
    mov %ax, gate + 6
    mov $low, %esi
    mov $LOW_PAGE, %edi
    mov $low_end - low, %ecx
    rep movsb
    movl $1 << 24, APIC + APIC_ICR_HIGH
    movl $INIT, APIC + APIC_ICR
    movl $SIPI | LOW_PAGE >> 12, APIC + APIC_ICR
5:  pause
    cmpl $0, ready
    je 5b
    ret

answer: /* without iret, which no KVM that interprets ring 0 can: the frame goes, interrupts stay off */
    movl $0, APIC + APIC_EOI
    pop %eax
    add $8, %esp
    jmp *%eax

    .code16
low: /* what the other CPU begins with, in real mode at LOW_PAGE */
    mov %cs, %ax
    mov %ax, %ds
    lgdtl gdt_at_low - low
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $CODE, $second
gdt_at_low:
    .word gdt_end - gdt - 1
    .long gdt
low_end:

    .code32
second:
    mov $DATA, %eax
    mov %eax, %ds
    mov %eax, %ss
    mov $STACK - 0x1000, %esp
    lidt idt_at
    movl $0x100 | 0xff, APIC + APIC_SVR
    movl $0, APIC + APIC_ICR_HIGH
    movl $1, ready
6:  sti
    hlt
    movl $FIXED | VECTOR, APIC + APIC_ICR
    jmp 6b

    .balign 8
gdt:
    .quad 0, 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdt_end:
gdt_at:
    .word gdt_end - gdt - 1
    .long gdt
    .balign 8
gate: /* its handler's address is filled in: no relocation splits it */
    .word 0, CODE, 0x8e00, 0
gate_end:
idt_at:
    .word gate_end - gate - 1 + 8 * VECTOR
    .long gate - 8 * VECTOR
ready:
    .long 0
#endif
end:
