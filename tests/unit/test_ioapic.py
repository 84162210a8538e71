"""The IOAPIC as kernels use it. Quotations are from Intel's 82093AA data sheet (290566)."""

import json
import random

import pytest
from apic_doubles import Board

from pykvm.devices import lapicregisters as reg
from pykvm.devices.bus import MemoryBus
from pykvm.devices.ioapic import EOI, IOAPIC_SIZE, IOREGSEL, IOWIN, PINS, IoApic
from pykvm.errors import InternalError

PLACE = 0xFEC0_0000
VECTOR = 0x41

LOWEST_PRIORITY, SMI, RESERVED, NMI, INIT, STARTUP, EXTINT = (mode << 8 for mode in (1, 2, 3, 4, 5, 6, 7))
LOGICAL, LOW, REMOTE_IRR, LEVEL, MASK = 1 << 11, 1 << 13, 1 << 14, 1 << 15, 1 << 16


@pytest.fixture
def board():
    return Board()


# Registers.


def test_version_tells_24_entries_and_an_eoi_register(board):
    assert board.io_read(1) == 0x0017_0020


def test_all_entries_are_masked_after_reset(board):
    for pin in range(PINS):
        assert board.entry(pin) == MASK
        assert board.io_read(0x11 + 2 * pin) == 0


def test_a_kernel_sets_the_id_and_arbitration_shows_it(board):
    board.io_write(0, 0xFFFF_FFFF)
    assert board.io_read(0) == 0x0F00_0000
    assert board.io_read(2) == 0x0F00_0000


def test_registers_behind_a_memory_bus():
    bus = MemoryBus()
    bus.attach(IoApic(lambda *message: True), PLACE, IOAPIC_SIZE)
    bus.write(PLACE + IOREGSEL, 4, 1)
    assert bus.read(PLACE + IOREGSEL, 4) == 1
    assert bus.read(PLACE + IOWIN, 4) == 0x0017_0020
    assert bus.read(PLACE + 0x20, 4) == 0


def test_an_entry_keeps_all_but_the_bits_that_are_the_chips(board):
    # "Delivery Status", "Remote IRR": read only
    board.io_write(0x10, 0xFFFF_FFFF)
    board.io_write(0x11, 0xFFFF_FFFF)
    assert board.io_read(0x10) == 0x0001_AFFF
    assert board.io_read(0x11) == 0xFF00_0000


@pytest.mark.parametrize("register", [*range(3, 0x10), 0x40, 0xFF])
def test_registers_that_do_not_exist_read_0_and_stay(board, register):
    before = board.ioapic.save()["entries"]
    board.io_write(register, 0xFFFF_FFFF)
    assert board.io_read(register) == 0
    assert board.ioapic.save()["entries"] == before


# Edges.


def test_an_edge_is_sent_once(board):
    board.route(4, VECTOR)
    board.ioapic.line(4).set(True)
    board.ioapic.line(4).set(True)
    assert board.cpus[0].take_all() == [VECTOR]
    board.ioapic.line(4).set(False)
    assert board.cpus[0].take() is None
    board.ioapic.line(4).set(True)
    assert board.cpus[0].take_all() == [VECTOR]
    assert not board.entry(4) & REMOTE_IRR


def test_an_edge_on_a_masked_input_is_lost(board):
    # "Edge-sensitive interrupts signaled on a masked interrupt pin are ignored (i.e., not delivered or
    # held pending)."
    board.route(4, VECTOR | MASK)
    board.ioapic.line(4).set(True)
    board.route(4, VECTOR)
    assert board.cpus[0].take() is None


def test_polarity_changes_nothing_as_a_line_says_whether_it_asks(board):
    board.route(4, VECTOR | LOW)
    assert board.cpus[0].take() is None
    board.ioapic.line(4).set(True)
    assert board.cpus[0].take_all() == [VECTOR]


# Levels.


