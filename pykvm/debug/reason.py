"""Reasons: a key by which the remedy is found, and the words for this case."""

from __future__ import annotations

from pykvm.frozen import frozen


@frozen
class Reason:
    key: str
    text: str


# What likely is behind a reason, and what to try.
ADVICE = {
    # Why an exception was raised
    "cr3": (
        "CR3 holds no page tables that map the running code",
        "map the code that loads CR3, its stack and its GDT in the new tables too; look at the address of the"
        " top table, which must be physical",
    ),
    "null-call": (
        "a call or jump through a pointer that is 0",
        "look at the return address on the stack: the instruction before it made the call",
    ),
    "wild-jump": (
        "a jump, call or return to a wrong address",
        "look at the stack's top for who called; was a function pointer or return address overwritten, or is"
        " code linked at another address than it runs at?",
    ),
    "no-code": (
        "execution ran away to where no memory is",
        "look at the last jump or return; or the guest believes in more memory than `memory` gives",
    ),
    "zeros": (
        "execution ran into memory full of zeros, which is no code",
        "look at the last jump; was the code loaded to the address that it was linked for?",
    ),
    "reserved": (
        "a page table entry has a bit set that must be 0",
        "look at how this entry is made: its address, its flags, NX without EFER.NXE",
    ),
    "stack": (
        "the stack pointer left the stack, or never pointed to one",
        "look at rsp: set it before the first push or call; an overflow ends below the stack's bottom",
    ),
    "null-data": ("a null pointer was followed", "look at the registers of the instruction's operand"),
    "unmapped": (
        "an address was used that isn't mapped",
        "compare the address with the page tables: is the pointer wrong, or is a mapping missing?",
    ),
    "protection": (
        "the page is mapped, but this access isn't allowed",
        "look at RW, US and XD of the entries in the walk, and at CR0.WP, CR4.SMEP, CR4.SMAP",
    ),
    "selector": (
        "a segment register was loaded with a selector that isn't good",
        "compare the selector with the GDT below: its index times 8, plus the ring",
    ),
    "frame": (
        "the frame of IRET on the stack isn't one",
        "look at what was pushed: rip, cs, rflags, rsp, ss from the top (64-bit IRET pops all five); an error"
        " code must be taken off first",
    ),
    "gate": (
        "an interrupt or INT n came for which the IDT has no usable gate",
        "make a gate for this vector, or mask its source (both PICs and the APIC's timer) until there is one",
    ),
    "non-canonical": (
        "an address isn't canonical: its bits 63 to 47 differ",
        "look at the pointer; was it overwritten or computed in 32 bits?",
    ),
    "protected": (
        "an instruction was used in a way that the CPU forbids",
        "a privileged instruction outside of ring 0, a reserved bit of a control register or MSR, an MSR that"
        " the CPU lacks, an operand that isn't aligned or isn't canonical",
    ),
    "divide": ("a division by zero, or a quotient too large", "look at the divisor, and at rdx before it"),
    "opcode": (
        "bytes were run that are no instruction of this CPU",
        "is this code at all? If so, does CPUID offer the instruction (`cpus: {model: …}`)?",
    ),
    "ud2": (
        "the kernel ended itself by UD2",
        "compilers and BUG() put it where control must not come: look at the code before it",
    ),
    "sse": (
        "SSE or x87 is used before it is switched on",
        "set CR4.OSFXSR and CR4.OSXMMEXCPT, clear CR0.EM and CR0.TS; or compile without SSE"
        " (-mgeneral-regs-only)",
    ),
    "trap": (
        "a breakpoint or debug trap without a handler",
        "make a gate for it, or take the breakpoint out",
    ),
    "other": ("an exception that the guest wasn't ready for", "look at the instruction and its operands"),
    # Why no handler could be entered
    "no-idt": (
        "the guest has loaded no IDT yet, so that any exception ends it",
        "load an IDT with handlers first (LIDT): they can tell more than a triple fault",
    ),
    "idt": ("the IDT has no usable gate for the exception", "make gates for vectors 0 to 31"),
    "tables": (
        "the IDT, GDT or TSS isn't where the CPU looks for it",
        "IDTR, GDTR and TR hold linear addresses: map those pages",
    ),
    "handler-code": (
        "the gate's code selector is none for a handler",
        "let the gate name the kernel's code segment in the GDT (in long mode a 64-bit one)",
    ),
    "handler-stack": (
        "no frame can be pushed to the stack that the handler gets",
        "give #DF and #PF a stack of their own (IST), and look at why rsp points there",
    ),
}
