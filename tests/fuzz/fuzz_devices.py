"""Devices under accesses made by chance: each alone, and the board with its interrupt controllers.

Beside "no exception": what is read fits its size, the clock is asked for a bounded number of calls, and a
device loaded with another's state (through JSON, as a file has it) answers as that one does.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from random import Random
from typing import Any

from apic_doubles import TSC_HZ
from doubles import Clock, Line
from host_doubles import entries_of

from pykvm.devices import i8042, pic, power, rtc, serialregisters
from pykvm.devices.bus import MemoryBus, PortBus
from pykvm.devices.debugexit import DebugExit
from pykvm.devices.fasta20 import FastA20
from pykvm.devices.i8042 import I8042
from pykvm.devices.ioapic import IOAPIC_SIZE, IoApic
from pykvm.devices.pci.bus import CONFIG_PORT, CONFIG_PORTS, PciBus, PciPorts, host_bridge
from pykvm.devices.pic import PicPair
from pykvm.devices.pit import PIT_PORT, PIT_PORTS, SPEAKER_PORT, Pit
from pykvm.devices.port80 import Port80
from pykvm.devices.power import Power, ResetControl
from pykvm.devices.pvpanic import Pvpanic
from pykvm.devices.rtc import Rtc
from pykvm.devices.serial import Serial
from pykvm.machine.controllers import Controllers
from pykvm.memory import layout

STEPS = 150
MOST_CALLS = 200  # that a clock may have to keep for one device
VALUES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)
WAITS = (0, 1, 999, 10_000, 1_000_000, 54_925_494, 10**9, 3 * 10**9)
MMIO = 0xFEC0_0000


class FullSometimes:
    """A console that now and then takes no byte."""

    def __init__(self) -> None:
        self.taken = 0

    def put(self, byte: int) -> bool:
        assert 0 <= byte <= 0xFF
        self.taken += 1
        return self.taken % 7 != 0


class Rig:
    """Devices on buses, with a clock of its own. ``places`` are (first port, count)."""

    def __init__(self) -> None:
        self.clock = Clock(wall=1_700_000_000 * 10**9)
        self.ports, self.mmio = PortBus(), MemoryBus()
        self.devices: dict[str, Any] = {}
        self.places: list[tuple[int, int]] = []
        self.pages: list[tuple[int, int]] = []
        self.inputs: list[Callable[[Random], object]] = []
        self.sinks: list[FullSometimes] = []

    def part(self, name: str, device: Any, port: int, count: int, *, width: int = 1, offset: int = 0) -> None:
        self.devices[name] = device
        self.ports.attach(device, port, count, width=width, offset=offset, name=name)
        self.places.append((port, count))


def _pit(rig: Rig) -> None:
    pit = Pit(Line(), rig.clock)
    rig.part("pit", pit, PIT_PORT, PIT_PORTS)
    rig.part("speaker", pit.speaker, SPEAKER_PORT, 1)


def _rtc(rig: Rig) -> None:
    rig.part("rtc", Rtc(Line(), rig.clock, ram_below_4g=1 << 30, ram_above_4g=1 << 30), 0x70, rtc.PORTS)


def _i8042(rig: Rig) -> None:
    keyboard = I8042(Line(), lambda: None)
    rig.part("i8042", keyboard, 0x60, 1)
    rig.part("i8042", keyboard, 0x64, 1, offset=i8042.COMMAND)
    rig.inputs.append(lambda rng: keyboard.key(rng.randbytes(rng.randrange(9))))


def _power(rig: Rig) -> None:
    device = Power(Line(), rig.clock, lambda: None)
    rig.part("power", device, power.PM_PORT, power.PM_PORTS, width=4)
    rig.inputs.append(lambda rng: device.press_button())


def _pci(rig: Rig) -> None:
    pci = PciBus()
    pci.add(host_bridge(), 0)
    reset = ResetControl(lambda: None)
    rig.devices["reset"] = reset
    rig.part("pci", PciPorts(pci, reset), CONFIG_PORT, CONFIG_PORTS, width=4)


def _serial(rig: Rig) -> None:
    sink = FullSometimes()
    rig.sinks.append(sink)
    uart = Serial(Line(), sink, patient=True)
    rig.part("com1", uart, 0x3F8, serialregisters.PORTS)
    rig.inputs.append(lambda rng: uart.receive(rng.randbytes(rng.randrange(40))))
    rig.inputs.append(lambda rng: uart.room())


def _pic(rig: Rig) -> None:
    pair = PicPair(Line())
    rig.devices["pic"] = pair
    for port, count, offset in pic.PLACES:
        rig.part("pic", pair, port, count, offset=offset)
    lines = [pair.line(number) for number in range(16) if number != 2]
    rig.inputs.append(lambda rng: rng.choice(lines).set(rng.random() < 0.5))
    rig.inputs.append(lambda rng: pair.acknowledge())


def _ioapic(rig: Rig) -> None:
    def deliver(destination: int, logical: bool, mode: int, vector: int, level: bool) -> bool:
        assert 0 <= destination <= 0xFFFF_FFFF and 0 <= mode <= 7 and 0 <= vector <= 0xFF
        return bool(vector & 1)

    device = IoApic(deliver)
    rig.devices["ioapic"] = device
    rig.mmio.attach(device, MMIO, IOAPIC_SIZE, name="ioapic")
    rig.pages.append((MMIO, IOAPIC_SIZE))
    rig.inputs.append(lambda rng: device.line(rng.randrange(24)).set(rng.random() < 0.5))
    rig.inputs.append(lambda rng: device.eoi(rng.randrange(256)))


def _small(rig: Rig) -> None:
    rig.part("port80", Port80(), 0x80, 1)
    rig.part("fast-a20", FastA20(lambda: None), 0x92, 1)
    rig.part("pvpanic", Pvpanic(lambda events: None), 0x505, 1)
    rig.part("debug-exit", DebugExit(lambda value: None), 0xF4, 4, width=4)


class Core:
    """A CPU that only its APIC knows."""

    def changed(self) -> None: ...
    def nmi(self) -> None: ...
    def init(self) -> None: ...
    def start(self, vector: int) -> None:
        assert 0 <= vector <= 0xFF


def _apics(rig: Rig, devices: dict[str, Any]) -> Controllers:
    controllers = Controllers(rig.clock, rig.ports, rig.mmio, devices)
    rig.places += [(port, count) for port, count, _ in pic.PLACES]
    rig.pages += [(layout.IOAPIC, IOAPIC_SIZE)]
    apics = [
        controllers.add_apic(number, Core(), entries_of({"x2apic"}), lambda: rig.clock.now() * 5 // 2, TSC_HZ)
        for number in range(2)
    ]

    def apic(rng: Random) -> None:
        device = rng.choice(apics)
        register = rng.choice((0x1B, 0x6E0, rng.randrange(0x800, 0x900)))
        how = rng.randrange(7)
        if how == 0:
            device.write_msr(register, rng.choice((rng.choice(VALUES), rng.getrandbits(64), 0xFEE0_0D00)))
        elif how == 1:
            device.read_msr(register)
        elif how == 2:
            if device.has_interrupt():
                assert 0 <= device.acknowledge() <= 0xFF
        elif how == 3:
            device.cr8 = rng.randrange(16)
            assert 0 <= device.cr8 <= 15
        elif how == 4:
            device.read(rng.randrange(0x1000), rng.choice((1, 2, 4, 8)))
        else:
            offset = rng.choice((rng.randrange(0x1000), rng.randrange(0x40) * 16))
            device.write(
                offset, rng.choice((1, 2, 4, 4, 4)), rng.choice((rng.choice(VALUES), rng.getrandbits(32)))
            )

    lines = [controllers.input(number) for number in range(24) if number != 2]
    rig.inputs.append(apic)
    rig.inputs.append(lambda rng: rng.choice(lines).set(rng.random() < 0.5))
    return controllers


def _lapic(rig: Rig) -> None:
    _apics(rig, rig.devices)


ALONE: dict[str, Callable[[Rig], None]] = {
    "pit": _pit, "rtc": _rtc, "i8042": _i8042, "power": _power, "pci": _pci, "serial": _serial, "pic": _pic,
    "ioapic": _ioapic, "lapic": _lapic, "small": _small,
}  # fmt: skip


def _access(rig: Rig, rng: Random) -> Callable[[Rig], object]:
    """An access that can be made on several rigs, and what it gives there."""
    value = rng.choice((rng.choice(VALUES), rng.getrandbits(32), rng.getrandbits(8)))
    write = rng.random() < 0.6
    if rig.pages and (not rig.places or rng.random() < 0.4):
        base, span = rng.choice(rig.pages)
        gpa = base + rng.choice((rng.randrange(span), 0, 0x10, span - 1, span - 4)) - rng.choice((0, 0, 0, 3))
        length = rng.choice((4, 4, 4, 1, 2, 3, 5, 6, 7, 8))
        if write:
            return lambda rig: rig.mmio.write(gpa, length, value * 0x1_0001 & (1 << 8 * length) - 1)
        return lambda rig: rig.mmio.read(gpa, length)
    first, count = rng.choice(rig.places)
    port = rng.choice(
        (first + rng.randrange(count), first + rng.randrange(-3, count + 3), rng.getrandbits(16))
    )
    port &= 0xFFFF
    size = rng.choice((1, 1, 1, 2, 4))
    kind = rng.random()
    if kind < 0.1:
        data = rng.randbytes(size * rng.randrange(1, 20))
        if write:
            return lambda rig: rig.ports.write_string(port, size, memoryview(data))

        def read(rig: Rig) -> bytes:
            buffer = bytearray(len(data))
            rig.ports.read_string(port, size, memoryview(buffer))
            return bytes(buffer)

        return read
    if write:
        return lambda rig: rig.ports.write(port, size, value & (1 << 8 * size) - 1)
    return lambda rig: _fits(rig.ports.read(port, size), size)


def _fits(value: int, size: int) -> int:
    assert 0 <= value < 1 << 8 * size, f"{value:#x} read from {size} bytes"
    return value


def _plain(state: Any) -> Any:
    """Through JSON and back; bytes as a file of ours would have them."""

    def default(value: Any) -> Any:
        return {"b64": base64.b64encode(bytes(value)).decode()}

    def hook(found: dict[str, Any]) -> Any:
        return base64.b64decode(found["b64"]) if set(found) == {"b64"} else found

    return json.loads(json.dumps(state, default=default), object_hook=hook)


def _drive(make: Callable[[], Rig], rng: Random) -> None:
    """Traffic, a save in the middle, the same traffic on the saved and on the loaded one."""
    rig = make()
    rigs = [rig]
    saved_at = rng.randrange(STEPS)
    for step in range(STEPS):
        if step == saved_at:
            twin = make()
            twin.clock.time, twin.clock.start = rig.clock.time, rig.clock.start
            for old, new in zip(rig.sinks, twin.sinks, strict=True):  # they are no part of the machine
                new.taken = old.taken
            state = _plain({name: device.save() for name, device in rig.devices.items()})
            for name, device in twin.devices.items():
                device.load(state[name])
            rigs.append(twin)
        kind = rng.random()
        if kind < 0.2:
            wait = rng.choice((rng.choice(WAITS), rng.randrange(10**6)))
            for each in rigs:
                each.clock.advance(wait if step % 10 else min(wait, 10**6))
        elif kind < 0.35 and rig.inputs:
            number, seed = rng.randrange(len(rig.inputs)), rng.random()
            for each in rigs:
                each.inputs[number](Random(seed))
        else:
            access = _access(rig, rng)
            answers = [access(each) for each in rigs]
            assert answers.count(answers[0]) == len(answers), f"step {step}: {answers}, saved at {saved_at}"
        waiting = [entry for entry in rig.clock._queue if entry[2].action is not None]
        assert len(waiting) <= MOST_CALLS, f"{len(waiting)} calls wait at the clock"


def devices(rng: Random) -> None:
    """One device alone."""
    fit = ALONE[rng.choice(sorted(ALONE))]

    def make() -> Rig:
        rig = Rig()
        fit(rig)
        return rig

    _drive(make, rng)


def board(rng: Random) -> None:
    """All devices on their buses, wired to the interrupt controllers."""

    def make() -> Rig:
        rig = Rig()
        for name, fit in ALONE.items():
            if name not in ("pic", "ioapic", "lapic"):
                fit(rig)
        _lapic(rig)
        return rig

    _drive(make, rng)


TARGETS = {"devices": devices, "board": board}
