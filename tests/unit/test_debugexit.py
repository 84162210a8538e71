"""The port that ends the machine, behind its bus."""

from __future__ import annotations

import random

import pytest

from pykvm.devices.bus import PortBus
from pykvm.devices.debugexit import PORTS, WIDTH, DebugExit


def machine() -> tuple[PortBus, list[int], DebugExit]:
    bus, values = PortBus(), []
    device = DebugExit(values.append)
    bus.attach(device, 0xF4, PORTS, width=WIDTH)
    return bus, values, device


@pytest.mark.parametrize(("size", "value"), [(1, 0x2A), (2, 0x1234), (4, 0xDEADBEEF), (1, 0)])
def test_a_write_of_any_size_ends_the_machine_with_its_whole_value(size: int, value: int) -> None:
    bus, values, _ = machine()
    bus.write(0xF4, size, value)
    assert values == [value]


def test_the_first_write_counts_and_no_other() -> None:
    bus, values, _ = machine()
    for value in (0, 1, 2):
        bus.write(0xF4, 4, value)
    assert values == [0]


def test_the_other_ports_end_the_machine_once_too() -> None:
    bus, values, _ = machine()
    bus.write(0xF5, 4, 0x04030201)  # over the end: cut in two, the first counts
    assert values == [0x0201]


def test_reading_ends_nothing() -> None:
    bus, values, _ = machine()
    assert bus.read(0xF4, 4) == 0
    assert values == []


def test_a_copy_knows_whether_it_has_ended() -> None:
    bus, values, device = machine()
    fresh, copy_values, copy = machine()
    copy.load(device.save())
    fresh.write(0xF4, 1, 5)
    assert copy_values == [5]
    bus.write(0xF4, 1, 7)
    device.load(device.save())
    bus.write(0xF4, 1, 8)
    assert values == [7]


@pytest.mark.parametrize("seed", range(5))
def test_no_guest_ends_it_twice(seed: int) -> None:
    chance = random.Random(seed)
    bus, values, _ = machine()
    for _ in range(300):
        port, size = 0xF0 + chance.randrange(12), chance.choice((1, 2, 4))
        if chance.random() < 0.5:
            bus.write(port, size, chance.randrange(1 << 8 * size))
        else:
            assert 0 <= bus.read(port, size) < 1 << 8 * size
    assert len(values) == 1
