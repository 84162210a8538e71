"""A translated machine's state is all in plain values: a guest that is moved in its work doesn't notice."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from guest import Guest
from places import CODE, DATA, END, PAGE

from pykvm.config import load
from pykvm.guests.kernels import resolve
from pykvm.host.tsc import tsc_hz
from pykvm.machine import plan
from pykvm.machine.build import build_translated
from pykvm.machine.vcpu import KICK

TICKS = Path(__file__).parents[2] / "guests" / "ticks" / "machine.yaml"
LONG = 120  # seconds until a test gives up
IA32_KERNEL_GS_BASE = 0xC000_0102


class Board:
    """The guest ``ticks`` on a machine of its own, which says when the guest has printed a text."""

    def __init__(self, folder: Path) -> None:
        config = load(str(TICKS), ["backend=translate", f"devices.0.serial.to={folder / 'out'}"])
        assert config.kernel is not None
        self.plan = plan.make(config, resolve(config.kernel))
        self.machine = build_translated(self.plan, tsc_hz())
        self.printed = ""
        self.until = ""
        self.seen = threading.Event()
        for console in self.machine.consoles.values():
            console.tap.listeners.append(self._on_output)
            console.start()

    def _on_output(self, data: bytes) -> None:
        self.printed += data.decode()
        if self.until and self.until in self.printed:
            self.seen.set()

    def run_until_printed(self, text: str) -> None:
        self.until = text
        self.machine.start()
        self.machine.resume()
        assert self.seen.wait(LONG), self.printed
        self.machine.pause()
        self.machine.drain(0)

    def run_to_the_end(self) -> str:
        self.machine.start()
        self.machine.resume()
        cause = self.machine.wait(lambda: LONG * 1000)
        self.machine.stop()
        self.machine.drain(LONG)
        return str(cause.outcome)

    def state(self) -> dict[str, Any]:
        machine = self.machine
        with machine.lock:
            devices = {name: device.save() for name, device in machine.devices.items()}
        memory = self.plan.memory
        return {
            "memory": memory.read(0, memory.ram_size),
            "devices": devices,
            "cpus": [thread.cpu.state() for thread in machine.cpus],
        }

    def load(self, state: dict[str, Any]) -> None:
        machine = self.machine
        self.plan.memory.write(0, state["memory"])
        with machine.lock:
            for name, device in machine.devices.items():
                device.load(state["devices"][name])
        for thread, cpu in zip(machine.cpus, state["cpus"], strict=True):
            thread.cpu.load(cpu)

    def close(self) -> None:
        self.machine.close()
        self.plan.memory.close()


@pytest.fixture
def boards(tmp_path: Path, cache: Path) -> Iterator[list[Board]]:
    before = signal.signal(KICK, lambda number, frame: None)
    made = [Board(folder) for folder in (tmp_path / "1", tmp_path / "2") if not folder.mkdir()]
    yield made
    for board in made:
        board.close()
    signal.signal(KICK, before)


def plain(value: Any) -> bool:
    """No object of ours, and nothing that changes behind who holds it."""
    if isinstance(value, dict):
        return all(type(key) in (str, int) and plain(inner) for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(plain, value))
    return value is None or type(value) in (bool, int, bytes, str)


def test_ticks_goes_on_counting_in_another_machine(boards):
    first, second = boards
    first.run_until_printed("." * 7)
    state = first.state()
    second.load(state)
    assert second.run_to_the_end() == "poweroff"
    whole = (first.printed + second.printed).replace("\r", "")
    assert whole.startswith("." * 20 + "\n20 ticks at 100 Hz: 0x")
    assert 7 <= len(first.printed) < 20


def test_state_is_plain_values(boards):
    boards[0].run_until_printed(".")
    state = boards[0].state()
    assert plain(state)
    assert state["cpus"][0].keys() >= {"regs", "sregs", "xsave", "msrs", "tsc", "debug", "mp_state"}


def test_time_goes_on_from_where_it_was(boards):
    """Whatever the host's counter says: here the guest's is far before it."""
    first, second = boards
    far = 1 << 62
    first.machine.cpus[0].cpu.load({"tsc": far})
    first.run_until_printed(".")
    state = first.state()
    second.load(state)
    now = second.machine.cpus[0].cpu.state()["tsc"]
    assert far < state["cpus"][0]["tsc"] <= now < far + 10 * LONG * tsc_hz()
    assert second.run_to_the_end() == "poweroff"


# Registers, of code that has used all kinds of them

PIECES = (
    b"\x48\x69\xc0" + pack("<I", 0x01234567),  # imul rax
    b"\x49\x01\xc1",  # add r9, rax
    b"\x4d\x31\xcf",  # xor r15, r9
    b"\x66\x49\x0f\x6e\xc9",  # movq xmm1, r9
    b"\x66\x0f\xfe\xc1",  # paddd xmm0, xmm1
    b"\x66\x44\x0f\xd4\xf8",  # paddq xmm15, xmm0
    b"\xd9\xe8\xde\xc1",  # fld1; faddp
    b"\xd9\xeb\xde\xc9",  # fldpi; fmulp
    b"\x48\x01\x83" + pack("<I", 64),  # add [rbx + 64], rax
    b"\x65\x48\x8b\x04\x25\0\0\0\0",  # mov rax, gs:[0]
    b"\xfd",  # std
    b"\xf9",  # stc
)
SWAPGS = b"\x0f\x01\xf8"


@pytest.mark.parametrize("seed", range(6))
def test_registers_of_every_kind_move(seed):
    """Code that runs whole in one machine is moved at each END in another, and sees the same."""
    chance = random.Random(seed)
    parts = [b"".join(chance.choices(PIECES, k=12)) for _ in range(4)]
    parts[1] += SWAPGS
    code = b"\xdb\xe3\xd9\xe8" + bytes((END,)).join([*parts, b""])  # fninit; fld1
    begin = [0] * 16
    begin[0], begin[3], begin[4] = chance.getrandbits(63), DATA, DATA + PAGE

    guest = prepared(code, begin)
    at = CODE
    straight = []
    while at < CODE + len(code):
        guest.run(at)
        at = guest.rip + 1
        straight.append(seen(guest))
    guest.close()

    guest = prepared(code, begin)
    moved = []
    at = CODE
    while at < CODE + len(code):
        guest.run(at)
        at = guest.rip + 1
        moved.append(seen(guest))
        state, memory = guest.cpu.state(), bytes(guest.view)
        assert plain(state)
        guest.close()
        guest = Guest(cpl=0)
        guest.view[:] = memory
        guest.cpu.load(state)
        assert seen(guest) == moved[-1]
    guest.close()
    assert moved == straight
    assert len(moved) == 4


def prepared(code: bytes, registers: list[int]) -> Guest:
    guest = Guest(cpl=0)
    guest.map(0x6000_0000, guest.place(DATA))  # where GS is
    guest.put(CODE, code + bytes((END,)))
    guest.regs, guest.flags = registers, 2
    guest.cpu.load({"msrs": {IA32_KERNEL_GS_BASE: DATA + 2 * PAGE}})
    return guest


def seen(guest: Guest) -> dict[str, Any]:
    """All that the guest could see of its CPU, but for time."""
    return {name: value for name, value in guest.cpu.state().items() if name != "tsc"} | {"data": guest.data}
