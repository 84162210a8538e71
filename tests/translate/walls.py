"""Reads emitted code and proves that it reaches no memory but the context's and what a lookup has found.

One instruction's piece at a time, in the order in which it lies: jumps within a piece only skip. An access is
allowed at [RSP + displacement] within the context; in one of its tables, indexed by 16 bits; or at an address
made of a lookup's result, within the size and for the access that was looked up.
"""

from __future__ import annotations

import capstone
from capstone import x86_const as x86
from reach import LOG_COUNTS, POINTERS

from pykvm.translate.context import (
    CONTEXT_SIZE,
    CROSSING_SIZES,
    JUMP_HOST,
    JUMP_TAG,
    MISS_SIZES,
    SLOT,
    TABLE,
    TLB_ADDEND,
    TLB_READ,
    TLB_WRITE,
)
from pykvm.translate.decode import Undecoded, decode

_MD = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
_MD.detail = True
_FORBIDDEN = frozenset(
    (
        *("syscall", "sysenter", "sysret", "int", "int3", "iret", "iretq", "hlt", "ret", "retf", "in", "out"),
        *("insb", "insd", "outsb", "outsd", "wrfsbase", "wrgsbase", "rdfsbase", "rdgsbase", "xlatb"),
        *("push", "pop", "pushfq", "popfq", "enter", "leave"),
    )
)
_NO_ACCESS = frozenset(("lea", "nop"))
_READS = frozenset(("test", "cmpsd", "roundss", "roundsd", "fldenv", "frstor", "fxrstor", "fxrstor64"))
# Where Capstone tells no size or a wrong one.
_SIZES = {
    **dict.fromkeys(("fxsave", "fxsave64", "fxrstor", "fxrstor64"), 512),
    **dict.fromkeys(("fnsave", "frstor"), 108),
    **dict.fromkeys(("fnstenv", "fldenv"), 28),
    **dict.fromkeys(("comisd", "ucomisd", "roundsd"), 8),
    **dict.fromkeys(("comiss", "ucomiss", "roundss"), 4),
    "cmpxchg16b": 16,
}
_LOOKUPS = {
    SLOT[f"lookup_{user}{write}_{size}"]: (bool(write), size, user)
    for user in (0, 1) for write in (0, 1) for size in MISS_SIZES
}  # fmt: skip
_MISSES = {
    SLOT[f"miss_{user}{write}_{size}"]: (bool(write), size, user)
    for user in (0, 1) for write in (0, 1) for size in MISS_SIZES
}  # fmt: skip
_BROUGHT = {
    SLOT[f"bring_{user}{write}_{size}"]: (bool(write), size, user)
    for user in (0, 1) for write in (0, 1) for size in CROSSING_SIZES
}  # fmt: skip
_CARRIED = frozenset(SLOT[f"carry_back_{user}_{size}"] for user in (0, 1) for size in CROSSING_SIZES)
_HELD = tuple(SLOT[f"{name}_{register}"] for register in range(16) for name in ("held", "unheld"))
_KEPT = (*(SLOT[name] for name in (*POINTERS, *LOG_COUNTS, "cr3")), *_HELD)
"""Slots that emitted code may only read."""
_ADDENDS = (SLOT["addend_0"], SLOT["addend_1"])
RCX, R9, RSP, RSI, RDI = x86.X86_REG_RCX, x86.X86_REG_R9, x86.X86_REG_RSP, x86.X86_REG_RSI, x86.X86_REG_RDI
_FAMILY = {"rcx": RCX, "ecx": RCX, "cx": RCX, "cl": RCX, "ch": RCX, "r9": R9, "r9d": R9, "r9w": R9, "r9b": R9}
_FAMILY |= {"rsi": RSI, "esi": RSI, "si": RSI, "sil": RSI, "rdi": RDI, "edi": RDI, "di": RDI, "dil": RDI}
_FAMILY |= {"rsp": RSP, "esp": RSP, "sp": RSP, "spl": RSP}

Found = tuple[bool, int, int]
"""What was looked up: whether for writing, bytes, whether as a user."""


def _on_registers(code: bytes) -> bool:
    """Whether the rest is one instruction without an operand in memory, which Capstone doesn't know."""
    try:
        length, _, _, _, modrm, _ = decode(code, 0, True)
    except (Undecoded, IndexError):
        return False
    return length == len(code) and code[modrm] >= 0xC0


