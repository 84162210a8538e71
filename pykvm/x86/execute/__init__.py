"""Single instructions carried out on plain values, each by the manual's pseudo-code.

For ring-0 instructions that a host's KVM gives up (KVM_EXIT_INTERNAL_ERROR), and to see what one does::

    cpu = Cpu(vcpu.regs(), vcpu.sregs())
    outcome = execute(cpu, memory, bytes.fromhex("f3 0f b8 c1"))

changes ``cpu``, and memory, and says what came of it. One CPU at a time: a LOCK prefix is honoured only as
far as the caller keeps other CPUs still.
"""

from __future__ import annotations

from pykvm.frozen import frozen
from pykvm.x86.exceptions import GP, UD, WITH_ERROR_CODE, Fault
from pykvm.x86.execute import (
    bits,
    descriptors,
    integers,
    interrupts,
    iret,
    state,
    system,
    vector_moves,
    vectors,
)
from pykvm.x86.execute.cpu import Cpu, Unsupported
from pykvm.x86.execute.decode import DecodeError, TooLong, decode
from pykvm.x86.execute.linear import Linear
from pykvm.x86.execute.step import Step
from pykvm.x86.execute.table import LOCKABLE, build, find
from pykvm.x86.registers import RFLAGS_RF, RFLAGS_TF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.x86.execute.decode import Instruction
    from pykvm.x86.execute.linear import Memory
    from pykvm.x86.execute.table import Row

__all__ = ["Cpu", "Fault", "Outcome", "execute"]

_TABLE = build(
    topic.INSTRUCTIONS
    for topic in (
        bits,
        descriptors,
        integers,
        interrupts,
        iret,
        state,
        system,
        vector_moves,
        vectors,
    )
)

# After these no single-step trap follows: they enter a handler with TF clear.
_NO_STEP = frozenset(("int", "int1", "int3", "into"))


@frozen
class Outcome:
    """What came of an instruction.

    ``fault`` is None where it was carried out: ``cpu`` and memory have changed and RIP is past it. Else it is
    the exception to inject; then registers are as they were. ``single_step``: TF was set, so that #DB with
    DR6.BS follows. ``name`` is the mnemonic.
    """

    name: str
    fault: Fault | None = None
    single_step: bool = False


def execute(cpu: Cpu, memory: Memory, code: bytes) -> Outcome | None:
    """Carry out the instruction at the start of ``code``, which are the bytes at CS:RIP.

    None, with nothing changed, where it is not an instruction that is known here.
    """
    linear = Linear(cpu, memory)
    try:
        instruction = decode(code, cpu.bits)
    except TooLong:
        return Outcome(name="(too long)", fault=_delivered(cpu, Fault(GP, 0)))
    except DecodeError:
        return None
    row = find(_TABLE, instruction, cpu.features)
    if row is None:
        return None
    saved = cpu.save()
    try:
        _carry_out(row, instruction, cpu, linear)
    except Fault as fault:
        cpu.restore(saved)
        return Outcome(name=row.mnemonic, fault=_delivered(cpu, fault))
    except Unsupported:
        cpu.restore(saved)
        return None
    stepping = saved[0]["rflags"] & RFLAGS_TF and row.mnemonic not in _NO_STEP and not cpu.interrupt_shadow
    return Outcome(name=row.mnemonic, single_step=bool(stepping))


def _carry_out(row: Row, instruction: Instruction, cpu: Cpu, linear: Linear) -> None:
    if instruction.lock and row.mnemonic not in LOCKABLE:
        raise Fault(UD)
    if not cpu.has(row.feature) and row.feature:
        raise Fault(UD)
    after = cpu.regs["rip"] + instruction.length
    cpu.regs["rip"] = after & (0xFFFF_FFFF_FFFF_FFFF if cpu.bits == 64 else 0xFFFF_FFFF)
    cpu.regs["rflags"] &= ~RFLAGS_RF
    cpu.interrupt_shadow = False
    row.action(Step(instruction, cpu, linear))


def _delivered(cpu: Cpu, fault: Fault) -> Fault:
    """The fault with the error code that the CPU's mode delivers: real mode has none."""
    error = (fault.error or 0) if cpu.protected and fault.vector in WITH_ERROR_CODE else None
    return Fault(fault.vector, error, fault.cr2)