def test_a_level_comes_again_after_each_eoi_until_it_falls(board):
    cpu, line = board.cpus[0], board.ioapic.line(10)
    board.route(10, VECTOR | LEVEL | LOW)
    line.set(True)
    assert board.entry(10) & REMOTE_IRR
    for _ in range(3):
        assert cpu.take() == VECTOR
        assert cpu.take() is None
        cpu.eoi()
    assert cpu.take() == VECTOR
    line.set(False)
    assert board.entry(10) & REMOTE_IRR
    cpu.eoi()
    assert not board.entry(10) & REMOTE_IRR
    assert cpu.take() is None


def test_the_local_apics_tmr_tells_levels_from_edges(board):
    board.route(10, VECTOR | LEVEL)
    board.route(11, VECTOR + 1)
    board.ioapic.line(10).set(True)
    board.ioapic.line(11).set(True)
    assert board.cpus[0].vectors(reg.TMR) == [VECTOR]


def test_a_level_that_comes_back_before_the_eoi_is_not_sent_twice(board):
    cpu, line = board.cpus[0], board.ioapic.line(10)
    board.route(10, VECTOR | LEVEL)
    line.set(True)
    assert cpu.take() == VECTOR
    line.set(False)
    line.set(True)
    assert cpu.vectors(reg.IRR) == []
    cpu.eoi()
    assert cpu.take() == VECTOR


def test_linux_masks_a_level_in_service_and_unmasks_it_after_the_eoi(board):
    cpu = board.cpus[0]
    board.route(10, VECTOR | LEVEL)
    board.ioapic.line(10).set(True)
    assert cpu.take() == VECTOR
    board.io_write(0x10 + 20, board.entry(10) | MASK)
    assert board.entry(10) & REMOTE_IRR
    cpu.eoi()
    assert not board.entry(10) & REMOTE_IRR
    assert cpu.take() is None
    board.io_write(0x10 + 20, board.entry(10) & ~MASK)
    assert cpu.take() == VECTOR


def test_a_level_that_is_there_already_is_sent_when_its_entry_is_unmasked(board):
    board.ioapic.line(10).set(True)
    board.route(10, VECTOR | LEVEL)
    assert board.cpus[0].take() == VECTOR


def test_one_eoi_ends_all_inputs_with_its_vector(board):
    cpu = board.cpus[0]
    for pin in (10, 11):
        board.route(pin, VECTOR | LEVEL)
        board.ioapic.line(pin).set(True)
    assert cpu.take() == VECTOR
    board.ioapic.line(10).set(False)
    cpu.eoi()
    assert not board.entry(10) & REMOTE_IRR
    assert cpu.take() == VECTOR  # 11 still asks


def test_an_eoi_does_not_repeat_an_edge_with_the_same_vector(board):
    cpu = board.cpus[0]
    board.route(10, VECTOR | LEVEL)
    board.route(11, VECTOR)
    board.ioapic.line(11).set(True)
    assert cpu.take_all() == [VECTOR]
    board.ioapic.line(10).set(True)
    assert cpu.take() == VECTOR
    board.ioapic.line(10).set(False)
    cpu.eoi()
    assert cpu.take() is None


def test_the_eoi_register_ends_a_level_where_broadcasts_are_suppressed(board):
    cpu = board.cpus[0]
    cpu.write(reg.SVR, 0x11FF)
    board.route(10, VECTOR | LEVEL)
    board.ioapic.line(10).set(True)
    assert cpu.take() == VECTOR
    cpu.eoi()
    assert board.entry(10) & REMOTE_IRR
    assert cpu.take() is None
    board.ioapic.write(EOI, 4, VECTOR + 1)
    assert cpu.take() is None
    board.ioapic.write(EOI, 4, VECTOR)
    assert cpu.take() == VECTOR


