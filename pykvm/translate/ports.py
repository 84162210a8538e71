"""IN and OUT in machine code: who may use the port, and what goes without Python.

Of writes to a latch (devices/bus.py) only the last counts, and it may come late. It stays in the context's
slot ``late`` (its number as ``port`` has it, and in bits 32 up the value) until emitted code leaves: Python
gives it to the device before it does anything else.

Bytes for one port, ``kept_port``, go into a ring, no more than ``kept_room``: Python (keptbytes.py) takes
them from ``kept_first`` on, emitted code puts them at ``kept_last``. KEPT in ``late`` says that there may be
some. Reads of some ports are answered: each ``answer`` is a port's number, and in bits 32 up what it gives.
All these numbers are as ``port`` has them, 0 is none.
"""

from __future__ import annotations

from pykvm.translate import context
from pykvm.translate.context import KEPT_SIZE, SLOT
from pykvm.translate.encode import ADD, AND, CMP, OR, R9, RAX, RCX, RSP, SHR, SUB, Mem
from pykvm.translate.routines import slot
from pykvm.x86.registers import RFLAGS_IOPL
from pykvm.x86.segments import TSS_IO_MAP_BASE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.translate.routines import Routines

KEPT = 1 << 31


def access(asm: Routines, name: str, user: int) -> None:
    """``do_port_in_0`` and its like. RCX is size << 16 | port; ``rip`` the next instruction, ``length`` of
    this one.
    """
    asm.entries[f"do_port_{name}_{user}"] = asm.here
    asm.pop_to(slot("block_return"))
    asm.save_flags()
    asm.mov(slot("port"), RCX)
    if user:
        _permission(asm, name)
    if name == "out":
        _keep(asm, user)
        _latch(asm, user)
    else:
        _answer(asm, user)
    asm.restore_flags()
    asm.jump(f"then-port-{name}")


def _keep(asm: Routines, user: int) -> None:
    """Put the byte into the ring, if the port is the one, and there is room."""
    other, full = f"out-not-kept-{user}", f"out-no-room-{user}"
    asm.mov(RCX, slot("port"), wide=False)
    asm.alu(CMP, RCX, slot("kept_port"), wide=False)
    asm.jump_if("ne", other)
    asm.mov(R9, slot("kept_last"), wide=False)
    asm.alu_number(AND, R9, KEPT_SIZE - 1, wide=False)
    asm.lea(RCX, Mem(R9, 1))
    asm.alu_number(AND, RCX, KEPT_SIZE - 1, wide=False)
    asm.alu(CMP, RCX, slot("kept_first"), wide=False)
    asm.jump_if("e", other)
    asm.alu_number(SUB, slot("kept_room"), 1, wide=False)
    asm.jump_if("c", full)
    asm.mov_byte(Mem(RSP, context.KEPT, R9), RAX)
    asm.mov(slot("kept_last"), RCX, wide=False)
    asm.mov(RCX, slot("late"), wide=False)
    asm.alu_number(OR, RCX, KEPT, wide=False)
    asm.mov(slot("late"), RCX, wide=False)
    asm.restore_flags()
    asm.jump_to(slot("block_return"))
    asm.label(full)
    asm.set(slot("kept_room"), 0)
    asm.label(other)


def _answer(asm: Routines, user: int) -> None:
    """AL = the answer, if the port has one."""
    for name in (name for name in SLOT if name.startswith("answer_")):
        other = f"in-not-{name}-{user}"
        asm.mov(RCX, slot("port"), wide=False)
        asm.alu(CMP, RCX, slot(name), wide=False)
        asm.jump_if("ne", other)
        asm.load_byte(RCX, Mem(RSP, SLOT[name] + 4))
        asm.op(0x8A, RAX, RCX, wide=False, byte=True)
        asm.restore_flags()
        asm.jump_to(slot("block_return"))
        asm.label(other)


