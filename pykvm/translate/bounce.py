"""One instruction at a time by the host's processor, with its memory operand in a buffer.

For what emitted code can't reach: an operand across two pages, in a device, or in a page whose writes must
be seen. The instruction is emitted as ever, but for the lookup, which gives the buffer's address.
"""

from __future__ import annotations

from struct import pack

from pykvm.errors import InternalError
from pykvm.translate import context
from pykvm.translate.context import SLOT
from pykvm.translate.decode import FS, GS, LOCK, OPERAND, REPEAT, Undecoded, decode
from pykvm.translate.emit import NotingEmitter, NotTranslated, Parts
from pykvm.translate.emit_integer import ACTIONS as INTEGER_ACTIONS
from pykvm.translate.emit_vector import ACTIONS as VECTOR_ACTIONS
from pykvm.translate.encode import call_slot
from pykvm.translate.operands import INTEGER, READ, VECTOR, WRITE, M
from pykvm.x86.exceptions import GP, MF, NM, SS, UD, Fault
from pykvm.x86.execute.decode import DecodeError
from pykvm.x86.execute.decode import decode as decode_whole
from pykvm.x86.execute.step import Step
from pykvm.x86.paging import READ as READ_ACCESS
from pykvm.x86.paging import WRITE as WRITE_ACCESS
from pykvm.x86.paging import canonical
from pykvm.x86.registers import CR0_EM, CR0_TS, CR4_OSFXSR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.translate.blocks import Blocks
    from pykvm.translate.core import Core
    from pykvm.translate.state import ContextCpu
    from pykvm.x86.execute.decode import Instruction
    from pykvm.x86.execute.linear import Linear

M64 = (1 << 64) - 1
AREA = 512  # bytes of FXSAVE
# Of 16-byte operands these need not be aligned: opcode and mandatory prefix (bits as in decode.py).
_UNALIGNED = frozenset((0x110, 0x111, 0x1F0, 0x1F7, *range(0x360, 0x364), *range(0x2C8, 0x2CE), 0x3CC))
_WITHOUT_WAIT = frozenset(((0xD9, 6), (0xD9, 7), (0xDD, 6), (0xDD, 7)))  # FNSTENV FNSTCW FNSAVE FNSTSW
FSW_ES = 0x80
XCHG = (0x86, 0x87)
MASKED_MOVE = 0xF7  # MASKMOVQ and MASKMOVDQU, whose operand no ModRM names
RDI = 7
_BY_PREFIX = {0x16F: 4, 0x17F: 4}  # MOVDQU


class Operand:
    """An operand in memory, by segment and offset, and the instruction as 32-bit or 64-bit code has it."""

    __slots__ = ("code", "length", "offset", "segment")

    def __init__(self, code: bytes, length: int, segment: str, offset: int) -> None:
        self.code = code
        self.length = length
        self.segment = segment
        self.offset = offset


def operand(code: bytes, cpu: ContextCpu, linear: Linear) -> Operand | None:
    """The instruction ``code`` at RIP with its operand in memory, if it has one; None where it is none."""
    try:
        instruction = decode_whole(code, cpu.bits)
    except DecodeError:
        return None
    if instruction.lock:
        return None
    segment, offset = instruction.segment or "ds", 0
    if instruction.is_memory:
        regs = cpu.regs
        rip = regs["rip"]
        regs["rip"] = rip + instruction.length & M64
        step = Step(instruction, cpu, linear)
        segment, offset = step.segment, step.offset()
        regs["rip"] = rip
    elif instruction.map == "0F" and instruction.opcode == MASKED_MOVE:
        offset = cpu.reg(RDI, instruction.address_size)
    if cpu.bits != 64:
        code = _without_addresses(instruction)
    return Operand(code, instruction.length, segment, offset)


def _linear(cpu: ContextCpu, place: Operand) -> int:
    """Where ``place`` is, whether it may be reached or not."""
    if cpu.bits != 64:
        return int(place.offset + cpu.sregs[place.segment]["base"] & 0xFFFF_FFFF)
    base = cpu.sregs[place.segment]["base"] if place.segment in ("fs", "gs") else 0
    return int(place.offset + base & M64)


def _without_addresses(instruction: Instruction) -> bytes:
    """As 32-bit code has it: [ECX] stands for an operand in memory, whose address isn't used."""
    wanted = {"F2": b"\xf2", "F3": b"\xf3", "66": b"\x66"}
    prefix = wanted.get(instruction.prefix, b"")
    if instruction.operand_size == 2 and (not instruction.map or prefix == b"\xf2"):
        prefix = b"\x66" + prefix  # x87's environment; CRC32
    reg = (instruction.reg & 7) << 3
    modrm = (
        b""
        if instruction.modrm < 0
        else bytes((reg | (1 if instruction.is_memory else 0xC0 | instruction.rm),))
    )
    immediate = instruction.immediate.to_bytes(instruction.immediate_size, "little")
    return prefix + bytes.fromhex(instruction.map) + bytes((instruction.opcode,)) + modrm + immediate


class _BounceEmitter(NotingEmitter):
    """Takes the buffer for every operand."""

    def based(self, p: Parts) -> bytes:
        return b""

    def reach(self, size: int, access: int) -> bytes:
        # lea r9, [rsp + bounce]; mov ecx, 0
        return b"\x4c\x8d\x8c\x24" + pack("<i", SLOT["bounce"]) + b"\xb9\0\0\0\0"


