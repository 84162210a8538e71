"""The CPU's state as the interpreter takes it, over the context in which emitted code keeps it.

General registers, RIP and RFLAGS live in the context. So do the bases of FS and GS, the selectors of CS and
SS, and CR3, which emitted code changes by itself: ``refresh`` brings those into ``sregs`` before an
instruction is interpreted, ``commit`` brings back what it has changed.
"""

from __future__ import annotations

from collections.abc import MutableMapping

from pykvm.translate.codepage import REAL
from pykvm.translate.context import REGISTER_SLOT, SLOT
from pykvm.translate.modes import is_open, room
from pykvm.translate.routines import ARITHMETIC, SYSTEM
from pykvm.x86.execute.cpu import Cpu
from pykvm.x86.registers import (
    CR0_PE,
    CR0_PG,
    EFER_LMA,
    GPRS,
    RFLAGS_AC,
    RFLAGS_FIXED,
    RFLAGS_IF,
    RFLAGS_NT,
    RFLAGS_RF,
    RFLAGS_TF,
    RFLAGS_VM,
    SEGMENTS,
)
from pykvm.x86.segments import TSS32_AVAILABLE, TSS32_BUSY, null_segment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from pykvm.x86.segments import Segment

_FLAT = {"base": 0, "limit": 0xFFFF_FFFF, "present": 1, "s": 1, "g": 1, "avl": 0, "unusable": 0}
_FRAME = 0xF_FFFF_FFFF_F000
_KEPT = SYSTEM | RFLAGS_TF | RFLAGS_RF | RFLAGS_VM | RFLAGS_NT | 3 << 19