def _latch(asm: Routines, user: int) -> None:
    """Keep the value if the port is a latch and no other's is kept."""
    other, keep = f"out-other-{user}", f"out-keep-{user}"
    asm.load_word(R9, slot("port"))
    asm.load_byte(R9, Mem(RSP, context.LATCHES, R9))
    asm.load_byte(RCX, Mem(RSP, SLOT["port"] + 2))
    asm.alu(AND, R9, RCX, wide=False)
    asm.jump_if("z", other)
    asm.mov(R9, slot("port"))
    asm.mov(RCX, slot("late"), wide=False)
    asm.alu(OR, RCX, RCX, wide=False)
    asm.jump_if("z", keep)
    asm.alu(CMP, RCX, R9, wide=False)
    asm.jump_if("ne", other)
    asm.label(keep)
    asm.mov(slot("late"), R9, wide=False)
    asm.mov(Mem(RSP, SLOT["late"] + 4), RAX, wide=False)
    asm.restore_flags()
    asm.jump_to(slot("block_return"))
    asm.label(other)


def _permission(asm: Routines, name: str) -> None:
    """Go on if IOPL or the TSS allows the port (Intel SDM vol. 1 §19.5); all else is the interpreter's."""
    again, miss, denied, allowed = (f"{name}-{step}" for step in ("again", "miss", "denied", "allowed"))
    asm.label(again)
    asm.mov(RCX, slot("system_flags"))
    asm.alu_number(AND, RCX, RFLAGS_IOPL, wide=False)
    asm.alu_number(CMP, RCX, RFLAGS_IOPL, wide=False)
    asm.jump_if("e", allowed)
    asm.mov(RCX, slot("access_flag"))  # by which the processor's own accesses don't go under SMAP
    asm.alu(OR, RCX, RCX)
    asm.jump_if("nz", denied)
    asm.set(R9, TSS_IO_MAP_BASE + 1)
    asm.alu(CMP, R9, slot("tr_limit"))
    asm.jump_if("a", denied)
    asm.mov(R9, slot("tr_base"))
    asm.alu_number(ADD, R9, TSS_IO_MAP_BASE)
    _read_word(asm, miss)
    asm.load_word(R9, slot("port"))
    asm.shift(SHR, R9, 3)
    asm.alu(ADD, R9, RCX)
    asm.lea(RCX, Mem(R9, 1))
    asm.alu(CMP, RCX, slot("tr_limit"))
    asm.jump_if("a", denied)
    asm.alu(ADD, R9, slot("tr_base"))
    _read_word(asm, miss)
    asm.mov(R9, RCX)
    asm.mov(RCX, slot("port"))
    asm.alu_number(AND, RCX, 7, wide=False)
    asm.raw("41d3e9")  # shr r9d, cl
    asm.load_byte(RCX, Mem(RSP, SLOT["port"] + 2))
    asm.raw("0fafc9")  # imul ecx, ecx
    asm.alu_number(SUB, RCX, 1, wide=False)
    asm.alu_number(OR, RCX, 1, wide=False)  # 1, 3 or 15: a bit for each port
    asm.alu(AND, R9, RCX, wide=False)
    asm.jump_if("z", allowed)
    asm.label(denied)
    _back(asm)
    asm.restore_flags()
    asm.jump("then-interpret")
    asm.label(miss)
    _back(asm)
    asm.mov(R9, slot("temporary"))
    asm.restore_flags()
    asm.raw(asm.lookup.code(0, 0, 2))
    asm.save_flags()
    asm.mov(RCX, slot("rip"))
    asm.alu(ADD, RCX, slot("length"))
    asm.mov(slot("rip"), RCX)
    asm.jump(again)
    asm.label(allowed)


def _back(asm: Routines) -> None:
    """``rip`` = this instruction, which isn't done."""
    asm.mov(RCX, slot("rip"))
    asm.alu(SUB, RCX, slot("length"))
    asm.mov(slot("rip"), RCX)


def _read_word(asm: Routines, miss: str) -> None:
    """RCX = the 2 bytes at R9 as the processor itself reads them, if the TLB has their page."""
    asm.mov(slot("temporary"), R9)
    asm.mov(RCX, R9)
    asm.shift(SHR, RCX, 12)
    asm.load_word(RCX, RCX)
    asm.alu(ADD, R9, Mem(RSP, context.TLB_READ[0], RCX, 8))
    asm.alu_number(ADD, R9, 1)
    asm.shift(SHR, R9, 16)
    asm.jump_if("nz", miss)
    asm.mov(R9, Mem(RSP, context.TLB_ADDEND[0], RCX, 8))
    asm.alu(ADD, R9, slot("temporary"))
    asm.load_word(RCX, Mem(R9))
