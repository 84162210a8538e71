"""A translated CPU on a few MiB of memory that runs code from START to a fault, and gives all of its state.

Its pages lie at the addresses of places.py; those that are neighbours there are none in physical memory.
The first exception ends a run, before it is delivered.
"""

from __future__ import annotations

import threading
from struct import pack
from typing import Any
from unittest import mock

from places import CODE, CODE_PAGES, DATA, DATA_PAGES, END, GS_BASE, PAGE, READ_ONLY

from pykvm.devices.bus import MemoryBus, PortBus
from pykvm.libc.calls import anonymous
from pykvm.memory import GuestMemory
from pykvm.translate import features
from pykvm.translate.cpu import TranslatedCpu
from pykvm.x86 import entry
from pykvm.x86.exceptions import Fault
from pykvm.x86.registers import EFER_NXE, GPRS

RAM = 4 << 20
GUARD = 1 << 16
ROM_AT = 0xFFFF_0000
GDT, TABLES, FREE_TABLES = 0x1000, 0x2000, 0x3000
DATA_AT = (0x20_5000, 0x21_0000, 0x20_1000, 0x3F_F000)
READ_ONLY_AT = 0x23_7000
CODE_AT = (0x10_3000, 0x10_0000, 0x12_2000, 0x10_1000)
PRESENT, WRITABLE, USER, NO_EXECUTE = 1, 2, 4, 1 << 63
CR0_MP, CR0_NE, CR0_WP = 2, 0x20, 0x1_0000
CR4_OSFXSR, CR4_OSXMMEXCPT = 0x200, 0x400
HOST = features.host_features()


class Stopped(Exception):
    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


