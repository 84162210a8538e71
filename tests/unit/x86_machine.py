"""A CPU with memory and tables in a chosen mode, to try system instructions on."""

from __future__ import annotations

from x86_doubles import SparseMemory

from pykvm.x86 import entry
from pykvm.x86.execute import Cpu, Outcome, execute
from pykvm.x86.segments import decode_segment, encode_gate

GDT, IDT, TSS, TABLES, CODE, STACK, USER_STACK = 0x1000, 0x2000, 0x4000, 0x5000, 0x1_0000, 0x2_0000, 0x3_0000

KERNEL_CODE, KERNEL_DATA, TASK = 0x10, 0x18, 0x20
USER_CODE, USER_DATA, USER_CODE_64 = 0x30, 0x38, 0x40
CONFORMING, READ_ONLY, CODE_16, DATA_16 = 0x48, 0x50, 0x58, 0x60
ABSENT_CODE, ABSENT_DATA, EXECUTE_ONLY, RING1_CODE, RING1_DATA = 0x68, 0x70, 0x78, 0x80, 0x88
LOCAL, FREE_TASK, SMALL_DATA, LIMIT = 0x90, 0xA0, 0xB0, 0xFF

_DESCRIPTORS = {
    KERNEL_DATA: 0x00CF_9300_0000_FFFF,
    USER_CODE: 0x00CF_FB00_0000_FFFF,
    USER_DATA: 0x00CF_F300_0000_FFFF,
    USER_CODE_64: 0x00AF_FB00_0000_FFFF,
    CONFORMING: 0x00CF_9F00_0000_FFFF,
    READ_ONLY: 0x00CF_9100_0000_FFFF,
    CODE_16: 0x0000_9B00_0000_FFFF,
    DATA_16: 0x0000_9300_0000_FFFF,
    ABSENT_CODE: 0x00CF_1B00_0000_FFFF,
    ABSENT_DATA: 0x00CF_1300_0000_FFFF,
    EXECUTE_ONLY: 0x00CF_9900_0000_FFFF,
    RING1_CODE: 0x00CF_BB00_0000_FFFF,
    RING1_DATA: 0x00CF_B300_0000_FFFF,
    LOCAL: 0x0000_8200_9000_0017,
    FREE_TASK: 0x0000_8900_4800_0067,
    SMALL_DATA: 0x0040_9300_0000_0FFF,
}
_CODE_32, _CODE_64 = 0x00CF_9B00_0000_FFFF, 0x00AF_9B00_0000_FFFF


class Machine:
    """``mode`` is "real", "protected" (32 bits, no paging) or "long" (64 bits, the first GiB 1:1)."""

    def __init__(self, mode: str, cpl: int = 0) -> None:
        self.memory = SparseMemory(1 << 32)
        self.long = mode == "long"
        if mode == "real":
            state = entry.real(CODE, stack=STACK)
        elif mode == "protected":
            state = entry.protected(CODE, stack=STACK, gdt=GDT)
        else:
            state = entry.long(CODE, stack=STACK, gdt=GDT, page_tables=TABLES)
            self.memory.put_u64(TABLES, TABLES + 0x1000 | 7)
            self.memory.put_u64(TABLES + 0x1000, 0x87)
        self.regs, self.sregs = state["regs"], state["sregs"]
        components = {2: (576, 256, False), 9: (832, 8, False)}
        self.cpu = Cpu(self.regs, self.sregs, components=components)
        if mode != "real":
            self._make_tables()
            if cpl:
                self.enter_ring(cpl)

    def _make_tables(self) -> None:
        self.sregs["gdt"] = {"base": GDT, "limit": LIMIT}
        self.sregs["idt"] = {"base": IDT, "limit": 0x7FF}
        self.sregs["tr"] |= {"base": TSS, "limit": 0x67}
        self.memory.put_u64(GDT + KERNEL_CODE, _CODE_64 if self.long else _CODE_32)
        for selector, value in _DESCRIPTORS.items():
            self.memory.put_u64(GDT + selector, value)
        if self.long:
            self.memory.put_u64(TSS + 4, STACK)
        else:
            self.memory.put_u32(TSS + 4, STACK)
            self.memory.put_u16(TSS + 8, KERNEL_DATA)

    def enter_ring(self, cpl: int) -> None:
        """Be in ring 1 or 3, on a stack there."""
        code = RING1_CODE if cpl == 1 else USER_CODE_64 if self.long else USER_CODE
        data = RING1_DATA if cpl == 1 else USER_DATA
        self.load("cs", code | cpl)
        for name in ("ss", "ds", "es", "fs", "gs"):
            self.load(name, data | cpl)
        self.regs["rsp"] = USER_STACK

    def enter_v86(self, iopl: int = 3) -> None:
        for number, name in enumerate(("cs", "ss", "ds", "es", "fs", "gs")):
            selector = 0x1000 + 0x100 * number
            place = {"base": selector << 4, "limit": 0xFFFF, "selector": selector}
            self.sregs[name] = self.sregs[name] | place | {"type": 3, "dpl": 3, "db": 0, "g": 0}
        self.regs |= {"rsp": 0x8000, "rip": 0x100, "rflags": 0x2_0002 | iopl << 12}

    def load(self, name: str, selector: int) -> None:
        """Put a segment register on a descriptor of the GDT, unchecked."""
        self.sregs[name] = decode_segment(selector, self.memory.u64(GDT + (selector & ~7)))

    def gate(
        self, vector: int, offset: int, selector: int = KERNEL_CODE, kind: int = 14, **more: int
    ) -> None:
        gate = {"offset": offset, "selector": selector, "type": kind, "present": 1, "dpl": 0, "ist": 0} | more
        size = 16 if self.long else 8
        self.memory.write(IDT + size * vector, encode_gate(gate)[:size])

    def stack(self, count: int, width: int) -> list[int]:
        """The topmost items of the stack, last pushed first."""
        top = self.sregs["ss"]["base"] * (not self.long) + self.regs["rsp"]
        read = [self.memory.read(top + width * at, width) for at in range(count)]
        return [int.from_bytes(item, "little") for item in read]

    def push(self, *values: int, width: int) -> None:
        for value in values:
            self.regs["rsp"] -= width
            place = self.sregs["ss"]["base"] * (not self.long) + self.regs["rsp"]
            self.memory.write(place, value.to_bytes(width, "little"))

    def run(self, code: str) -> Outcome:
        """Carry out one instruction, given in hex."""
        outcome = execute(self.cpu, self.memory, bytes.fromhex(code))
        assert outcome is not None, f"{code} is not known"
        return outcome

    def fault(self, code: str) -> tuple[int, int | None]:
        """Carry out an instruction that faults; gives vector and error code. Nothing else may change."""
        regs, sregs = dict(self.regs), dict(self.sregs)
        fault = self.run(code).fault
        assert fault is not None, f"{code} raised nothing"
        assert (self.regs, self.sregs) == (regs, sregs)
        return fault.vector, fault.error

    def flag(self, mask: int) -> bool:
        return bool(self.regs["rflags"] & mask)
