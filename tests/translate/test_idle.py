"""A halted guest costs nothing: its thread sleeps until something comes, however long that takes."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pykvm.devices.bus import MemoryBus, PortBus
from pykvm.memory import GuestMemory
from pykvm.translate import features
from pykvm.translate.cpu import TranslatedCpu
from pykvm.x86 import entry

LONG = 60  # seconds until a test gives up
CODE, STACK, HANDLER, COUNT, VECTOR = 0x1000, 0x800, 0x1800, 0x600, 0x20
PROTECTED_IDT = 0x2000
SLEEPS = bytes.fromhex("fb f4 ebfc")  # sti; hlt; and again
REAL_HANDLER = bytes.fromhex("2e ff06 0006 cf")  # inc word cs:[COUNT]; iret
FLAT_HANDLER = bytes.fromhex("ff05 00060000 cf")  # inc dword [COUNT]; iret


class News(threading.Event):
    """What the CPU waits for; knows how often it was waited for, and whether ever with a limit."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = 0
        self.limits: set[float | None] = set()
        self.asleep = threading.Semaphore(0)

    def wait(self, timeout: float | None = None) -> bool:
        self.waits += 1
        self.limits.add(timeout)
        self.asleep.release()
        return super().wait(timeout)


class Apic:
    """Has as many interrupts as it is given."""

    waiting = False

    def __init__(self) -> None:
        self.interrupts = 0

    def has_interrupt(self) -> bool:
        return self.interrupts > 0

    def acknowledge(self) -> int:
        self.interrupts -= 1
        return VECTOR

    def tsc_moved(self) -> None:
        return None


class Machine:
    """A CPU on its thread, whose guest halts with interrupts on, for ever."""

    def __init__(self, mode: str) -> None:
        self.memory = GuestMemory.pc(1 << 20)
        self.lock = threading.Lock()
        self.news = News()
        self.apic = Apic()
        self.cpu = TranslatedCpu(
            0, self.memory, PortBus(), MemoryBus(), self.lock, features.offered(frozenset()),
            tsc_hz=10**9, cause=lambda kind, *text: kind,
        )  # fmt: skip
        self.cpu._news = self.news
        self.cpu.connect(self.apic)
        self.memory.write(CODE, SLEEPS)
        if mode == "real":
            self.memory.write(HANDLER, REAL_HANDLER)
            self.memory.write(VECTOR * 4, HANDLER.to_bytes(4, "little"))
            state = entry.real(CODE, stack=STACK)
            state["sregs"]["idt"] = {"base": 0, "limit": 0x3FF}
        else:
            self.memory.write(HANDLER, FLAT_HANDLER)
            gate = HANDLER | 0x8E00 << 32
            state = entry.protected(CODE, stack=STACK, gdt=0x500)
            gate |= state["sregs"]["cs"]["selector"] << 16
            self.memory.write(0x500, entry.descriptors(state))
            self.memory.write(PROTECTED_IDT + VECTOR * 8, gate.to_bytes(8, "little"))
            state["sregs"]["idt"] = {"base": PROTECTED_IDT, "limit": 0x7FF}
        self.cpu.load(state)
        self.ended = "not yet"
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.ended = self.cpu.run()

    def interrupt(self) -> None:
        with self.lock:
            self.apic.interrupts += 1
            self.cpu.changed()

    def until_asleep(self) -> None:
        assert self.news.asleep.acquire(timeout=LONG), self.ended

    @property
    def counted(self) -> int:
        return int.from_bytes(self.memory.read(COUNT, 2), "little")

    def close(self) -> None:
        self.cpu.wake()
        self.thread.join(LONG)
        self.cpu.close()
        self.memory.close()


@pytest.fixture(params=["real", "protected"])
def machine(request: pytest.FixtureRequest, cache) -> Iterator[Machine]:
    made = Machine(request.param)
    yield made
    made.close()


def test_it_sleeps_once_for_each_interrupt_and_never_looks_in_between(machine):
    machine.until_asleep()
    for number in range(1, 21):
        machine.interrupt()
        machine.until_asleep()
        assert machine.counted == number
        assert machine.news.waits == 1 + number
    assert machine.news.limits == {None}


def test_of_what_comes_while_it_is_awake_nothing_is_slept_through(machine):
    """Two interrupts in one wake: both are handled before it sleeps again."""
    machine.until_asleep()
    with machine.lock:
        machine.apic.interrupts += 2
        machine.cpu.changed()
    machine.until_asleep()
    while machine.apic.interrupts:
        machine.until_asleep()
    assert machine.counted == 2
    assert machine.news.waits <= 3


def test_an_interrupt_costs_a_fixed_number_of_exits(machine):
    machine.until_asleep()
    costs = set()
    for number in range(6):
        before = sum(machine.cpu.exits)
        machine.interrupt()
        machine.until_asleep()
        if number > 1:  # by then all is translated and linked
            costs.add(sum(machine.cpu.exits) - before)
    assert max(costs) <= 4, costs
    assert len(costs) == 1


def test_halted_with_interrupts_on_is_not_for_ever(machine):
    machine.until_asleep()
    assert not machine.cpu.halted_for_ever()


def test_a_wake_ends_the_sleep_and_the_run(machine):
    machine.until_asleep()
    machine.cpu.wake()
    machine.thread.join(LONG)
    assert not machine.thread.is_alive()
    assert machine.ended is None
    assert machine.counted == 0
