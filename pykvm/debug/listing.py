"""What a post-mortem shows of code, stack, page tables and descriptor tables: lines of plain text."""

from __future__ import annotations

from itertools import groupby

from pykvm.debug.raising import walk_end, walk_of
from pykvm.debug.subject import M64
from pykvm.x86.disasm import disassemble, starts
from pykvm.x86.exceptions import name
from pykvm.x86.paging import FETCH, READ, mode_text
from pykvm.x86.registers import CR0, CR4, EFER, GPRS, SEGMENTS, bits_text, flags_text
from pykvm.x86.segments import decode_gate, decode_segment, segment_text, type_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.debug.subject import Subject
    from pykvm.debug.symbols import Symbols

BEFORE = 4
AFTER = 4
LONGEST = 15
STACK_WORDS = 16
ALIKE = 3
"""More equal words in a row than these are told in two lines."""
GATES = 32
MOST_DESCRIPTORS = 12


def mode(subject: Subject) -> str:
    """``64-bit code in ring 0, 4-level paging``"""
    cpu = subject.cpu
    if not cpu.protected:
        return "real mode"
    if cpu.v86:
        return f"virtual-8086 mode, {mode_text(cpu.sregs)}"
    return f"{cpu.bits}-bit code in ring {cpu.cpl}, {mode_text(cpu.sregs)}"


def registers(subject: Subject) -> list[str]:
    """All of them, and what their bits are called."""
    regs, sregs = subject.cpu.regs, subject.cpu.sregs
    lines = [
        " ".join(f"{register:<3} {regs[register]:016x}" for register in GPRS[start : start + 4])
        for start in range(0, len(GPRS), 4)
    ]
    lines.append(f"rip {regs['rip']:016x} rflags {regs['rflags']:x} [{flags_text(regs['rflags'])}]")
    lines.append(f"cr0 {sregs['cr0']:x} [{bits_text(sregs['cr0'], CR0)}] cr2 {sregs['cr2']:x}")
    lines.append(f"cr3 {sregs['cr3']:x} cr4 {sregs['cr4']:x} [{bits_text(sregs['cr4'], CR4)}]")
    lines.append(f"efer {sregs['efer']:x} [{bits_text(sregs['efer'], EFER)}]")
    alike: dict[str, list[str]] = {}
    for register in (*SEGMENTS, "tr", "ldt"):
        alike.setdefault(segment_text("", sregs[register]).lstrip(), []).append(register)
    width = max(len(" ".join(names)) for names in alike.values())
    lines += (f"{' '.join(names):<{width}} {text}" for text, names in alike.items())
    return lines


def code(subject: Subject) -> list[str]:
    """The instruction at RIP, marked, with a few before and after it."""
    rip, bits = subject.rip, subject.cpu.bits
    there = subject.peek(rip, LONGEST * AFTER)
    if not there:
        return [f"=> {rip:#x}: nothing can be read there"]
    later = disassemble(there, rip, bits, AFTER)
    return [*calling_code(subject, rip), f"=> {later[0]}", *(f"   {line}" for line in later[1:])]


def calling_code(subject: Subject, end: int) -> list[str]:
    """A few instructions that lead to address ``end``: the call, where that is a return address."""
    before = _before(subject, end)
    lines = disassemble(before, end - len(before), subject.cpu.bits)[-BEFORE:] if before else []
    return [f"   {line}" for line in lines]


def _before(subject: Subject, rip: int) -> bytes:
    """The bytes of the instructions before RIP.

    Where those start isn't written anywhere: of all starts that lead exactly to RIP, the farthest is taken,
    as disassembly soon falls into step.
    """
    for distance in range(BEFORE * 7, 0, -1):
        data = subject.peek(rip - distance & M64, distance)
        if len(data) == distance and starts(data, subject.cpu.bits)[-1:] == [distance]:
            return data
    return b""


def stack(subject: Subject, symbols: Symbols | None) -> list[str]:
    """The words at the stack's top; of those that look like return addresses, where they lead.

    Words that are all the same are told once.
    """
    size = 8 if subject.cpu.bits == 64 else 4 if subject.cpu.bits == 32 else 2
    words: list[tuple[int, int | None]] = []
    for number in range(STACK_WORDS):
        place = subject.stack + number * size & M64
        words.append((place, subject.word(place, size)))
        if words[-1][1] is None:
            break
    lines = []
    for word, group in groupby(words, key=lambda entry: entry[1]):
        places = [place for place, _ in group]
        if word is None:
            lines.append(f"{places[0]:#x}: nothing can be read there")
            break
        note = "" if symbols is None else symbols.name(word)
        if size > 2 and is_return_address(subject, word):
            note = f"{note} (a return address: a call is before it)".strip()
        told = [f"{place:#x}: {word:0{2 * size}x} {note}".rstrip() for place in places]
        alike = len(told) > ALIKE
        lines += [told[0], f"{places[-1]:#x}: the same up to here"] if alike else told
    return lines