class Recorder(TranslatedCpu):
    """Stops at an exception; counts the instructions that the interpreter does."""

    keeps = False
    """Whether translations are read from the cache folder, and put there."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.steps = 0
        self._interpret = self.core.step
        core: Any = self.core
        core.step, core.raise_fault = self._count, self._stop

    def _count(self) -> None:
        self.steps += 1
        self._interpret()

    def _stop(self, fault: Fault) -> None:
        raise Stopped(fault)

    def _begin(self) -> None:
        if self.keeps:
            super()._begin()


def repeated(code: bytes) -> bytes:
    """``code`` as often as ECX says, and then END, of 64-bit code."""
    loop = code + b"\xff\xc9\x0f\x85"  # dec ecx; jnz
    return loop + pack("<i", -len(loop) - 4) + bytes((END,)) * 64


class Guest:
    """``wide``: 64-bit code, else 32-bit code in compatibility mode. ``rom``: bytes of it at ROM_AT."""

    def __init__(
        self, *, cpl: int = 3, wide: bool = True, bmi2: bool = True, host: frozenset[str] = HOST, rom: int = 0
    ) -> None:
        self.memory = GuestMemory.pc(RAM)
        if rom:
            self.memory.add(ROM_AT, rom, readonly=True, name="rom")
        self.mmio = MemoryBus()
        self._guarded()
        self.view = self.memory.regions[0].view
        lacking = frozenset() if bmi2 else frozenset(("bmi2",))
        with mock.patch.object(features, "host_features", return_value=host - lacking):
            self.cpu = Recorder(
                0, self.memory, PortBus(), self.mmio, threading.Lock(), features.offered(host),
                tsc_hz=10**9, cause=lambda kind, *text: kind,
            )  # fmt: skip
        self.ports = self.cpu._exits._ports
        self.cpl = cpl
        self.wide = wide
        self._next_table = FREE_TABLES
        for number, gpa in enumerate(DATA_AT[:DATA_PAGES]):
            self.map(DATA + number * PAGE, gpa, PRESENT | WRITABLE | USER | NO_EXECUTE)
        self.map(READ_ONLY, READ_ONLY_AT, PRESENT | USER | NO_EXECUTE)
        for number, gpa in enumerate(CODE_AT[:CODE_PAGES]):
            self.map(CODE + number * PAGE, gpa)
            self.view[gpa : gpa + PAGE] = bytes((END,)) * PAGE
        self.reset()

    def _guarded(self) -> None:
        """Let RAM lie between two stretches of a known pattern."""
        region = self.memory.regions[0]
        self._around = anonymous(RAM + 2 * GUARD)
        region.view, region.hva = self._around.view[GUARD : GUARD + RAM], self._around.address + GUARD
        for guard in (self._around.view[:GUARD], self._around.view[GUARD + RAM :]):
            guard[:] = b"\xa5" * GUARD

    def guards_are_whole(self) -> bool:
        """Whether nothing was written beside RAM."""
        guards = (self._around.view[:GUARD], self._around.view[GUARD + RAM :])
        return all(bytes(guard) == b"\xa5" * GUARD for guard in guards)

    def close(self) -> None:
        self.cpu.close()
        self.memory.close()
        self._around.close()

    def reset(self) -> None:
        """The CPU in its mode, with flat segments."""
        state = entry.long(CODE, stack=DATA, gdt=GDT, page_tables=TABLES)
        sregs = state["sregs"]
        sregs["cr0"] |= CR0_MP | CR0_NE | CR0_WP
        sregs["efer"] |= EFER_NXE
        sregs["cr4"] |= CR4_OSFXSR | CR4_OSXMMEXCPT
        for name in ("cs", "ss", "ds", "es", "fs", "gs"):
            sregs[name] = {**sregs[name], "dpl": self.cpl, "selector": sregs[name]["selector"] | self.cpl}
        if not self.wide:
            sregs["cs"] = {**sregs["cs"], "l": 0, "db": 1}
        for name in ("fs", "gs"):
            sregs[name]["base"] = GS_BASE
        self.cpu.load(state)

    def map(self, gva: int, gpa: int, bits: int = PRESENT | WRITABLE | USER) -> None:
        """Map a page, by 4-level tables."""
        table = TABLES
        for shift in (39, 30, 21):
            at = table + (gva >> shift & 511) * 8
            value = int.from_bytes(self.view[at : at + 8], "little")
            if not value & PRESENT:
                value = self._next_table | PRESENT | WRITABLE | USER
                self._next_table += PAGE
                self.view[at : at + 8] = value.to_bytes(8, "little")
            table = value & -PAGE
        at = table + (gva >> 12 & 511) * 8
        self.view[at : at + 8] = (gpa | bits).to_bytes(8, "little")
        self.cpu.core.mmu.forget_page(gva)

    def table_of(self, gva: int) -> int:
        """Where the page table lies that maps the page of ``gva``."""
        table = TABLES
        for shift in (39, 30, 21):
            at = table + (gva >> shift & 511) * 8
            table = int.from_bytes(self.view[at : at + 8], "little") & 0xFFFF_F000
        return table

    # Memory at the addresses of places.py

    def place(self, gva: int) -> int:
        """The guest-physical address."""
        number = gva - CODE >> 12
        if 0 <= number < CODE_PAGES:
            return CODE_AT[number] + gva % PAGE
        return DATA_AT[gva - DATA >> 12] + gva % PAGE

    def put(self, gva: int, data: bytes) -> None:
        """Write as a device would: the translator is told."""
        while data:
            room = PAGE - gva % PAGE
            self.cpu.core.physical.write(self.place(gva), data[:room])
            data = data[room:]
            gva += room

    @property
    def data(self) -> bytes:
        return b"".join(bytes(self.view[gpa : gpa + PAGE]) for gpa in DATA_AT)

    @data.setter
    def data(self, data: bytes) -> None:
        for number, gpa in enumerate(DATA_AT):
            self.view[gpa : gpa + PAGE] = data[number * PAGE : (number + 1) * PAGE]

    # State

    @property
    def regs(self) -> list[int]:
        return [self.cpu.core.cpu.regs[name] for name in GPRS]

    @regs.setter
    def regs(self, values: list[int]) -> None:
        for name, value in zip(GPRS, values, strict=True):
            self.cpu.core.cpu.regs[name] = value

    @property
    def flags(self) -> int:
        return self.cpu.core.cpu.regs["rflags"]

    @flags.setter
    def flags(self, value: int) -> None:
        self.cpu.core.cpu.regs["rflags"] = value

    @property
    def rip(self) -> int:
        return self.cpu.core.cpu.regs["rip"]

    @property
    def fx(self) -> bytes:
        return bytes(self.cpu.core.cpu._fpu)

    @fx.setter
    def fx(self, image: bytes) -> None:
        self.cpu.core.cpu._fpu[:] = image

    def run(self, start: int) -> Fault:
        """From ``start`` to an exception, which is given."""
        fault = self.run_at_most(start)
        if fault is None:
            raise AssertionError("the run ended without an exception")
        return fault

    def run_at_most(self, start: int) -> Fault | None:
        """The same; None where the CPU was woken before."""
        self.cpu.steps = 0
        self.cpu.core.cpu.regs["rip"] = start
        try:
            self.cpu.run()
        except Stopped as stopped:
            return stopped.fault
        return None

    def interpret(self, start: int, *, most: int = 1_000_000) -> Fault | None:
        """By the interpreter alone, one instruction at ``start``; None where it raises nothing."""
        regs = self.cpu.core.cpu.regs
        regs["rip"] = start
        self.cpu.core.cpu.refresh()
        try:
            for _ in range(most):
                self.cpu.core.step()
                if regs["rip"] != start:  # a repeated one takes several steps
                    break
        except Stopped as stopped:
            return stopped.fault
        return None
