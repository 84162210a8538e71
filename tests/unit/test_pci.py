"""Configuration mechanism #1 and configuration spaces, as Linux probes them."""

import json
import random

import pytest

from pykvm.devices.bus import PortBus
from pykvm.devices.pci.bus import CONFIG_PORT, CONFIG_PORTS, PciBus, PciPorts, host_bridge, interrupt_of
from pykvm.devices.pci.config import ConfigSpace
from pykvm.devices.power import ResetControl
from pykvm.errors import InternalError

ADDRESS, DATA = 0xCF8, 0xCFC
ENABLE = 1 << 31


class Machine:
    def __init__(self):
        self.resets = []
        self.pci = PciBus()
        self.bridge = host_bridge()
        self.pci.add(self.bridge, 0)
        self.ports = PciPorts(self.pci, ResetControl(lambda: self.resets.append(1)))
        self.bus = PortBus()
        self.bus.attach(self.ports, CONFIG_PORT, CONFIG_PORTS, width=4)
        self.read, self.write = self.bus.read, self.bus.write

    def config(self, register, size, *, bus=0, device=0, function=0):
        self.write(ADDRESS, 4, ENABLE | bus << 16 | device << 11 | function << 8 | register & 0xFC)
        return self.read(DATA + register % 4, size)

    def set_config(self, register, size, value, *, device=0, function=0):
        self.write(ADDRESS, 4, ENABLE | device << 11 | function << 8 | register & 0xFC)
        self.write(DATA + register % 4, size, value)


@pytest.fixture
def machine():
    return Machine()


def test_linux_finds_mechanism_1(machine):
    # arch/x86/pci/direct.c, pci_check_type1
    machine.write(0xCFB, 1, 0x01)
    saved = machine.read(ADDRESS, 4)
    machine.write(ADDRESS, 4, 0x80000000)
    assert machine.read(ADDRESS, 4) == 0x80000000
    machine.write(ADDRESS, 4, saved)
    # pci_sanity_check: a function of bus 0 is a host bridge
    assert machine.config(0x0A, 2) == 0x0600


def test_host_bridge_is_a_plain_single_function(machine):
    assert machine.config(0x00, 4) == 0x0D578086
    assert machine.config(0x0E, 1) == 0
    assert machine.config(0x06, 2) & 0x10 == 0  # no capabilities
    assert machine.config(0x34, 1) == 0
    assert machine.config(0x3D, 1) == 0  # no interrupt pin


def test_host_bridge_has_no_bars_and_no_rom(machine):
    for register in (*range(0x10, 0x28, 4), 0x30):
        machine.set_config(register, 4, 0xFFFFFFFF)
        assert machine.config(register, 4) == 0


def test_nothing_of_the_host_bridge_can_be_overwritten(machine):
    before = [machine.config(register, 4) for register in range(0, 256, 4)]
    for register in range(0, 256, 4):
        machine.set_config(register, 4, 0xFFFFFFFF)
    assert [machine.config(register, 4) for register in range(0, 256, 4)] == before


def test_places_without_a_function_read_all_ones(machine):
    for place in ({"device": 1}, {"function": 1}, {"bus": 1}, {"device": 31, "function": 7}):
        assert machine.config(0, 4, **place) == 0xFFFFFFFF
        assert machine.config(0, 2, **place) == 0xFFFF
        assert machine.config(0x0E, 1, **place) == 0xFF


def test_without_the_enable_bit_data_is_nothing(machine):
    machine.write(ADDRESS, 4, 0)
    assert machine.read(DATA, 4) == 0xFFFFFFFF


def test_bytes_and_words_reach_their_part_of_the_dword(machine):
    assert [machine.config(register, 1) for register in range(4)] == [0x86, 0x80, 0x57, 0x0D]
    assert machine.config(2, 2) == 0x0D57
    machine.config(0, 4)
    assert machine.read(DATA + 1, 2) == 0x5780


def test_address_takes_dwords_only_and_keeps_its_reserved_bits_zero(machine):
    machine.write(ADDRESS, 4, 0xFFFFFFFF)
    assert machine.read(ADDRESS, 4) == 0x80FFFFFC
    machine.write(ADDRESS, 2, 0)
    machine.write(ADDRESS, 1, 0)
    machine.write(ADDRESS + 2, 2, 0)
    assert machine.read(ADDRESS, 4) == 0x80FFFFFC
    assert machine.read(ADDRESS, 2) == 0xFFFF
    assert machine.read(ADDRESS, 1) == 0xFF