def test_an_entry_made_an_edge_forgets_its_remote_irr(board):
    # what kernels do to end a level on chips without the EOI register
    cpu = board.cpus[0]
    board.route(10, VECTOR | LEVEL)
    board.ioapic.line(10).set(True)
    board.io_write(0x10 + 20, VECTOR | MASK)
    board.io_write(0x10 + 20, VECTOR | MASK | LEVEL)
    assert not board.entry(10) & REMOTE_IRR
    assert cpu.take_all() == [VECTOR]
    assert cpu.take() is None


def test_a_level_that_nobody_takes_is_sent_when_somebody_does(board):
    board.route(10, VECTOR | LEVEL, destination=7)
    board.ioapic.line(10).set(True)
    assert not board.entry(10) & REMOTE_IRR
    board.route(10, VECTOR | LEVEL, destination=0)
    assert board.cpus[0].take() == VECTOR


# Destinations and delivery modes.


@pytest.mark.parametrize(
    "low, destination, taken",
    [
        (0, 1, [1]),
        (0, 0xFF, [0, 1, 2]),
        (LOGICAL, 0b101, [0, 2]),
        (LOGICAL, 0xFF, [0, 1, 2]),
        (LOGICAL, 0b1000, []),
        (0, 3, []),
    ],
)
def test_fixed_interrupts_go_to_all_that_match(low, destination, taken):
    board = Board(3)
    board.route(4, VECTOR | low, destination)
    board.ioapic.line(4).set(True)
    assert [n for n, cpu in enumerate(board.cpus) if cpu.take() == VECTOR] == taken


def test_lowest_priority_goes_to_one_and_round():
    board = Board(3)
    board.route(4, VECTOR | LOWEST_PRIORITY | LOGICAL, 0b111)
    order = []
    for _ in range(6):
        board.ioapic.line(4).set(True)
        board.ioapic.line(4).set(False)
        order += [n for n, cpu in enumerate(board.cpus) if cpu.take_all()]
    assert order == [1, 2, 0, 1, 2, 0]


def test_lowest_priority_avoids_the_cpu_that_does_something_important():
    board = Board(3)
    board.cpus[0].write(reg.TPR, 0x80)
    board.cpus[2].write(reg.SVR, 0xFF)  # disabled
    board.route(4, VECTOR | LOWEST_PRIORITY | LOGICAL, 0b111)
    for _ in range(4):
        board.ioapic.line(4).set(True)
        board.ioapic.line(4).set(False)
        assert board.cpus[1].take_all() == [VECTOR]


def test_nmi_and_init_are_edges_whatever_the_entry_says(board):
    board.route(4, NMI | LEVEL)
    board.ioapic.line(4).set(True)
    board.io_write(0x18, INIT | LEVEL)
    assert board.cpus[0].events == ["nmi"]
    board.ioapic.line(4).set(False)
    board.ioapic.line(4).set(True)
    assert board.cpus[0].events == ["nmi", "init"]
    assert not board.entry(4) & REMOTE_IRR


def test_extint_takes_the_pics_vector(board):
    # Linux's last resort for its timer: the PIC pair through input 0
    cpu, pic = board.cpus[0], board.pic
    cpu.write(reg.LVT_LINT0, 0x1_0000)
    for offset, value in ((0, 0x11), (1, 0x30), (1, 0x04), (1, 0x01), (1, 0x00)):
        pic.write(offset, 1, value)
    board.route(0, EXTINT)
    pic.line(3).set(True)
    board.ioapic.line(0).set(True)
    assert cpu.take() == 0x33
    assert cpu.take() is None
    assert cpu.vectors(reg.ISR) == []


@pytest.mark.parametrize("mode", [SMI, RESERVED, STARTUP])
def test_modes_without_effect(board, mode):
    board.route(4, VECTOR | mode | LEVEL)
    board.ioapic.line(4).set(True)
    assert board.cpus[0].take() is None
    assert board.cpus[0].events == []
    assert not board.entry(4) & REMOTE_IRR


