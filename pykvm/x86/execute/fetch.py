"""One instruction from memory: fetched at CS:RIP with the faults of a fetch, and carried out.

By the Intel SDM vol. 3 §4.7 (#PF with the I/D bit) and §5.3 (limit), vol. 1 §3.3.7.1 (canonical addresses).
"""

from __future__ import annotations

from pykvm.x86.exceptions import GP, Fault
from pykvm.x86.execute.decode import DecodeError, TooLong, Truncated, Undefined
from pykvm.x86.execute.engine import Outcome, carry_out, delivered, known, too_long, undefined
from pykvm.x86.execute.linear import PAGE, Linear
from pykvm.x86.paging import FETCH, canonical

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.x86.execute.cpu import Cpu
    from pykvm.x86.execute.engine import Found
    from pykvm.x86.execute.linear import Memory

LONGEST = 15
"""Bytes of the longest instruction (SDM vol. 2 §2.3.11)."""


def step(cpu: Cpu, memory: Memory | Linear) -> Outcome | None:
    """Fetch the instruction at CS:RIP and carry it out; None, with nothing changed, where it is not known.

    ``memory`` may be a Linear of this CPU, which spares making one.
    """
    linear = memory if isinstance(memory, Linear) else Linear(cpu, memory)
    try:
        found = _found(cpu, linear)
    except Fault as fault:
        return Outcome(name="(fetch)", fault=delivered(cpu, fault))
    except TooLong:
        return too_long(cpu)
    except Undefined:
        return undefined()
    except DecodeError:
        return None
    return None if found is None else carry_out(found, cpu, linear)


def _found(cpu: Cpu, linear: Linear) -> Found | None:
    """What the bytes are, which go over to the next page only where the instruction does."""
    bits = cpu.bits
    gva, room = _place(cpu, bits)
    user = cpu.cpl == 3
    length = min(LONGEST, PAGE - gva % PAGE, room)
    code = linear.load(linear.translate(gva, FETCH, user), length)
    try:
        return known(code, bits, cpu.features)
    except Truncated:
        more = min(LONGEST, room) - length
        if more <= 0:
            raise Fault(GP, 0) from None  # it goes on beyond the limit
    code += linear.load(linear.translate(_next(cpu, gva + length), FETCH, user), more)
    try:
        return known(code, bits, cpu.features)
    except Truncated:
        raise Fault(GP, 0) from None


def _place(cpu: Cpu, bits: int) -> tuple[int, int]:
    """The linear address of CS:RIP, and how many bytes of code may follow."""
    rip, cs = cpu.regs["rip"], cpu.sregs["cs"]
    if bits == 64:
        if not canonical(rip, cpu.sregs["cr4"]):
            raise Fault(GP, 0)
        return rip, LONGEST
    if rip > cs["limit"]:
        raise Fault(GP, 0)
    return cs["base"] + rip & 0xFFFF_FFFF, cs["limit"] - rip + 1


def _next(cpu: Cpu, gva: int) -> int:
    """The linear address where the next page begins; #GP(0) where it is not canonical."""
    if cpu.bits != 64:
        return gva & 0xFFFF_FFFF
    if not canonical(gva & 0xFFFF_FFFF_FFFF_FFFF, cpu.sregs["cr4"]):
        raise Fault(GP, 0)
    return gva & 0xFFFF_FFFF_FFFF_FFFF
