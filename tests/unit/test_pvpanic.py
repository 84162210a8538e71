"""The panic port as Linux's pvpanic driver uses it."""

from __future__ import annotations

import random

import pytest

from pykvm.devices.bus import PortBus
from pykvm.devices.pvpanic import CRASH_LOADED, PANICKED, PORT, Pvpanic


def machine() -> tuple[PortBus, list[int]]:
    bus, events = PortBus(), []
    bus.attach(Pvpanic(events.append), PORT, 1)
    return bus, events


def test_a_driver_reads_which_events_are_known() -> None:
    bus, events = machine()
    assert bus.read(PORT, 1) == PANICKED | CRASH_LOADED == 0x03
    assert events == []


@pytest.mark.parametrize("event", [PANICKED, CRASH_LOADED, PANICKED | CRASH_LOADED])
def test_an_event_is_told_each_time(event: int) -> None:
    bus, events = machine()
    bus.write(PORT, 1, event)
    bus.write(PORT, 1, event)
    assert events == [event, event]


def test_bits_that_are_not_known_are_ignored() -> None:
    """pvpanic.rst: "On write, the bits not recognized by the device are ignored"."""
    bus, events = machine()
    bus.write(PORT, 1, 0x00)
    bus.write(PORT, 1, 0xFC)
    assert events == []
    bus.write(PORT, 1, 0xFD)
    assert events == [PANICKED]


def test_writing_changes_nothing_that_is_read() -> None:
    bus, _ = machine()
    bus.write(PORT, 1, PANICKED)
    assert bus.read(PORT, 1) == 0x03


def test_a_copy_has_no_event_of_its_own() -> None:
    events: list[int] = []
    one, copy = Pvpanic(lambda event: None), Pvpanic(events.append)
    one.write(0, 1, PANICKED)
    copy.load(one.save())
    assert events == []
    assert copy.read(0, 1) == 0x03


@pytest.mark.parametrize("seed", range(5))
def test_no_guest_tells_an_event_that_does_not_exist(seed: int) -> None:
    chance = random.Random(seed)
    bus, events = machine()
    for _ in range(300):
        size = chance.choice((1, 2, 4))
        bus.write(PORT - 2 + chance.randrange(4), size, chance.randrange(1 << 8 * size))
        assert 0 <= bus.read(PORT, size) < 1 << 8 * size
    assert set(events) == {1, 2, 3}