def test_a_vector_below_16_is_an_error_of_the_receiver(board):
    board.route(4, 0x0F | LEVEL)
    board.ioapic.line(4).set(True)
    assert board.cpus[0].take() is None
    assert not board.entry(4) & REMOTE_IRR
    board.cpus[0].write(reg.ESR, 0)
    assert board.cpus[0].read(reg.ESR) == 0x40


# MSIs, which need no IOAPIC.


def test_an_msi_names_destination_mode_and_vector():
    board = Board(2)
    assert board.bus.msi(0xFEE0_1000, VECTOR)
    assert [cpu.take() for cpu in board.cpus] == [None, VECTOR]
    assert board.bus.msi(0xFEE0_3004, 0x51)
    assert [cpu.take() for cpu in board.cpus] == [0x51, 0x51]
    assert board.bus.msi(0xFEEF_F000, 0x400)
    assert [cpu.events for cpu in board.cpus] == [["nmi"], ["nmi"]]
    assert not board.bus.msi(0xFEE0_9000, VECTOR)


def test_an_msi_may_be_a_level(board):
    ended = []
    board.bus.on_eoi = ended.append
    board.bus.msi(0xFEE0_0000, VECTOR)
    assert board.cpus[0].take_all() == [VECTOR]
    assert ended == []
    board.bus.msi(0xFEE0_0000, VECTOR | LEVEL)
    assert board.cpus[0].take_all() == [VECTOR]
    assert ended == [VECTOR]


# Wiring, snapshots, hostile guests.


@pytest.mark.parametrize("pin", [-1, PINS])
def test_a_pin_that_does_not_exist_cannot_be_wired(board, pin):
    with pytest.raises(InternalError):
        board.ioapic.line(pin)


def test_restored_ioapic_goes_on_as_the_saved_one():
    saved, restored = Board(), Board()
    saved.route(10, VECTOR | LEVEL)
    saved.route(4, VECTOR + 1)
    saved.ioapic.line(10).set(True)
    saved.ioapic.line(4).set(True)
    saved.cpus[0].take()
    saved.io_write(0, 5 << 24)
    restored.ioapic.load(json.loads(json.dumps(saved.ioapic.save())))
    restored.cpus[0].apic.load(json.loads(json.dumps(saved.cpus[0].apic.save())))

    def story(board):
        seen = [board.ioapic.read(IOWIN, 4), board.entry(10), board.cpus[0].take()]
        board.ioapic.line(10).set(True)
        board.ioapic.line(4).set(True)  # no edge: it was high before
        board.cpus[0].eoi()
        seen += [board.entry(10), board.cpus[0].take()]
        board.ioapic.line(10).set(False)
        board.cpus[0].eoi()
        return [*seen, board.entry(10), board.cpus[0].take_all(), board.io_read(0)]

    assert story(restored) == story(saved)


def test_every_guest_access_is_answered():
    guest = random.Random(82093)
    board = Board(2)
    bus = MemoryBus()
    bus.attach(board.ioapic, PLACE, IOAPIC_SIZE)
    lines = [board.ioapic.line(pin) for pin in range(PINS)]
    for _ in range(20_000):
        chance = guest.random()
        offset = guest.choice((0, 0, 0x10, 0x10, 0x10, 0x40, guest.randrange(IOAPIC_SIZE)))
        size = guest.choice((1, 2, 4, 4, 4, 8))
        if chance < 0.5:
            value = guest.randrange(0x42) if offset == 0 else guest.getrandbits(8 * size)
            bus.write(PLACE + offset, size, value)
        elif chance < 0.7:
            assert 0 <= bus.read(PLACE + offset, size) < 1 << 8 * size
        elif chance < 0.9:
            guest.choice(lines).set(guest.random() < 0.5)
        else:
            for cpu in board.cpus:
                cpu.enable()
                cpu.take()
                cpu.eoi()
                cpu.events.clear()
    assert len(json.dumps(board.ioapic.save())) < 2000
