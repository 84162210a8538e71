"""The host's instructions for one of the guest's that neither jumps nor changes the CPU's mode.

Most of the guest's instructions are the host's own: their registers are renamed (context.py) and a memory
operand is replaced by the host address that the lookup has found. What is made does not depend on where it
lies, and but for RIP-relative operands not on where the guest's instruction lay: it can be remembered.

An instruction's registers change only after its last lookup, so that a fault leaves all as it was.
"""

from __future__ import annotations

from struct import pack, unpack_from

from pykvm.translate.context import HOST_REGISTER, SCRATCH, SCRATCH2, SLOT
from pykvm.translate.decode import ADDRESS, F2, F3, FS, GS, LOCK, OPERAND, OTHER, REPEAT
from pykvm.translate.encode import (
    call_slot,
    lea,
    load_slot,
    move_number,
    register_register,
    store_number,
    store_slot,
)
from pykvm.translate.operands import (
    BOTH,
    INTEGER,
    LOCKABLE,
    REG_BYTE,
    RM_BYTE,
    TARGET,
    WORD_RM,
    WRITE,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.translate.lookup import Lookup

    Action = Callable[["Emitter", "Parts"], bytes]

M64 = (1 << 64) - 1
FROM_CX = register_register(0x8B, 8, 1, 10)  # the guest's RCX to the host's
FROM_CL = register_register(0x8B, 0, 1, 10)
TO_CX = register_register(0x89, 8, 1, 10)
HOST_ADDRESS = b"\x4e\x8d\x0c\x09"  # lea r9, [rcx + r9]
STACK_BELOW_8 = b"\x4d\x8d\x4b\xf8"  # lea r9, [r11 - 8]
PUSHED_8 = b"\x4d\x8d\x5b\xf8"  # lea r11, [r11 - 8]
STACK_BELOW_4 = b"\x45\x8d\x4b\xfc"  # the same of 4 bytes, cut to 32 bits
PUSHED_4 = b"\x45\x8d\x5b\xfc"
STACK_TOP = b"\x4d\x89\xd9"  # mov r9, r11
POPPED_8 = b"\x4d\x8d\x5b\x08"
POPPED_4 = b"\x45\x8d\x5b\x04"


class NotTranslated(Exception):
    """This form is left to the interpreter."""


class Parts:
    """An instruction as decode.py has taken it apart; ``after`` is the address of the next."""

    __slots__ = ("after", "code", "immediate", "modrm", "opcode", "prefixes", "rex", "value")

    def __init__(
        self, code: bytes, opcode: int, prefixes: int, rex: int, modrm: int, immediate: int, after: int
    ) -> None:
        self.code = code  # its bytes alone
        self.opcode = opcode
        self.prefixes = prefixes
        self.rex = rex
        self.modrm = modrm  # places in ``code``
        self.immediate = immediate
        self.after = after
        self.value = code[modrm] if modrm < len(code) else 0  # the ModRM byte

    @property
    def digit(self) -> int:
        return self.value >> 3 & 7

    @property
    def reg(self) -> int:
        return self.value >> 3 & 7 | (self.rex & 4) << 1

    @property
    def rm(self) -> int:
        return self.value & 7 | (self.rex & 1) << 3

    @property
    def low_register(self) -> int:
        """The register in the opcode's low three bits."""
        return self.opcode & 7 | (self.rex & 1) << 3

    @property
    def rip_relative(self) -> bool:
        return self.value & 0xC7 == 5

    def signed(self, size: int) -> int:
        return int.from_bytes(self.code[self.immediate : self.immediate + size], "little", signed=True)


def prefix_bytes(prefixes: int) -> bytes:
    return (
        (b"\xf0" if prefixes & LOCK else b"")
        + (b"\x66" if prefixes & OPERAND else b"")
        + (b"\xf2" if prefixes & F2 else b"")
        + (b"\xf3" if prefixes & F3 else b"")
    )


class Emitter:
    """Emits for code of one mode: ``user`` is 1 at CPL 3, ``wide`` true of 64-bit code."""

    def __init__(self, lookup: Lookup, user: int, wide: bool) -> None:
        self.user = user
        self.wide = wide
        self._lookup = lookup
        self.may_hold = wide and lookup.bmi2  # see emit_chase.py
        self.rexable = 8 if wide else 0
        self.fpu = True  # CR0 and CR4 allow x87 and SSE
        self.may_read_time = False  # RDTSC can be emitted: CR4.TSD doesn't forbid it, and BMI2 is there

    def access(self, size: int, access: int) -> bytes:
        """The lookup of ``size`` bytes at R9."""
        return self._lookup.code(self.user, access >> 1, size)

    def jump(self) -> bytes:
        """Go on in guest code at R9."""
        return self._lookup.jump(self.user)

    # Operands

    def address(self, p: Parts, popped: int = 0) -> bytes:
        """R9 = the linear address of the memory operand; RCX is lost, flags are kept.

        ``popped``: what is to be added where RSP is the base.
        """
        code, prefixes = p.code, p.prefixes
        narrow = not self.wide or prefixes & ADDRESS
        out = b""
        if p.rip_relative:
            (displacement,) = unpack_from("<i", code, p.modrm + 1)
            if self.wide:
                target = p.after + displacement
                out = move_number(SCRATCH, target & 0xFFFF_FFFF if narrow else target)
            else:
                out = move_number(SCRATCH, displacement & 0xFFFF_FFFF)
        else:
            base, index, shift, displacement = self.effective(p)
            displacement += popped if base == 4 else 0
            host_base = host_index = -1
            if base >= 0:
                host = HOST_REGISTER[base]
                if host is None:
                    out += load_slot(SCRATCH, SLOT[f"r{base}"])
                    host = SCRATCH
                host_base = host
            if index >= 0:
                host = HOST_REGISTER[index]
                if host is None:
                    out += load_slot(SCRATCH2, SLOT[f"r{index}"])
                    host = SCRATCH2
                host_index = host
            if not (narrow or displacement or host_index >= 0 or host_base < 0):
                if host_base != SCRATCH:
                    out += register_register(0x89, 8, host_base, SCRATCH)  # takes no time, other than LEA
            else:
                made = lea(SCRATCH, host_base, host_index, shift, displacement)
                out += bytes((made[0] & ~8,)) + made[1:] if narrow else made
        return out + self.based(p)

    def based(self, p: Parts) -> bytes:
        """R9 += the base of FS or GS, where one is named; 32-bit code leaves where not all can be reached."""
        segment = p.prefixes & (FS | GS)
        if p.prefixes & OTHER and not self.wide and (segment or 0x2E in p.code[: p.modrm]):
            raise NotTranslated  # the last of several counts; by CS nothing can be written
        if not segment:
            return b""
        if segment == FS | GS:
            raise NotTranslated
        name = "gs" if segment & GS else "fs"
        base = load_slot(SCRATCH2, SLOT[f"{name}_base"])
        if self.wide:
            return base + HOST_ADDRESS
        leave = store_number(SLOT["rip"], p.after - len(p.code) & 0xFFFF_FFFF) + call_slot(SLOT["interpret"])
        check = load_slot(SCRATCH2, SLOT[f"{name}_closed"]) + b"\xe3" + bytes((len(leave),)) + leave
        return check + base + b"\x46\x8d\x0c\x09"  # lea r9d, [rcx + r9]

    def effective(self, p: Parts) -> tuple[int, int, int, int]:
        """Base, index (-1: none), the index's shift, displacement."""
        code, value = p.code, p.value
        mod, rm = value >> 6, value & 7
        q = p.modrm + 1
        base, index, shift = rm | (p.rex & 1) << 3, -1, 0
        if rm == 4:
            sib = code[q]
            q += 1
            shift = sib >> 6
            index = sib >> 3 & 7 | (p.rex & 2) << 2
            if index == 4:
                index = -1
            base = sib & 7 | (p.rex & 1) << 3
            if sib & 7 == 5 and mod == 0:
                base, mod = -1, 2
        displacement = 0
        if mod == 1:
            displacement = code[q] - ((code[q] & 0x80) << 1)
        elif mod == 2:
            (displacement,) = unpack_from("<i", code, q)
        return base, index, shift, displacement

    def operand_size(self, p: Parts) -> int:
        return 8 if p.rex & 8 else 2 if p.prefixes & OPERAND else 4

    # Instructions with an r/m operand

    def integer(self, p: Parts) -> bytes:
        row = INTEGER[p.opcode]
        access, reg_use, byte, by_cl = row
        if isinstance(access, tuple):
            access = access[p.digit]
        if not access:
            raise NotTranslated
        opcode = p.opcode
        prefixes = p.prefixes & ~(FS | GS | ADDRESS)
        if prefixes & LOCK and (p.value >= 0xC0 or opcode not in LOCKABLE or access != BOTH):
            raise NotTranslated  # #UD
        if prefixes & REPEAT and opcode not in (0x1B8, 0x1BC, 0x1BD):
            prefixes &= ~REPEAT  # XACQUIRE and XRELEASE, or nothing
        if opcode == 0x1B8 and not prefixes & F3:
            raise NotTranslated
        if opcode == 0x1C3 and (p.value >= 0xC0 or p.prefixes & (OPERAND | REPEAT)):
            raise NotTranslated  # #UD
        if opcode in (0x1BC, 0x1BD):
            prefixes &= ~REPEAT  # TZCNT and LZCNT are BSF and BSR to a CPU without them
        prefixes &= LOCK | OPERAND | REPEAT
        opcode_bytes = self.opcode_bytes(opcode)
        tail = p.code[p.immediate :]
        if p.value >= 0xC0:
            return self.registers(p, access, reg_use, byte, by_cl, prefixes, opcode_bytes, tail)
        size = 1 if byte & RM_BYTE else 2 if opcode in WORD_RM or opcode == 0x1B7 else self.operand_size(p)
        if reg_use and byte & REG_BYTE and not p.rex and p.reg > 3:  # AH to BH: no REX may stand there
            if p.reg == 5:
                raise NotTranslated  # CH is in R10
            out = self.address(p) + self.access(size, access)
            return (
                out + b"\x4a\x8d\x0c\x09" + prefix_bytes(prefixes) + opcode_bytes
                + bytes((1 | (p.reg & 7) << 3,)) + tail
            )  # fmt: skip
        out = self.address(p) + self.access(size, access)
        wide = p.rex & 8
        after = b""
        host: int | None = p.digit
        if reg_use:
            host = HOST_REGISTER[p.reg]
        if host is None or by_cl:
            out += HOST_ADDRESS  # now R9 alone is the address
            if host is None:
                if by_cl:
                    raise NotTranslated  # SHLD by CL with R9 to R11
                out += load_slot(SCRATCH2, SLOT[f"r{p.reg}"])
                host = SCRATCH2
                if reg_use == TARGET:
                    after = store_slot(SCRATCH2, SLOT[f"r{p.reg}"])
            else:
                out += FROM_CL
            rex = 0x41 | wide | host >> 3 << 2
            operand = bytes((1 | (host & 7) << 3,))
        else:
            rex = 0x42 | wide | host >> 3 << 2
            operand = bytes((4 | (host & 7) << 3, 0x09))
        return out + prefix_bytes(prefixes) + bytes((rex,)) + opcode_bytes + operand + tail + after

    def opcode_bytes(self, opcode: int) -> bytes:
        escape = (b"", b"\x0f", b"\x0f\x38", b"\x0f\x3a")[opcode >> 8]
        return escape + bytes((opcode & 0xFF,))

    def registers(
        self,
        p: Parts,
        access: int,
        reg_use: int,
        byte: int,
        by_cl: bool,
        prefixes: int,
        opcode: bytes,
        tail: bytes,
    ) -> bytes:
        """Both operands in registers."""
        before = after = b""
        high_reg = bool(reg_use and byte & REG_BYTE and not p.rex and p.reg > 3)
        high_rm = bool(byte & RM_BYTE and not p.rex and p.rm > 3)
        if high_reg or high_rm:
            # No REX: the guest's RCX is brought to the host's, all others are in place but RSP.
            if (p.rm == 4 and not byte & RM_BYTE) or (reg_use and not byte & REG_BYTE and p.reg == 4):
                raise NotTranslated
            uses_cx = by_cl or p.rm & 3 == 1 or (reg_use and p.reg & 3 == 1)
            if uses_cx:
                before, after = FROM_CX, TO_CX
            return before + prefix_bytes(prefixes) + opcode + bytes((p.value,)) + tail + after
        host = HOST_REGISTER[p.rm]
        if host is None:
            host = SCRATCH
            before += load_slot(SCRATCH, SLOT[f"r{p.rm}"])
            if access & WRITE:
                after += store_slot(SCRATCH, SLOT[f"r{p.rm}"])
        reg: int | None = p.digit
        if reg_use:
            reg = HOST_REGISTER[p.reg]
            if reg is None:
                if p.reg == p.rm:
                    reg = host
                    if reg_use == TARGET and not access & WRITE:
                        after += store_slot(SCRATCH, SLOT[f"r{p.rm}"])
                else:
                    if by_cl and host == SCRATCH:
                        raise NotTranslated  # SHLD by CL with two of R9 to R11
                    reg = SCRATCH if by_cl else SCRATCH2
                    before += load_slot(reg, SLOT[f"r{p.reg}"])
                    if reg_use == TARGET:
                        after += store_slot(reg, SLOT[f"r{p.reg}"])
        assert reg is not None
        if by_cl:
            before += FROM_CL
        rex = p.rex & 8 | reg >> 3 << 2 | host >> 3
        # Without REX numbers 4 to 7 would be AH to BH.
        needs = rex or (byte & RM_BYTE and host > 3) or (reg_use and byte & REG_BYTE and reg > 3)
        return (
            before + prefix_bytes(prefixes) + (bytes((0x40 | rex,)) if needs else b"") + opcode
            + bytes((0xC0 | (reg & 7) << 3 | host & 7,)) + tail + after
        )  # fmt: skip

    # The stack

    def push(self, register: int) -> bytes:
        """Push a general register, at the stack's width."""
        host = HOST_REGISTER[register]
        if not self.wide:
            assert host is not None
            return (
                STACK_BELOW_4 + self.access(4, WRITE)
                + bytes((0x42 | host >> 3 << 2, 0x89, 4 | (host & 7) << 3, 9)) + PUSHED_4
            )  # fmt: skip
        out = STACK_BELOW_8 + self.access(8, WRITE)
        if host is None:
            return out + HOST_ADDRESS + load_slot(SCRATCH2, SLOT[f"r{register}"]) + b"\x49\x89\x09" + PUSHED_8
        return out + bytes((0x4A | host >> 3 << 2, 0x89, 4 | (host & 7) << 3, 0x09)) + PUSHED_8

    def push_value(self, value: int) -> bytes:
        """Push a number, of which a 32-bit stack takes the low half."""
        if not self.wide:
            return (
                STACK_BELOW_4 + self.access(4, WRITE)
                + b"\x42\xc7\x04\x09" + pack("<I", value & 0xFFFF_FFFF) + PUSHED_4
            )  # fmt: skip
        out = STACK_BELOW_8 + self.access(8, WRITE)
        signed = value & M64
        signed -= signed >> 63 << 64
        if -(1 << 31) <= signed < 1 << 31:
            return out + b"\x4a\xc7\x04\x09" + pack("<i", signed) + PUSHED_8
        return out + HOST_ADDRESS + move_number(SCRATCH2, value) + b"\x49\x89\x09" + PUSHED_8


class NotingEmitter(Emitter):
    """For one instruction by itself: remembers how many operands in memory it has, and of the last one how
    large it is and how it is used.
    """

    size = 0
    used = 0
    count = 0

    def access(self, size: int, access: int) -> bytes:
        self.size, self.used = size, access
        self.count += 1
        return self.reach(size, access)

    def reach(self, size: int, access: int) -> bytes:
        """In place of the lookup of ``size`` bytes at R9: RCX + R9 is where they are."""
        raise NotTranslated