def caller(subject: Subject) -> int | None:
    """The return address at the stack's top, if there is one: what jumped astray was called from there."""
    if subject.cpu.bits == 16:
        return None
    word = subject.word(subject.stack, subject.cpu.bits // 8)
    return word if word is not None and is_return_address(subject, word) else None


def is_return_address(subject: Subject, word: int) -> bool:
    """Whether a near CALL ends just before ``word``: E8 and 4 bytes, or FF /2 of 2 to 7 bytes."""
    data = subject.peek(word - 7 & M64, 7)
    if len(data) < 7:
        return False
    if data[2] == 0xE8:
        return True
    return any(
        data[7 - size] == 0xFF and data[8 - size] >> 3 & 7 == 2 and _indirect_size(data[8 - size :]) == size
        for size in (2, 3, 4, 6, 7)
    )


def _indirect_size(tail: bytes) -> int:
    """The length of FF with the ModRM byte at the start of ``tail``."""
    mod, rm = tail[0] >> 6, tail[0] & 7
    if mod == 3:
        return 2
    sib = rm == 4
    wide = mod == 2 or (mod == 0 and (rm == 5 or (sib and len(tail) > 1 and tail[1] & 7 == 5)))
    return 2 + sib + (4 if wide else 1 if mod == 1 else 0)


def page_walk(subject: Subject, gva: int, *, fetch: bool = False) -> list[str]:
    """The entries on the way from CR3 to an address, and where they lead."""
    found = walk_of(subject, gva, FETCH if fetch else READ)
    lines = [f"{entry.name:<5} at {entry.gpa:#x}: {entry.value:#018x}" for entry in found.entries]
    if found.fault is not None:
        return [*lines, f"{gva:#x} can't be reached: {walk_end(found)}"]
    there = "" if subject.memory.has(found.gpa) else ", where no memory is"
    rights = "".join(
        letter if granted else "-"
        for letter, granted in (("w", found.writable), ("x", found.executable), ("u", found.user))
    )
    how = f"page of {found.page:#x}, {rights}" if found.page else "no paging"
    return [*lines, f"{gva:#x} is {found.gpa:#x} ({how}){there}"]


def idt(subject: Subject) -> list[str]:
    """Where the IDT is and how many of the gates for exceptions are good."""
    table = subject.cpu.sregs["idt"]
    lines = [f"base {table['base']:#x} limit {table['limit']:#x}"]
    if not subject.cpu.protected:
        return lines
    size = 16 if subject.cpu.long else 8
    present: list[tuple[int, dict[str, int]]] = []
    missing = 0
    for vector in range(min(GATES, (table["limit"] + 1) // size)):
        data = subject.peek(table["base"] + vector * size, size)
        gate = decode_gate(int.from_bytes(data[:8], "little"), int.from_bytes(data[8:], "little"))
        if len(data) == size and gate["present"]:
            present.append((vector, gate))
        else:
            missing += 1
    if not present and not missing:
        return [*lines, "no gate lies within the limit"]
    lines.append(f"gates for exceptions: {len(present)} present, {missing} not, of {GATES}")
    for vector, gate in present:
        if vector in (8, 13, 14):
            target = f"{gate['selector']:#x}:{gate['offset']:#x}"
            lines.append(f"{name(vector)}: {target} type {gate['type']:#x} ist {gate['ist']}")
    return lines


def gdt(subject: Subject) -> list[str]:
    """The descriptors that aren't empty."""
    table = subject.cpu.sregs["gdt"]
    lines = [f"base {table['base']:#x} limit {table['limit']:#x}"]
    selector = 8
    while selector + 7 <= table["limit"] and len(lines) <= MOST_DESCRIPTORS:
        low = subject.word(table["base"] + selector, 8)
        if low is None:
            return [*lines, f"{selector:#x}: nothing can be read there"]
        segment = decode_segment(selector, low)
        if low:
            state = "" if segment["present"] else ", not present"
            lines.append(f"{selector:#x}: {low:#018x} {type_text(segment)}, dpl {segment['dpl']}{state}")
        selector += 16 if low and not segment["s"] and subject.cpu.long else 8
    return lines
