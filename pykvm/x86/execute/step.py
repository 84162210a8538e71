"""One instruction at work: its operands, read and written where they are."""

from __future__ import annotations

from pykvm.x86.exceptions import GP, NM, UD, Fault
from pykvm.x86.paging import READ, WRITE
from pykvm.x86.registers import CR0_EM, CR0_TS, CR4_OSFXSR, GPRS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.x86.execute.cpu import Cpu
    from pykvm.x86.execute.decode import Instruction
    from pykvm.x86.execute.linear import Linear


MASKS = {1: 0xFF, 2: 0xFFFF, 4: 0xFFFF_FFFF, 8: 0xFFFF_FFFF_FFFF_FFFF}
"""The mask of a value by its size in bytes."""


class Step:
    """What an instruction's code is given: the decoded instruction, the CPU, its memory.

    ``cpu.regs["rip"]`` is already that of the next instruction. Values are unsigned, sizes in bytes.
    """

    def __init__(self, instruction: Instruction, cpu: Cpu, memory: Linear) -> None:
        self.instruction = instruction
        self.cpu = cpu
        self.memory = memory
        self.size = instruction.operand_size

    @property
    def start(self) -> int:
        """RIP of this instruction."""
        wide = self.instruction.bits == 64
        return self.cpu.regs["rip"] - self.instruction.length & (MASKS[8] if wide else MASKS[4])

    # The r/m operand

    @property
    def segment(self) -> str:
        """The segment register of the memory operand: SS where the base is (E/R)SP or (E/R)BP, else DS."""
        instruction = self.instruction
        return instruction.segment or ("ss" if instruction.base in (4, 5) else "ds")

    def offset(self) -> int:
        """The effective address of the memory operand."""
        instruction, regs = self.instruction, self.cpu.regs
        offset = instruction.displacement
        if instruction.base >= 0:
            offset += regs[GPRS[instruction.base]]
        if instruction.index >= 0:
            offset += regs[GPRS[instruction.index]] * instruction.scale
        if instruction.rip_relative:
            offset += regs["rip"]
        return offset & MASKS[instruction.address_size]

    def load(self, size: int = 0) -> int:
        """The r/m operand, a general register or memory, of ``size`` bytes (default: operand size)."""
        size = size or self.size
        if self.instruction.is_memory:
            return self.load_memory(size)
        if size == 1:
            return self.cpu.byte(self.instruction.rm, self.instruction.rex)
        return self.cpu.reg(self.instruction.rm, size)

    def load_to_change(self, size: int) -> int:
        """The r/m operand of an instruction that will store to it: memory must allow the write already."""
        if self.instruction.is_memory:
            return int.from_bytes(self.memory.read(self.segment, self.offset(), size, WRITE), "little")
        return self.load(size)

    def store(self, value: int, size: int = 0) -> None:
        """Set the r/m operand."""
        size = size or self.size
        if self.instruction.is_memory:
            self.store_memory(value, size)
        elif size == 1:
            self.cpu.set_byte(self.instruction.rm, self.instruction.rex, value)
        else:
            self.cpu.set_reg(self.instruction.rm, size, value)

    def load_memory(self, size: int, displacement: int = 0) -> int:
        """``size`` bytes at ``displacement`` beyond the memory operand's address."""
        offset = self.offset() + displacement
        return int.from_bytes(self.memory.read(self.segment, offset, size, READ), "little")

    def store_memory(self, value: int, size: int, displacement: int = 0) -> None:
        data = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        self.memory.write(self.segment, self.offset() + displacement, data)

    def need_alignment(self, alignment: int) -> None:
        """#GP(0) where the memory operand's address is not a multiple of ``alignment``."""
        segment = self.cpu.sregs[self.segment]
        based = self.cpu.bits != 64 or self.segment in ("fs", "gs")
        if (self.offset() + (segment["base"] if based else 0)) % alignment:
            raise Fault(GP, 0)

    # The immediate, reg and vvvv operands

    def immediate(self, size: int) -> int:
        """The immediate, sign-extended to ``size`` bytes."""
        instruction = self.instruction
        value, width = instruction.immediate, 8 * instruction.immediate_size
        if value >> width - 1:
            value -= 1 << width
        return value & MASKS[size]

    def opcode_register(self) -> int:
        """The number of the register that the opcode's low bits name."""
        return self.instruction.opcode & 7 | (self.instruction.rex & 1) << 3

    def reg(self, size: int = 0) -> int:
        if size == 1:
            return self.cpu.byte(self.instruction.reg, self.instruction.rex)
        return self.cpu.reg(self.instruction.reg, size or self.size)

    def set_reg(self, value: int, size: int = 0) -> None:
        if size == 1:
            self.cpu.set_byte(self.instruction.reg, self.instruction.rex, value)
        else:
            self.cpu.set_reg(self.instruction.reg, size or self.size, value)

    def vvvv(self) -> int:
        return self.cpu.reg(self.instruction.vvvv, self.size)

    def set_vvvv(self, value: int) -> None:
        self.cpu.set_reg(self.instruction.vvvv, self.size, value)

    # Vector registers

    def xmm(self) -> int:
        """The reg operand, 16 bytes."""
        return self.cpu.area.xmm(self.instruction.reg)

    def set_xmm(self, value: int) -> None:
        self.cpu.set_xmm(self.instruction.reg, value)

    def load_xmm(self, size: int = 16, *, aligned: bool = True) -> int:
        """The r/m operand: an XMM register's or memory's low ``size`` bytes."""
        if self.instruction.is_memory:
            if aligned and size == 16:
                self.need_alignment(16)
            return self.load_memory(size)
        return self.cpu.area.xmm(self.instruction.rm) & (1 << 8 * size) - 1

    # What must hold before

    def need_cpl0(self) -> None:
        if self.cpu.cpl != 0:
            raise Fault(GP, 0)

    def need_sse(self) -> None:
        """#UD or #NM where the system has not turned SSE on (SDM vol. 3 table 2-2, vol. 2 §2.4)."""
        sregs = self.cpu.sregs
        if sregs["cr0"] & CR0_EM or not sregs["cr4"] & CR4_OSFXSR:
            raise Fault(UD)
        if sregs["cr0"] & CR0_TS:
            raise Fault(NM)