class Bounce:
    """Has room for code at ``at``; ``enter`` runs it and gives the reason for its end."""

    def __init__(self, blocks: Blocks, at: int, raw: memoryview, enter: Callable[[int], int]) -> None:
        self._blocks = blocks
        self._at = at
        self._raw = raw
        self._enter = enter

    def carry_out(
        self, core: Core, code: bytes, mode: int, gva: int | None, place: Operand | None = None
    ) -> bool:
        """Carry out the instruction ``code``; False where it is none with one operand in memory.

        ``gva`` is the operand's address, None for an instruction that needs none or has its operand at
        ``place``. Raises Fault.
        """
        wide = bool(mode & context_wide)
        if place is not None:
            code = place.code
        try:
            length, opcode, prefixes, rex, modrm, immediate = decode(code, 0, wide)
        except (Undecoded, IndexError):
            return False
        vector = opcode in VECTOR_ACTIONS
        if not vector and (opcode not in INTEGER or opcode == 0xFF):
            return False
        if modrm >= immediate and not (gva is None and vector):
            return False
        if modrm < immediate and gva is None and place is None and code[modrm] < 0xC0:
            return False
        state, rip = core.cpu, core.words[SLOT["rip"] // 8]
        if vector and opcode not in (0x2F0, 0x2F1):
            cr0 = state.sregs["cr0"]
            sse = not (0xD8 <= opcode < 0xE0 or opcode == 0x9B)
            if sse and (cr0 & CR0_EM or not state.sregs["cr4"] & CR4_OSFXSR):
                raise Fault(UD)
            if cr0 & (CR0_TS | CR0_EM):
                raise Fault(NM)
        emitter = _BounceEmitter(self._blocks.lookup, 0, wide)
        after = rip + (length if place is None else place.length)
        parts = Parts(code[:length], opcode, prefixes, rex, modrm, immediate, after)
        action = (VECTOR_ACTIONS if vector else INTEGER_ACTIONS)[opcode]
        try:
            made = action(emitter, parts) if action is not None else None
        except NotTranslated:
            made = None
        if made is None or emitter.count > 1:
            return False
        user = state.cpl == 3
        size, used = emitter.size, emitter.used
        start = SLOT["bounce"]
        if emitter.count:
            if place is not None:
                gva = _linear(state, place)
            assert gva is not None
            if self._raw[SLOT["fpu"] + 2] & FSW_ES and _waits(parts):
                raise Fault(MF)
            # FXSAVE's address is looked at before its alignment; that of SSE operands after it.
            if size != AREA:
                self._check_alignment(opcode, prefixes, size, gva)
            if place is None:
                self._check_address(parts, size, gva)
            else:
                access = WRITE_ACCESS if used & WRITE else READ_ACCESS
                core.linear.address(place.segment, place.offset, size, access)
            if size == AREA:
                self._check_alignment(opcode, prefixes, size, gva)
            if used & WRITE:
                self._may_write(core, gva, size, user)
                if prefixes & LOCK or opcode in XCHG:
                    core.linear.lock()
            if used & READ or 0xD8 <= opcode < 0xE0:  # x87 may store nothing, with an exception pending
                self._raw[start : start + size] = core.linear.read_linear(gva, size, user=user)
        made += call_slot(SLOT["do_bounce"])
        at = self._at - self._blocks.base
        self._blocks.mapping.view[at : at + len(made)] = made
        reason = self._enter(self._at)
        if reason == context.SIGNAL:
            fault = core.fault_of(core.words[SLOT["signal"] // 8])
            if fault is None:
                raise InternalError(f"signal in the bounce of {code[:length].hex()}", where="translate")
            core.words[SLOT["rip"] // 8] = rip
            raise fault
        if reason != context.BOUNCE:
            raise InternalError(f"the bounce of {code[:length].hex()} left for {reason}", where="translate")
        if emitter.count and used & WRITE:
            assert gva is not None
            core.linear.write_linear(gva, bytes(self._raw[start : start + size]), user=user)
        core.words[SLOT["rip"] // 8] = after & (M64 if wide else 0xFFFF_FFFF)
        return True

    def _check_address(self, p: Parts, size: int, gva: int) -> None:
        """#GP or #SS where the operand isn't at canonical addresses (Intel SDM vol. 1 §3.3.7.1)."""
        if canonical(gva, 0) and canonical(gva + size - 1 & M64, 0):
            return
        base = 0
        if p.value < 0xC0:
            base = p.code[p.modrm + 1] & 7 if p.value & 7 == 4 else p.value & 7
            if p.rex & 1 or p.prefixes & (FS | GS) or (base == 5 and p.value < 0x40):
                base = 0
        raise Fault(SS if base in (4, 5) else GP, 0)

    def _check_alignment(self, opcode: int, prefixes: int, size: int, gva: int) -> None:
        if size < 16 or not gva % 16 or opcode in _UNALIGNED:
            return
        if opcode in _BY_PREFIX and prefixes & _BY_PREFIX[opcode]:
            return
        if opcode in VECTOR_ACTIONS and size in (16, AREA):
            raise Fault(GP, 0)

    def _may_write(self, core: Core, gva: int, size: int, user: bool) -> None:
        core.linear.translate(gva, WRITE_ACCESS, user)
        if (gva & 0xFFF) + size > 0x1000:
            core.linear.translate((gva | 0xFFF) + 1 & M64, WRITE_ACCESS, user)


def _waits(p: Parts) -> bool:
    """Whether an x87 exception that is pending comes before what the operand raises (SDM vol. 1 §8.6)."""
    if 0xD8 <= p.opcode < 0xE0:
        return (p.opcode, p.digit) not in _WITHOUT_WAIT
    if p.opcode not in VECTOR or p.prefixes & REPEAT:
        return p.opcode == 0x1F7 and not p.prefixes & OPERAND
    row = VECTOR[p.opcode][1 if p.prefixes & OPERAND else 0]
    return row is not None and M in row[2:]


context_wide = 2
__all__ = ["READ_ACCESS", "Bounce"]