class Walls:
    """The state of one piece's reading. ``hosts``: registers that hold a host address, by what was found."""

    def __init__(self, user: int) -> None:
        self.user = user
        self.problems: list[str] = []
        self.accesses = 0
        self.pair: Found | None = None  # RCX + R9
        self.kept: dict[int, tuple[Found, int]] = {}  # context slots that hold an addend, and whose
        self.hosts_kept: dict[int, Found] = {}  # context slots that hold a host address
        self.addend_of = 0  # the register whose value R9 was when RCX was found
        self.copy = 0  # the register that R9 is a copy of
        self.sum: tuple[int, int] | None = None  # the register and displacement whose sum R9 is
        self.hosts: dict[int, Found] = {}
        self._tag: Found | None = None
        self._called: Found | None = None
        self._index = False  # RCX has 16 bits
        self._before: dict[int, tuple[Found, int]] = {}

    def read(self, code: bytes) -> list[str]:
        done = 0
        left = list(_MD.disasm(code, 0))
        while left:
            count = self._step_of_a_walk(left)
            if not count:
                count = 1
                self._one(left[0])
            done = left[count - 1].address + left[count - 1].size
            del left[:count]
        if done != len(code) and not _on_registers(code[done:]):
            self.problems.append(f"bytes that are no instruction at {done:#x}: {code[done:].hex()}")
        return self.problems

    def _fail(self, instruction: capstone.CsInsn, why: str) -> None:
        self.problems.append(f"{instruction.address:#x} {instruction.mnemonic} {instruction.op_str}: {why}")

    def _one(self, i: capstone.CsInsn) -> None:
        name = i.mnemonic.split()[-1]
        if name in _FORBIDDEN:
            self._fail(i, "may not stand in emitted code")
        if name != "call" and any(_FAMILY.get(i.reg_name(reg)) == RSP for reg in i.regs_access()[1]):
            self._fail(i, "changes RSP")
        if i.prefix[1] in (0x64, 0x65):
            self._fail(i, "is by a segment of the host's")
        if (
            i.addr_size != 8
            and name not in ("jecxz",)
            and any(op.type == x86.X86_OP_MEM for op in i.operands)
        ):
            self._fail(i, "has an address of 32 bits")
        found: Found | None = None
        for op in i.operands:
            if op.type == x86.X86_OP_MEM and name not in _NO_ACCESS and not name.startswith("nop"):
                self.accesses += 1
                found = self._access(i, name, op) or found
        if name in ("maskmovdqu", "maskmovq"):
            self.accesses += 1
            self._within(i, self.hosts.get(RDI), 0, 16 if name[-1] == "u" else 8, True)
        made = self._sum(i, name)
        written = (i.reg_name(reg) for reg in i.regs_access()[1])
        if made is not None or any(_FAMILY.get(reg) not in (RCX, RSP) and reg != "rflags" for reg in written):
            self.sum = made
        self._follow(i, name, found)

    def _sum(self, i: capstone.CsInsn, name: str) -> tuple[int, int] | None:
        """R9 becomes the sum of this register and displacement."""
        if name not in ("lea", "mov") or i.operands[0].type != x86.X86_OP_REG or i.operands[0].reg != R9:
            return None
        source = i.operands[1]
        if name == "mov":
            return (source.reg, 0) if source.type == x86.X86_OP_REG else None
        return (
            None if source.mem.index or source.mem.base in (RCX, R9) else (source.mem.base, source.mem.disp)
        )

    def _step_of_a_walk(self, i: list[capstone.CsInsn]) -> int:
        """How many instructions load by the addend that is held (emit_chase.py), all as they must be; else 0.

        RCX has the addend that was looked up. The one that is held is taken only where their difference is 0,
        else it becomes this one.
        """
        if self.pair is None or self.sum is None or len(i) < 12 or not i[0].op_str.startswith("r9, qword"):
            return 0
        if i[10].mnemonic != "mov" or i[11].mnemonic != "mov" or i[11].prefix[1]:
            return 0
        held, unheld = i[10].operands[-1].mem.disp, i[0].operands[-1].mem.disp
        if (held, unheld) not in zip(_HELD[::2], _HELD[1::2], strict=True):
            return 0
        held_text, unheld_text = (f"qword ptr [rsp + {slot:#x}]" for slot in (held, unheld))
        expected = (
            ("mov", f"r9, {unheld_text}"), ("lea", "rcx, [rcx + r9 + 1]"), ("jrcxz", f"{i[10].address:#x}"),
            ("not", "r9"), ("lea", "rcx, [rcx + r9]"), ("mov", f"{held_text}, rcx"),
            ("mov", "r9, rcx"), ("not", "r9"), ("mov", f"{unheld_text}, r9"), ("jmp", f"{i[11].address:#x}"),
            ("mov", f"rcx, {held_text}"),
        )  # fmt: skip
        if expected != tuple((each.mnemonic, each.op_str) for each in i[:11]):
            return 0
        to, source = i[11].operands
        mem = source.mem
        if source.type != x86.X86_OP_MEM:
            return 0
        if (mem.base, mem.index, mem.scale, mem.disp) != (RCX, self.sum[0], 1, self.sum[1]):
            return 0
        self.accesses += 1
        self._within(i[11], self.pair, 0, source.size, False)
        for reg in (RCX, R9, to.reg):
            self._set(reg)
        self.sum = None
        return 12

    def _access(self, i: capstone.CsInsn, name: str, op: capstone.x86.X86Op) -> Found | None:
        mem = op.mem
        size = _SIZES.get(name, op.size)
        if size in (28, 108) and i.prefix[2] == 0x66:
            size -= 14  # an environment of 16 bits
        write = name not in _READS and bool(not op.access or op.access & capstone.CS_AC_WRITE)
        if mem.base == RSP:
            self._context(i, mem, size, write)
            return None
        if {mem.base, mem.index} == {RCX, R9} and mem.scale == 1:
            return self._within(i, self.pair, mem.disp, size, write)
        if mem.index or mem.base not in (RCX, R9, RSI, RDI):
            self._fail(i, "is an address of nothing that was looked up")
            return None
        return self._within(i, self.hosts.get(mem.base), mem.disp, size, write)

    def _context(self, i: capstone.CsInsn, mem: capstone.x86.X86OpMem, size: int, write: bool) -> None:
        if write and (mem.index or any(mem.disp < at + 8 and at < mem.disp + size for at in _KEPT)):
            self._fail(i, "writes what the runtime relies on")
        if not mem.index:
            if not 0 <= mem.disp <= CONTEXT_SIZE - size:
                self._fail(i, "lies outside the context")
        elif mem.index != RCX or mem.scale != 8 or not self._index:
            self._fail(i, "is an index that may be anything")
        elif mem.disp not in (*TLB_READ, *TLB_WRITE, *TLB_ADDEND, *JUMP_TAG, *JUMP_HOST):
            self._fail(i, f"is in no table of {TABLE:#x} bytes")

    def _within(
        self, i: capstone.CsInsn, found: Found | None, at: int, size: int, write: bool
    ) -> Found | None:
        if found is None:
            self._fail(i, "is not behind a lookup")
        elif at < 0 or at + size > found[1]:
            self._fail(i, f"reaches {at + size} bytes of {found[1]}")
        elif write and not found[0]:
            self._fail(i, "writes where it may read")
        elif found[2] != self.user:
            self._fail(i, "has the rights of another ring")
        return found

    def _follow(self, i: capstone.CsInsn, name: str, found: Found | None) -> None:
        """What the registers hold after it."""
        ops = i.operands
        memory = next((op.mem for op in ops if op.type == x86.X86_OP_MEM), None)
        text = i.op_str
        if name == "call" and memory is not None and memory.base == RSP:
            self._call(memory.disp)
            return
        if name == "movzx" and text in ("ecx, cx", "ecx, r9w"):
            self._set(RCX)
            self._index = True
            return
        if name == "mov" and memory is not None and ops[0].type == x86.X86_OP_REG and ops[0].reg == RCX:
            kept = self.kept.get(memory.disp) if memory.base == RSP and not memory.index else None
            is_addend = memory.base == RSP and memory.index == RCX and memory.disp in TLB_ADDEND
            is_tag = memory.base == RSP and memory.index == RCX and memory.disp in (*TLB_READ, *TLB_WRITE)
            tag = (memory.disp in TLB_WRITE, 0, self._ring(memory.disp)) if is_tag else None
            called = self._called
            self._set(RCX)
            if is_addend and called is not None and self._ring(memory.disp) == called[2]:
                self.pair, self.addend_of = called, self.copy
                self._called = None
            elif kept is not None:
                self.hosts[RCX - 1_000_000] = kept[0]  # an addend, of the register kept[1]
                self.addend_of = kept[1]
            self._tag = tag
            return
        if name == "mov" and memory is not None and memory.base == RSP and ops[1].type == x86.X86_OP_REG:
            self.kept.pop(memory.disp, None)
            self.hosts_kept.pop(memory.disp, None)
            if ops[1].reg == RCX and self.pair is not None:
                self.kept[memory.disp] = (self.pair, self.addend_of)
            elif ops[1].reg in self.hosts and ops[1].size == 8:
                self.hosts_kept[memory.disp] = self.hosts[ops[1].reg]
            return
        if name == "mov" and memory is not None and memory.base == RSP and not memory.index:
            host = self.hosts_kept.get(memory.disp) if ops[0].reg in (RSI, RDI) else None
            if host is not None:
                self._set(ops[0].reg)
                self.hosts[ops[0].reg] = host
                return
        if name == "lea" and memory is not None:
            self._lea(ops[0].reg, memory)
            return
        if name == "mov" and len(ops) == 2 and all(op.type == x86.X86_OP_REG for op in ops):
            to, source = ops[0].reg, ops[1].reg
            kept_host = self.hosts.get(source)
            self._set(to)
            if to == R9:
                self.copy = source
            if kept_host is not None and i.operands[0].size == 8:
                self.hosts[to] = kept_host
            return
        for reg in i.regs_access()[1]:
            family = _FAMILY.get(i.reg_name(reg))
            if family is None:
                continue
            if name[:4] in ("movs", "stos", "lods", "cmps", "scas") and family in (RSI, RDI):
                continue  # within the element: they are put back at once
            self._set(family)

    def _ring(self, table: int) -> int:
        return next(user for user in (0, 1) if table in (TLB_READ[user], TLB_WRITE[user], TLB_ADDEND[user]))

    def _call(self, slot: int) -> None:
        if slot in _LOOKUPS:
            self._called = _LOOKUPS[slot]
            self._set(RCX)
            self._called = _LOOKUPS[slot]
        elif slot in _ADDENDS and self._called is not None:
            called, self._called = self._called, None
            self._set(RCX)
            if _ADDENDS.index(slot) == called[2]:
                self.pair, self.addend_of = called, self.copy
        elif slot in _MISSES:
            tag = self._tag
            self._set(RCX)
            missed = _MISSES[slot]
            # the tag that was compared is that of the access and ring that a miss asks for
            if tag is not None and tag[0] == missed[0] and tag[2] == missed[2] and tag[1] == missed[1]:
                self._called = missed
        elif slot in _BROUGHT:  # RCX + R9 is in the buffer
            self._set(RCX)
            self._set(R9)
            self.pair = _BROUGHT[slot]
        else:
            self._set(RCX)
            if slot in _CARRIED:
                self._set(R9)

    def _lea(self, to: int, mem: capstone.x86.X86OpMem) -> None:
        parts = {mem.base, mem.index}
        if to == RCX and parts == {RCX, R9} and self._tag is not None and mem.scale == 1:
            self._tag = (self._tag[0], mem.disp + 1, self._tag[2])  # the sum that is to stay in the page
            tag = self._tag
            self._set(RCX)
            self._tag = tag
            return
        pair, addend = self.pair, self.hosts.get(RCX - 1_000_000)
        if parts == {RCX, R9} and mem.scale == 1 and not mem.disp and to in (RCX, R9) and pair is not None:
            self._set(to)
            self.hosts[to] = pair
            return
        source = addend if addend is not None else pair
        if to in (RSI, RDI) and parts == {RCX, to} and not mem.disp and source is not None:
            of = self.addend_of
            self._drop(to)
            if of == to:
                self.hosts[to] = source
            return
        self._set(to)

    def _drop(self, reg: int) -> None:
        self.hosts.pop(reg, None)

    def _set(self, reg: int) -> None:
        """``reg`` holds something else now."""
        self.hosts.pop(reg, None)
        if reg == RCX:
            self.pair = None
            self.hosts.pop(RCX - 1_000_000, None)
            self._index = False
            if self._tag is not None and self._tag[1] == 0:
                self._tag = None
        elif reg == R9:
            self.pair = self._called = self._tag = None
            self.copy = 0
