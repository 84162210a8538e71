"""The table of all instructions at work: from bytes to a row, and what comes of carrying it out."""

from __future__ import annotations

from pykvm.frozen import frozen
from pykvm.x86.exceptions import GP, UD, WITH_ERROR_CODE, Fault
from pykvm.x86.execute import (
    arithmetic,
    bits,
    branches,
    control,
    descriptors,
    far,
    integers,
    interrupts,
    iret,
    moves,
    multiply,
    ports,
    privileged,
    shifts,
    stack,
    state,
    strings,
    syscalls,
    system,
    vector_moves,
    vectors,
)
from pykvm.x86.execute.cpu import Unsupported
from pykvm.x86.execute.decode import Undefined, decode
from pykvm.x86.execute.step import Step
from pykvm.x86.execute.table import build, find
from pykvm.x86.registers import RFLAGS_RF, RFLAGS_TF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.x86.execute.cpu import Cpu
    from pykvm.x86.execute.decode import Instruction
    from pykvm.x86.execute.linear import Linear
    from pykvm.x86.execute.table import Row

    Found = tuple[Row, Instruction, "Outcome"]

_CAREFUL = (
    *(arithmetic, bits, branches, control, descriptors, far, integers, interrupts, moves, multiply, ports),
    *(privileged, shifts, stack, state, strings, syscalls, system, vector_moves, vectors),
)
_OTHERS = (iret,)
_TABLE = build([topic.INSTRUCTIONS for topic in _CAREFUL], [topic.INSTRUCTIONS for topic in _OTHERS])

# After these no single-step trap follows: they enter a handler with TF clear.
_NO_STEP = frozenset(("int", "int1", "int3", "into"))
# For these it is TF as they leave it that counts.
_STEP_BY_NEW_FLAGS = frozenset(("syscall", "sysret"))

# Where what is not in the table is no instruction: all one-byte opcodes but x87's, and these behind 0F.
_X87 = range(0xD8, 0xE0)
_WHOLE = frozenset((0x00, 0x37, 0xAA, 0xB2, 0xB4, 0xB5, 0xBA))

_KNOWN_AT_MOST = 1 << 14
_known: dict[tuple[bytes, int, frozenset[str] | None], Found | None] = {}


@frozen
class Outcome:
    """What came of an instruction.

    ``fault`` is None where it was carried out: ``cpu`` and memory have changed and RIP is past it (a repeated
    string instruction that is not at its end leaves RIP at itself). Else it is the exception to inject; then
    registers are as they were, but for what a string instruction had done, and after a task switch.
    ``single_step``: TF was set, so that #DB with DR6.BS follows. ``name`` is the mnemonic.
    """

    name: str
    fault: Fault | None = None
    single_step: bool = False


def known(code: bytes, bits: int, features: frozenset[str] | None) -> Found | None:
    """The row and the parts of the instruction at the start of ``code``; None where no row is its.

    Raises DecodeError."""
    key = (code, bits, features)
    try:
        return _known[key]
    except KeyError:
        pass
    instruction = decode(code, bits)
    row = find(_TABLE, instruction, features)
    if row is None and _is_undefined(instruction):
        raise Undefined
    found = None if row is None else (row, instruction, Outcome(name=row.mnemonic))
    if len(_known) >= _KNOWN_AT_MOST:
        _known.clear()
    _known[key] = found
    return found


def _is_undefined(instruction: Instruction) -> bool:
    if instruction.vex:
        return False
    opcode = instruction.opcode
    return opcode in _WHOLE if instruction.map == "0F" else not instruction.map and opcode not in _X87


def carry_out(found: Found, cpu: Cpu, linear: Linear) -> Outcome | None:
    """Do it; None, with nothing changed, for a corner that is not carried out here."""
    row, instruction, done = found
    regs, shadow = cpu.regs, cpu.interrupt_shadow
    rip, rflags = regs["rip"], regs["rflags"]
    saved = None if row.careful else cpu.save()
    try:
        if instruction.lock and not (row.lockable and instruction.is_memory):
            raise Fault(UD)
        if row.feature and not cpu.has(row.feature):
            raise Fault(UD)
        after = rip + instruction.length
        regs["rip"] = after & (0xFFFF_FFFF_FFFF_FFFF if instruction.bits == 64 else 0xFFFF_FFFF)
        if rflags & RFLAGS_RF:
            regs["rflags"] = rflags & ~RFLAGS_RF
        cpu.interrupt_shadow = False
        linear.begin()
        if instruction.lock or row.mnemonic == "xchg":
            linear.lock()
        row.action(Step(instruction, cpu, linear))
    except (Fault, Unsupported) as failure:
        if not isinstance(failure, Fault) or not failure.keeps:
            if saved is not None:
                cpu.restore(saved)
            else:
                regs["rip"] = rip
                regs["rflags"] = rflags
                cpu.interrupt_shadow = shadow
        if isinstance(failure, Fault):
            return Outcome(name=row.mnemonic, fault=delivered(cpu, failure))
        return None
    if row.mnemonic in _STEP_BY_NEW_FLAGS:
        rflags = regs["rflags"]
    if rflags & RFLAGS_TF and row.mnemonic not in _NO_STEP:
        # MOV SS and POP SS hold the trap back, STI doesn't.
        stepping = not cpu.interrupt_shadow or row.mnemonic == "sti"
        return Outcome(name=row.mnemonic, single_step=stepping)
    return done


def too_long(cpu: Cpu) -> Outcome:
    return Outcome(name="(too long)", fault=delivered(cpu, Fault(GP, 0)))


def undefined() -> Outcome:
    return Outcome(name="(undefined)", fault=Fault(UD))


def delivered(cpu: Cpu, fault: Fault) -> Fault:
    """The fault with the error code that the CPU's mode delivers: real mode has none."""
    error = (fault.error or 0) if cpu.protected and fault.vector in WITH_ERROR_CODE else None
    return Fault(fault.vector, error, fault.cr2)
