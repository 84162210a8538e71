"""The port of checkpoint codes."""

from __future__ import annotations

import random

from pykvm.devices.bus import PortBus
from pykvm.devices.port80 import Port80


def test_the_last_code_is_kept_and_read_back() -> None:
    bus, port = PortBus(), Port80()
    bus.attach(port, 0x80, 1)
    assert bus.read(0x80, 1) == 0
    for code in (0x10, 0x42):
        bus.write(0x80, 1, code)
    assert port.code == 0x42
    assert bus.read(0x80, 1) == 0x42


def test_a_word_leaves_its_low_byte() -> None:
    bus, port = PortBus(), Port80()
    bus.attach(port, 0x80, 1)
    bus.write(0x80, 2, 0x1234)
    assert port.code == 0x34


def test_a_copy_has_the_code() -> None:
    port, copy = Port80(), Port80()
    port.write(0, 1, 0x5A)
    copy.load(port.save())
    assert copy.code == 0x5A


def test_no_guest_makes_it_more_than_a_byte() -> None:
    chance = random.Random(1)
    bus, port = PortBus(), Port80()
    bus.attach(port, 0x80, 1)
    for _ in range(300):
        size = chance.choice((1, 2, 4))
        bus.write(0x7E + chance.randrange(4), size, chance.randrange(1 << 8 * size))
        assert 0 <= port.code <= 0xFF
        assert 0 <= bus.read(0x7E + chance.randrange(4), size) < 1 << 8 * size
