"""Why an instruction raised its exception, in words (Intel SDM vol. 3 §6.15, by vector)."""

from __future__ import annotations

from pykvm.debug.gates import error_code_fault, selector_fault
from pykvm.debug.reason import Reason
from pykvm.errors import PykvmError
from pykvm.x86.disasm import parts
from pykvm.x86.exceptions import BP, DB, DE, GP, NM, NP, PF, SS, TS, UD, Fault, name
from pykvm.x86.paging import FETCH, PF_P, PF_RSVD, READ, canonical, fault_text, walk
from pykvm.x86.registers import CR0_EM, CR0_TS, CR4_OSFXSR, bits_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.debug.subject import Subject
    from pykvm.x86.paging import Walk

NULL = 0x1000
"""An address below is one of a null pointer's fields."""
NEAR = 0x1000
"""So far from the stack pointer an access still is one to the stack."""
LONGEST = 15
ZEROS = bytes(4)


def why_raised(subject: Subject, fault: Fault) -> Reason:
    """Why the instruction at RIP raised ``fault``."""
    lost = astray(subject)
    if lost is not None:
        return lost
    mnemonic, operands = _instruction(subject)
    if fault.vector == PF and fault.cr2 is not None:
        return _page_fault(subject, fault, fault.cr2)
    if mnemonic.startswith("iret") and fault.vector in (GP, NP, SS, TS):
        return _iret(subject, fault, mnemonic)
    if fault.vector in (GP, NP, SS, TS) and fault.error:
        return error_code_fault(subject, fault)
    if fault.vector in (GP, SS):
        return _general(subject, fault, mnemonic, operands)
    if fault.vector == DE:
        return Reason(
            key="divide", text=f"{mnemonic} {operands}: the divisor is 0, or the quotient too large"
        )
    if fault.vector in (UD, NM):
        return _invalid(subject, mnemonic, operands)
    if fault.vector in (DB, BP):
        return Reason(key="trap", text=f"{mnemonic} {operands}".strip())
    return Reason(key="other", text=f"{mnemonic} {operands} raised {name(fault.vector)}")


def walk_of(subject: Subject, gva: int, access: int = READ) -> Walk:
    """The page walk of ``gva`` by the CPU itself, which SMAP doesn't hinder."""
    cpu = subject.cpu
    return walk(
        subject.memory,
        cpu.sregs,
        gva,
        access,
        ac=True,
        physical_bits=cpu.physical_bits,
        gigabyte_pages=cpu.has("pdpe1gb"),
        user=access == FETCH and cpu.cpl == 3,
    )


def walk_end(found: Walk) -> str:
    """How a walk that failed ended, in words: which entry, and what is wrong with it."""
    last = found.entries[-1]
    place = f"its {last.name} at {last.gpa:#x}"
    if found.fault is None:
        return "it is mapped"
    if found.fault & PF_RSVD:
        return f"{place} is {last.value:#x}, with a reserved bit set ({_bit_numbers(found.reserved)})"
    if found.fault & PF_P:
        return f"its entries forbid it ({fault_text(found.fault)})"
    return f"{place} is not present ({last.value:#x})"


def _bit_numbers(mask: int) -> str:
    numbers = [str(number) for number in range(64) if mask >> number & 1]
    return ("bit " if len(numbers) == 1 else "bits ") + ", ".join(numbers)


def astray(subject: Subject) -> Reason | None:
    """What is wrong with RIP itself; None where it leads to code."""
    cpu, rip = subject.cpu, subject.rip
    if cpu.bits == 64 and not canonical(cpu.regs["rip"], cpu.sregs["cr4"]):
        return Reason(key="non-canonical", text=f"rip {rip:#x} is not canonical")
    found = walk_of(subject, rip, FETCH)
    if found.fault is not None:
        return _unfetched(subject, rip, found)
    if not subject.memory.has(found.gpa):
        return Reason(key="no-code", text=f"rip {rip:#x} leads to {found.gpa:#x}, where no memory is")
    if subject.peek(rip, 4) == ZEROS and subject.peek(rip - 4, 4) in (ZEROS, b""):
        return Reason(key="zeros", text=f"rip {rip:#x} is in memory full of zeros")
    return None