def test_a_byte_at_cf9_is_the_reset_register_and_leaves_the_address(machine):
    machine.write(ADDRESS, 4, ENABLE | 0x1234 & ~3)
    machine.write(0xCF9, 1, 0x02)
    assert machine.read(0xCF9, 1) == 0x02
    assert machine.resets == []
    machine.write(0xCF9, 2, 0x0606)
    assert machine.resets == []
    machine.write(0xCF9, 1, 0x06)
    assert machine.resets == [1]
    assert machine.read(ADDRESS, 4) == ENABLE | 0x1234 & ~3


def test_an_address_that_looks_like_a_reset_does_not_reset(machine):
    machine.write(ADDRESS, 4, ENABLE | 0x0600)
    assert machine.resets == []


def device():
    space = ConfigSpace(vendor=0x1AF4, device=0x1042, class_code=0x018000, revision=1)
    space.define(0x04, 2, 0, writable=0x0007)
    space.define(0x3C, 1, 0, writable=0xFF)
    space.define(0x10, 4, 0, writable=0xFFFFF000)
    return space


def test_a_guest_writes_the_bits_that_are_defined_so(machine):
    machine.pci.add(device(), 3)
    machine.set_config(0x04, 2, 0xFFFF, device=3)
    assert machine.config(0x04, 4, device=3) == 0x0007
    machine.set_config(0x10, 4, 0xFFFFFFFF, device=3)
    assert machine.config(0x10, 4, device=3) == 0xFFFFF000  # a BAR of 4 KiB
    machine.set_config(0x10, 4, 0xC0001000, device=3)
    machine.set_config(0x13, 1, 0xD0, device=3)
    assert machine.config(0x10, 4, device=3) == 0xD0001000


def test_class_code_and_revision_stand_where_the_header_has_them(machine):
    machine.pci.add(device(), 3)
    assert machine.config(0x08, 4, device=3) == 0x01800001


def test_second_function_makes_the_first_say_multifunction(machine):
    machine.pci.add(device(), 4)
    assert machine.config(0x0E, 1, device=4) == 0
    machine.pci.add(device(), 4, 1)
    assert machine.config(0x0E, 1, device=4) == 0x80
    assert machine.config(0x0E, 1, device=4, function=1) == 0
    assert machine.config(0, 4, device=4, function=1) == 0x10421AF4
    assert machine.config(0, 4, device=4, function=2) == 0xFFFFFFFF


@pytest.mark.parametrize(("place", "word"), [((0, 0), "taken"), ((5, 1), "function 0"), ((32, 0), "no such")])
def test_a_builders_mistake_is_named(machine, place, word):
    with pytest.raises(InternalError, match=word):
        machine.pci.add(device(), *place)


def test_neighbours_do_not_share_an_interrupt():
    gsis = [interrupt_of(device, pin=0) for device in range(8)]
    assert sorted(gsis) == list(range(16, 24))
    assert interrupt_of(31, 3) in range(16, 24)


def test_snapshot_keeps_address_and_writable_bits(machine):
    space, other = device(), Machine()
    machine.pci.add(space, 3)
    machine.set_config(0x10, 4, 0xC0001000, device=3)
    restored = device()
    other.pci.add(restored, 3)
    other.ports.load(json.loads(json.dumps(machine.ports.save())))
    restored.load(json.loads(json.dumps(space.save())))
    assert other.read(ADDRESS, 4) == machine.read(ADDRESS, 4)
    assert other.read(DATA, 4) == 0xC0001000


def test_a_snapshot_cannot_change_what_a_guest_could_not():
    space = device()
    space.load({"version": 1, "data": "ff" * 256})
    assert space.read(0, 4) == 0x10421AF4
    assert space.read(0x04, 4) == 0x0007


def test_every_access_of_any_size_is_answered(machine):
    guest = random.Random(33)
    machine.pci.add(device(), 3)
    for _ in range(20_000):
        port, size = guest.randrange(0xCF5, 0xD02), guest.choice((1, 2, 4))
        if guest.random() < 0.5:
            machine.write(port, size, guest.getrandbits(8 * size) & ~(0x7FF0 << 16))
        assert 0 <= machine.read(port, size) < 1 << 8 * size
    assert machine.config(0, 4) == 0x0D578086