FLAGS, SYSTEM_FLAGS = SLOT["flags"] // 8, SLOT["system_flags"] // 8
INTERRUPT_FLAG, ACCESS_FLAG = SLOT["interrupt_flag"] // 8, SLOT["access_flag"] // 8
FS_BASE, GS_BASE = SLOT["fs_base"] // 8, SLOT["gs_base"] // 8
FS_CLOSED, GS_CLOSED = SLOT["fs_closed"] // 8, SLOT["gs_closed"] // 8
CS, SS, CR3, RIP = (SLOT[name] // 8 for name in ("cs", "ss", "cr3", "rip"))
MODE = SLOT["mode"] // 8
LOADED = [(name, SLOT[name] // 8, SLOT[f"{name}_base"] // 8) for name in ("es", "ds", "fs", "gs")]
"""What emitted code loads in real mode, where limits and rights stay."""
ROOMS: list[tuple[str, int, int, int]] = [
    (name, SLOT[f"{name}_base"] // 8, SLOT[f"{name}_read"] // 8, SLOT[f"{name}_write"] // 8)
    for name in SEGMENTS
]


class Registers(MutableMapping[str, int]):
    """General registers, ``rip`` and ``rflags`` by name, in the context's words."""

    _places = {**{name: slot // 8 for name, slot in zip(GPRS, REGISTER_SLOT, strict=True)}, "rip": RIP}

    def __init__(self, words: memoryview) -> None:
        self._words = words

    def __getitem__(self, name: str) -> int:
        place = self._places.get(name)
        words = self._words
        if place is not None:
            return words[place]
        if name != "rflags":
            raise KeyError(name)
        return (
            words[FLAGS] & ARITHMETIC
            | words[SYSTEM_FLAGS]
            | words[INTERRUPT_FLAG] << 9
            | words[ACCESS_FLAG] << 18
            | RFLAGS_FIXED
        )

    def __setitem__(self, name: str, value: int) -> None:
        place = self._places.get(name)
        words = self._words
        if place is not None:
            words[place] = value
            return
        if name != "rflags":
            raise KeyError(name)
        words[FLAGS] = value & ARITHMETIC | RFLAGS_IF | RFLAGS_FIXED
        words[SYSTEM_FLAGS] = value & _KEPT
        words[INTERRUPT_FLAG] = value >> 9 & 1
        words[ACCESS_FLAG] = value >> 18 & 1

    def __delitem__(self, name: str) -> None:
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        yield from self._places
        yield "rflags"

    def __len__(self) -> int:
        return len(self._places) + 1


class ContextCpu(Cpu):
    """The interpreter's CPU. ``on_flush`` is called when translations of addresses are no longer good."""

    def __init__(
        self,
        words: memoryview,
        sregs: dict[str, Any],
        on_flush: Callable[[int | None], None],
        fpu: memoryview,
        **rest: Any,
    ) -> None:
        super().__init__(Registers(words), sregs, xsave=self._xsave, **rest)
        self._words = words
        self._fpu = fpu
        self._on_flush = on_flush
        self._rooms: dict[str, Any] = {}
        self.apic: Any = None
        self.lock: Any = None

    def _xsave(self) -> bytes:
        """The XSAVE area: all of x87 and SSE in use."""
        return bytes(self._fpu) + (3).to_bytes(8, "little") + bytes(56) + bytes(256)

    @property
    def cr8(self) -> int:
        if self.apic is None:
            return int(self.sregs["cr8"])
        with self.lock:
            return int(self.apic.cr8)

    @cr8.setter
    def cr8(self, value: int) -> None:
        self.sregs["cr8"] = value
        if self.apic is not None:
            with self.lock:
                self.apic.cr8 = value

    def flush(self, gva: int | None) -> None:
        if gva is None:
            self.commit_cr3()
        self._on_flush(gva)

    def commit_cr3(self) -> None:
        self._words[CR3] = self.sregs["cr3"] & _FRAME

    # Between context and sregs

    def refresh(self) -> None:
        """What emitted code has changed, into ``sregs``."""
        words, sregs = self._words, self.sregs
        if sregs["fs"]["base"] != words[FS_BASE]:
            sregs["fs"] = {**sregs["fs"], "base": words[FS_BASE]}
        if sregs["gs"]["base"] != words[GS_BASE]:
            sregs["gs"] = {**sregs["gs"], "base": words[GS_BASE]}
        if sregs["cs"]["selector"] != words[CS]:
            sregs["cs"] = _code(words[CS])
            sregs["ss"] = _stack(words[SS], words[CS] & 3)
        elif sregs["ss"]["selector"] != words[SS]:
            sregs["ss"] = _stack(words[SS], words[CS] & 3)
        if words[MODE] & REAL:
            for name, selector, base in LOADED:
                if sregs[name]["selector"] != words[selector] or sregs[name]["base"] != words[base]:
                    sregs[name] = {**sregs[name], "selector": words[selector], "base": words[base]}
        self.refresh_cr3()
        self._area = None

    def refresh_cr3(self) -> None:
        """What a page walk goes by: the one of its registers that emitted code changes."""
        words, sregs = self._words, self.sregs
        if sregs["cr3"] & _FRAME != words[CR3] and sregs["cr0"] & CR0_PG and sregs["efer"] & EFER_LMA:
            sregs["cr3"] = words[CR3]

    def commit(self) -> None:
        """What the interpreter has changed, into the context."""
        words, sregs = self._words, self.sregs
        words[FS_BASE] = sregs["fs"]["base"]
        words[GS_BASE] = sregs["gs"]["base"]
        words[FS_CLOSED] = int(not is_open(sregs["fs"]))
        words[GS_CLOSED] = int(not is_open(sregs["gs"]))
        words[CS] = sregs["cs"]["selector"]
        for name in ("ss", "es", "ds", "fs", "gs"):
            words[SLOT[name] // 8] = sregs[name]["selector"]
        words[SLOT["cr2"] // 8] = sregs["cr2"]
        if not sregs["cs"]["l"]:
            self._commit_rooms()
        task = sregs["tr"]
        words[SLOT["tr_base"] // 8] = task["base"]
        words[SLOT["tr_limit"] // 8] = task["limit"] if task["type"] in (TSS32_AVAILABLE, TSS32_BUSY) else 0
        self.commit_cr3()

    def _commit_rooms(self) -> None:
        """What code whose segments aren't flat asks of each, where it has changed since the last time."""
        words, sregs, known = self._words, self.sregs, self._rooms
        protected = bool(sregs["cr0"] & CR0_PE)
        if known.get("protected") is not protected:
            known.clear()
            known["protected"] = protected
        for name, base, read, write in ROOMS:
            segment = sregs[name]
            if known.get(name) is not segment:  # a segment is replaced, never changed
                known[name] = segment
                words[base] = segment["base"]
                words[read] = room(segment, write=False, protected=protected)
                words[write] = room(segment, write=True, protected=protected)

    def commit_fpu(self) -> None:
        self._fpu[:] = bytes(self.area.image()[:512])

    def allow(self, flags: int) -> bool:
        return bool(self.regs["rflags"] & flags)


def _code(selector: int) -> Segment:
    """The flat 64-bit code segment of a selector that SYSCALL, SYSRET or IRET loaded."""
    return {**_FLAT, "selector": selector, "type": 0xB, "dpl": selector & 3, "db": 0, "l": 1}


def _stack(selector: int, cpl: int) -> Segment:
    if selector & 0xFFFC == 0:
        return {**null_segment(selector), "dpl": cpl}
    return {**_FLAT, "selector": selector, "type": 3, "dpl": cpl, "db": 1, "l": 0}


__all__ = ["RFLAGS_AC", "ContextCpu", "Registers"]