def _unfetched(subject: Subject, rip: int, found: Walk) -> Reason:
    sregs = subject.cpu.sregs
    end = walk_end(found)
    if found.fault is not None and found.fault & PF_RSVD:
        return Reason(key="reserved", text=f"the instruction at {rip:#x} can't be fetched: {end}")
    if found.fault is not None and found.fault & PF_P:
        return Reason(key="protection", text=f"the instruction at {rip:#x} can't be fetched: {end}")
    around = (subject.stack, sregs["gdt"]["base"])
    if all(walk_of(subject, gva).fault is not None for gva in around):
        text = f"CR3 {sregs['cr3']:#x} maps neither the code at {rip:#x} nor the stack nor the GDT: {end}"
        return Reason(key="cr3", text=text)
    if rip < NULL:
        return Reason(key="null-call", text=f"control went through a null pointer to {rip:#x}: {end}")
    return Reason(key="wild-jump", text=f"control went to {rip:#x}, which isn't mapped: {end}")


def _instruction(subject: Subject) -> tuple[str, str]:
    try:
        return parts(subject.peek(subject.rip, LONGEST), subject.cpu.bits)
    except PykvmError:  # no disassembler
        return "the instruction", ""


def _page_fault(subject: Subject, fault: Fault, address: int) -> Reason:
    error = fault.error or 0
    end = walk_end(walk_of(subject, address))
    words = fault_text(error)
    if error & PF_RSVD:
        return Reason(key="reserved", text=f"address {address:#x}: {end}")
    if error & PF_P:
        return Reason(key="protection", text=f"address {address:#x} is mapped, but not for this: {words}")
    if address < NULL:
        return Reason(key="null-data", text=f"address {address:#x}, by a null pointer, isn't mapped: {end}")
    if abs(address - subject.stack) <= NEAR:
        return Reason(key="stack", text=f"the stack at {address:#x} isn't mapped: {end}")
    return Reason(key="unmapped", text=f"address {address:#x} isn't mapped: {end}")


def _iret(subject: Subject, fault: Fault, mnemonic: str) -> Reason:
    width = {"iretq": 8, "iretd": 4}.get(mnemonic, 2)
    names = ("rip", "cs", "rflags", "rsp", "ss")[: 5 if subject.cpu.bits == 64 else 3]
    words = [subject.word(subject.stack + width * number, width) for number in range(len(names))]
    shown = ", ".join(
        f"{title} ?" if word is None else f"{title} {word:#x}"
        for title, word in zip(names, words, strict=True)
    )
    wrong = selector_fault(subject, fault.error) if fault.error else ""
    wrong = f"; selector {fault.error:#x}: {wrong}" if wrong else ""
    return Reason(key="frame", text=f"{mnemonic} found this frame on the stack: {shown}{wrong}")


def _general(subject: Subject, fault: Fault, mnemonic: str, operands: str) -> Reason:
    cpu = subject.cpu
    if mnemonic in ("rdmsr", "wrmsr"):
        return Reason(key="protected", text=f"{mnemonic} of MSR {cpu.regs['rcx'] & 0xFFFF_FFFF:#x}")
    if fault.vector == SS:
        return Reason(key="stack", text=f"rsp {cpu.regs['rsp']:#x} is no address for a stack")
    if cpu.bits == 64:
        for register, value in cpu.regs.items():
            if register not in ("rip", "rflags") and not canonical(value, cpu.sregs["cr4"]):
                return Reason(
                    key="non-canonical",
                    text=f"{mnemonic} {operands} in ring {cpu.cpl}; {register} {value:#x} isn't canonical",
                )
    return Reason(key="protected", text=f"{mnemonic} {operands} in ring {cpu.cpl} isn't allowed")


def switched_off(subject: Subject) -> Reason | None:
    """That the instruction at RIP is one of SSE or x87, and these are switched off."""
    sregs = subject.cpu.sregs
    mnemonic, operands = _instruction(subject)
    off = bits_text(sregs["cr0"] & (CR0_EM | CR0_TS), {"CR0.EM": CR0_EM, "CR0.TS": CR0_TS})
    because = [f"{off} set"] if off else []
    if "xmm" in operands and not sregs["cr4"] & CR4_OSFXSR:
        because.append("CR4.OSFXSR is 0")
    if not because or not ("xmm" in operands or mnemonic.startswith("f")):
        return None
    return Reason(key="sse", text=f"{mnemonic} {operands}: {', '.join(because)}")


def _invalid(subject: Subject, mnemonic: str, operands: str) -> Reason:
    if mnemonic == "ud2":
        return Reason(key="ud2", text="ud2, which is there to raise this")
    off = switched_off(subject)
    if off is not None:
        return off
    if mnemonic == "(bad)":
        code = subject.peek(subject.rip, 8).hex(" ")
        return Reason(key="opcode", text=f"the bytes {code} are no instruction")
    return Reason(
        key="opcode", text=f"{mnemonic} {operands} is no instruction of this CPU, or not in this mode"
    )
