"""The 8259A pair as drivers use it. Quotations are from Intel's 8259A data sheet (231468)."""

import json
import random

import pytest
from doubles import Line

from pykvm.devices.bus import PortBus
from pykvm.devices.pic import PLACES, PicPair
from pykvm.errors import InternalError

MASTER, MASTER_DATA, SLAVE, SLAVE_DATA = 0x20, 0x21, 0xA0, 0xA1
ELCR = 0x4D0
AUTO_EOI, SPECIAL_FULLY_NESTED = 0x02, 0x10

EOI, SPECIFIC_EOI = 0x20, 0x60
ROTATE_ON_EOI, ROTATE_ON_SPECIFIC_EOI, SET_PRIORITY = 0xA0, 0xE0, 0xC0
ROTATE_IN_AEOI, NO_ROTATE_IN_AEOI = 0x80, 0x00
READ_IRR, READ_ISR, POLL = 0x0A, 0x0B, 0x0C
SPECIAL_MASK, NO_SPECIAL_MASK = 0x68, 0x48


class Machine:
    """The pair on a bus, and a CPU that takes what INTR offers."""

    def __init__(self, *, initialized=True, icw4=0):
        self.intr, self.bus = Line(), PortBus()
        self.pic = PicPair(self.intr)
        for port, count, offset in PLACES:
            self.bus.attach(self.pic, port, count, offset=offset)
        self.lines = {n: self.pic.line(n) for n in range(16) if n != 2}
        if initialized:
            self.initialize(icw4=icw4)

    def out(self, port, *values):
        for value in values:
            self.bus.write(port, 1, value)

    def in_(self, port):
        return self.bus.read(port, 1)

    def initialize(self, *, masks=(0, 0), icw4=0):
        """As Linux's init_8259A does: vectors 0x30 to 0x3F, then the masks."""
        self.out(MASTER_DATA, 0xFF)
        self.out(MASTER, 0x11)
        self.out(MASTER_DATA, 0x30, 0x04, 0x01 | icw4)
        self.out(SLAVE, 0x11)
        self.out(SLAVE_DATA, 0x38, 0x02, 0x01 | icw4 & AUTO_EOI)
        self.out(MASTER_DATA, masks[0])
        self.out(SLAVE_DATA, masks[1])

    def irr(self, chip=MASTER):
        self.out(chip, READ_IRR)
        return self.in_(chip)

    def isr(self, chip=MASTER):
        self.out(chip, READ_ISR)
        return self.in_(chip)

    def rise(self, *numbers):
        for number in numbers:
            self.lines[number].set(True)

    def fall(self, *numbers):
        for number in numbers:
            self.lines[number].set(False)

    def take(self):
        """The IRQ that the CPU takes now, None while INTR is low."""
        return self.pic.acknowledge() - 0x30 if self.intr.level else None

    def served(self):
        """IRQs in the order in which a CPU takes them that ends each at once."""
        order = []
        while (irq := self.take()) is not None:
            order.append(irq)
            if irq >= 8:
                self.out(SLAVE, EOI)
            self.out(MASTER, EOI)
            assert len(order) <= 32
        return order


@pytest.fixture
def machine():
    return Machine()


# Initialization.


def test_probe_of_the_mask_reads_back_what_it_wrote():
    # Linux's probe_8259A, before anything has initialized the chips.
    machine = Machine(initialized=False)
    machine.out(SLAVE_DATA, 0xFF)
    machine.out(MASTER_DATA, 0xFB)
    assert machine.in_(MASTER_DATA) == 0xFB
    assert machine.in_(SLAVE_DATA) == 0xFF


def test_nothing_interrupts_before_a_driver_unmasks_it():
    machine = Machine(initialized=False)
    machine.rise(*machine.lines)
    assert not machine.intr.level


def test_each_input_has_its_vector_after_initialization(machine):
    vectors = {}
    for number, line in machine.lines.items():
        line.set(True)
        vectors[number] = machine.pic.acknowledge()
        machine.out(SLAVE, EOI)
        machine.out(MASTER, EOI)
    assert vectors == {n: 0x30 + n for n in range(16) if n != 2}


def test_initialization_clears_mask_service_and_priorities(machine):
    machine.rise(5)
    machine.take()
    machine.out(MASTER, SET_PRIORITY | 3, SPECIAL_MASK, READ_ISR)
    machine.out(MASTER_DATA, 0x55)
    machine.out(ELCR, 1 << 6)
    machine.rise(6)
    machine.out(MASTER, POLL, 0x11)
    assert machine.in_(MASTER) == 1 << 6  # "Status Read is set to IRR."
    machine.fall(6)
    machine.out(MASTER_DATA, 0x30, 0x04, 0x01)
    assert machine.in_(MASTER_DATA) == 0  # "The Interrupt Mask Register is cleared."
    assert machine.isr() == 0
    machine.rise(0, 4)
    assert machine.served() == [0, 4]  # "IR7 input is assigned priority 7."


def test_initialization_asks_for_a_new_edge(machine):
    # "following initialization, an interrupt request (IR) input must make a low-to-high transition"
    machine.rise(4)
    machine.initialize()
    assert machine.irr() == 0
    machine.fall(4)
    machine.rise(4)
    assert machine.take() == 4


def test_icw1_says_which_words_follow(machine):
    machine.out(MASTER, 0x12)  # single, no ICW4
    machine.out(MASTER_DATA, 0x48, 0xA5)  # ICW2, and then it is the mask
    assert machine.in_(MASTER_DATA) == 0xA5
    machine.out(MASTER, 0x10)  # cascaded, no ICW4
    machine.out(MASTER_DATA, 0x48, 0x04, 0x5A)
    assert machine.in_(MASTER_DATA) == 0x5A
    machine.rise(0)
    assert machine.pic.acknowledge() == 0x48


def test_initialization_without_icw4_clears_what_icw4_sets():
    machine = Machine(icw4=AUTO_EOI)
    machine.out(MASTER, ROTATE_IN_AEOI, 0x10)
    machine.out(MASTER_DATA, 0x30, 0x04)
    machine.rise(4)
    machine.take()
    assert machine.isr() == 1 << 4


# Priorities and the end of an interrupt.


def test_ir0_comes_first_and_the_slave_in_place_of_ir2(machine):
    machine.rise(*machine.lines)
    assert machine.served() == [0, 1, *range(8, 16), 3, 4, 5, 6, 7]


def test_a_higher_input_interrupts_a_lower_one_but_not_the_reverse(machine):
    machine.rise(4)
    assert machine.take() == 4
    machine.rise(6)
    assert machine.take() is None
    machine.rise(1)
    assert machine.take() == 1
    assert machine.isr() == 1 << 1 | 1 << 4
    machine.out(MASTER, EOI)
    assert machine.isr() == 1 << 4  # non-specific: the highest in service is ended
    assert machine.take() is None
    machine.out(MASTER, EOI)
    assert machine.take() == 6


def test_a_specific_eoi_ends_what_it_names(machine):
    machine.rise(4)
    machine.take()
    machine.rise(1)
    machine.take()
    machine.out(MASTER, SPECIFIC_EOI | 4)
    assert machine.isr() == 1 << 1


def test_an_eoi_with_nothing_in_service_changes_nothing(machine):
    machine.out(MASTER, EOI, ROTATE_ON_EOI)
    machine.rise(0, 7)
    assert machine.served() == [0, 7]


def test_an_interrupt_of_the_slave_needs_an_eoi_to_each_chip(machine):
    machine.rise(10)
    assert machine.take() == 10
    assert (machine.isr(MASTER), machine.isr(SLAVE)) == (1 << 2, 1 << 2)
    machine.out(SLAVE, SPECIFIC_EOI | 2)
    machine.rise(9)
    assert machine.take() is None
    machine.out(MASTER, SPECIFIC_EOI | 2)
    assert machine.take() == 9


def test_linux_masks_and_acknowledges_one_interrupt_after_the_other(machine):
    # mask_and_ack_8259A and unmask, for IRQ 12, which comes twice
    for _ in range(2):
        machine.rise(12)
        assert machine.take() == 12
        assert machine.in_(SLAVE_DATA) == 0
        machine.out(SLAVE_DATA, 1 << 4)
        machine.out(SLAVE, SPECIFIC_EOI | 4)
        machine.out(MASTER, SPECIFIC_EOI | 2)
        machine.fall(12)
        machine.out(SLAVE_DATA, 0)
    assert machine.take() is None
    assert (machine.isr(MASTER), machine.isr(SLAVE)) == (0, 0)


def test_automatic_eoi_leaves_nothing_in_service():
    machine = Machine(icw4=AUTO_EOI)
    machine.rise(3, 9)
    assert [machine.take(), machine.take()] == [9, 3]
    assert (machine.isr(MASTER), machine.isr(SLAVE)) == (0, 0)


def test_rotation_on_eoi_gives_the_served_input_the_lowest_priority(machine):
    machine.rise(4, 6)
    assert machine.take() == 4
    machine.out(MASTER, ROTATE_ON_EOI)
    assert machine.isr() == 0
    machine.fall(4)
    machine.rise(4, 3, 5)  # the order is now 5, 6, 7, 0, 1, 2, 3, 4
    assert machine.served() == [5, 6, 3, 4]


def test_rotation_on_a_specific_eoi_ends_and_lowers_what_it_names(machine):
    machine.rise(3)
    machine.take()
    machine.out(MASTER, ROTATE_ON_SPECIFIC_EOI | 3)
    assert machine.isr() == 0
    machine.rise(0, 4)
    assert machine.served() == [4, 0]


def test_priority_can_be_set(machine):
    # "if IR5 is programmed as the bottom priority device, then IR6 will have the highest one"
    machine.out(MASTER, SET_PRIORITY | 5)
    machine.rise(0, 5, 6, 7)
    assert machine.served() == [6, 7, 0, 5]


def test_setting_a_priority_ends_nothing(machine):
    machine.rise(4)
    machine.take()
    machine.out(MASTER, SET_PRIORITY | 4)
    assert machine.isr() == 1 << 4


def test_priorities_in_service_turn_with_the_inputs(machine):
    machine.rise(0)
    machine.take()
    machine.out(MASTER, SET_PRIORITY | 3)  # 4 is now the highest, 0 in the middle
    machine.rise(1)
    assert machine.take() is None
    machine.rise(7)
    assert machine.take() == 7


def test_rotation_in_automatic_eoi_until_it_is_cleared():
    machine = Machine(icw4=AUTO_EOI)
    machine.out(MASTER, ROTATE_IN_AEOI)
    machine.rise(0)
    assert machine.take() == 0
    machine.fall(0)
    machine.rise(0, 1)
    assert machine.take() == 1
    machine.out(MASTER, NO_ROTATE_IN_AEOI)
    assert machine.take() == 0
    machine.fall(1)
    machine.rise(1, 3)
    assert machine.take() == 3  # 1 has still the lowest priority, 0 didn't get it


def test_special_mask_mode_lets_lower_inputs_in(machine):
    machine.rise(3)
    assert machine.take() == 3
    machine.rise(6)
    machine.out(MASTER_DATA, 1 << 3)
    assert machine.take() is None
    machine.out(MASTER, SPECIAL_MASK)
    assert machine.take() == 6
    machine.out(MASTER, EOI)
    # "An ISR bit that is masked by an IMR bit will not be cleared by a non-specific EOI"
    assert machine.isr() == 1 << 3
    machine.out(MASTER, EOI)
    assert machine.isr() == 1 << 3
    machine.out(MASTER, NO_SPECIAL_MASK, EOI)
    assert machine.isr() == 0


def test_special_mask_mode_still_holds_back_what_is_in_service(machine):
    machine.rise(3)
    machine.take()
    machine.out(MASTER, SPECIAL_MASK)
    machine.fall(3)
    machine.rise(3)
    assert machine.take() is None
    machine.rise(6)
    assert machine.take() == 6


@pytest.mark.parametrize("icw4, taken", [(0, None), (SPECIAL_FULLY_NESTED, 8)])
def test_special_fully_nested_mode_lets_the_slave_interrupt_its_own(icw4, taken):
    # "this slave is not locked out from the master's priority logic"
    machine = Machine(icw4=icw4)
    machine.rise(14)
    assert machine.take() == 14
    machine.rise(5)
    assert machine.take() is None  # lower than the slave, in both modes
    machine.rise(8)
    assert machine.take() == taken


def test_special_fully_nested_mode_is_for_the_slave_alone():
    machine = Machine(icw4=SPECIAL_FULLY_NESTED)
    machine.rise(4)
    machine.take()
    machine.fall(4)
    machine.rise(4)
    assert machine.take() is None


# Requests.


def test_a_held_edge_interrupts_once(machine):
    machine.rise(4)
    assert machine.served() == [4]
    assert machine.irr() == 0
    machine.lines[4].set(True)
    assert machine.take() is None


def test_an_edge_in_service_waits_for_its_eoi(machine):
    machine.rise(4)
    machine.take()
    machine.fall(4)
    machine.rise(4)
    assert machine.irr() == 1 << 4
    assert machine.take() is None
    machine.out(MASTER, EOI)
    assert machine.take() == 4


@pytest.mark.parametrize("number", [4, 12])
def test_a_request_that_falls_before_it_is_served_is_none(machine, number):
    machine.rise(number)
    assert machine.intr.level
    machine.fall(number)
    assert not machine.intr.level


@pytest.mark.parametrize("number", [4, 12])
def test_an_acknowledge_without_a_request_is_a_spurious_irq_7(machine, number):
    # "If no interrupt request is present … the 8259A will issue an interrupt level 7."
    machine.rise(number)
    machine.fall(number)
    assert machine.pic.acknowledge() == 0x37
    assert machine.isr() == 0  # by which a driver knows it from a real one
    machine.rise(7)
    assert machine.take() == 7
    assert machine.isr() == 1 << 7


def test_a_masked_request_waits(machine):
    machine.out(MASTER_DATA, 1 << 4)
    machine.rise(4)
    assert machine.irr() == 1 << 4
    assert machine.take() is None
    machine.out(MASTER_DATA, 0)
    assert machine.take() == 4


def test_masking_takes_intr_back(machine):
    machine.rise(11)
    machine.out(SLAVE_DATA, 1 << 3)
    assert not machine.intr.level
    machine.out(SLAVE_DATA, 0)
    assert machine.take() == 11


def test_the_masters_mask_of_ir2_masks_the_slave(machine):
    machine.out(MASTER_DATA, 1 << 2)
    machine.rise(8)
    assert machine.irr() == 1 << 2
    assert machine.take() is None
    machine.out(MASTER_DATA, 0)
    assert machine.take() == 8


def test_a_level_interrupts_until_it_falls(machine):
    machine.out(ELCR + 1, 1 << 2)
    machine.rise(10)
    assert machine.take() == 10
    assert machine.take() is None
    machine.out(SLAVE, EOI)
    machine.out(MASTER, EOI)
    assert machine.take() == 10
    machine.fall(10)
    machine.out(SLAVE, EOI)
    machine.out(MASTER, EOI)
    assert machine.take() is None


def test_elcr_reads_back_but_for_inputs_that_are_always_edges(machine):
    machine.out(ELCR, 0xFF)
    machine.out(ELCR + 1, 0xFF)
    assert (machine.in_(ELCR), machine.in_(ELCR + 1)) == (0xF8, 0xDE)
    machine.rise(0)
    assert machine.served() == [0]


def test_initialization_leaves_elcr_and_a_level_still_asks(machine):
    machine.out(ELCR + 1, 1 << 2)
    machine.rise(10)
    machine.initialize()
    assert machine.in_(ELCR + 1) == 1 << 2
    assert machine.take() == 10


def test_the_status_read_is_what_was_asked_for_last(machine):
    machine.rise(3, 5)
    machine.take()
    machine.out(MASTER, READ_ISR)
    assert [machine.in_(MASTER), machine.in_(MASTER)] == [1 << 3, 1 << 3]
    machine.out(MASTER, READ_IRR)
    machine.out(MASTER, 0x09)  # OCW3 without RR
    assert machine.in_(MASTER) == 1 << 5


def test_intr_changes_only_with_the_answer(machine):
    machine.rise(3, 5, 9)
    assert machine.intr.edges == 1
    assert machine.take() == 9
    assert not machine.intr.level


def test_intr_rises_anew_for_what_is_left_after_an_acknowledge():
    # Linux runs the pair like this through input 0 of an IOAPIC, which goes by edges.
    machine = Machine(icw4=AUTO_EOI)
    machine.rise(0, 5)
    assert machine.take() == 0
    assert machine.intr.level
    assert machine.intr.edges == 2
    assert machine.take() == 5
    assert machine.intr.edges == 2


# Poll.


@pytest.mark.parametrize("port", [MASTER, MASTER_DATA])
def test_a_poll_is_an_acknowledge(machine, port):
    machine.rise(5)
    machine.out(MASTER, POLL)
    assert machine.in_(port) == 0x85
    assert not machine.intr.level
    assert machine.isr() == 1 << 5
    machine.out(MASTER, POLL)
    assert not machine.in_(port) & 0x80


def test_a_slave_is_polled_after_its_master(machine):
    machine.rise(13)
    machine.out(MASTER, POLL)
    assert machine.in_(MASTER) == 0x82
    machine.out(SLAVE, POLL)
    assert machine.in_(SLAVE) == 0x85


# Wiring, snapshots, hostile guests.


@pytest.mark.parametrize("number", [-1, 2, 16])
def test_the_cascade_and_what_does_not_exist_cannot_be_wired(number):
    with pytest.raises(InternalError):
        PicPair(Line()).line(number)


def storm(machine, seed, steps):
    """What a random guest with random devices sees."""
    guest = random.Random(seed)
    ports = [port + n for port, count, _ in PLACES for n in range(count)]
    seen = []
    for _ in range(steps):
        chance = guest.random()
        size = guest.choice((1, 1, 1, 2, 4))
        if chance < 0.4:
            machine.bus.write(guest.choice(ports), size, guest.getrandbits(8 * size))
        elif chance < 0.6:
            seen.append(machine.bus.read(guest.choice(ports), size))
            assert 0 <= seen[-1] < 1 << 8 * size
        elif chance < 0.9:
            guest.choice(list(machine.lines.values())).set(guest.random() < 0.5)
        else:
            seen.append(machine.pic.acknowledge())
            assert 0 <= seen[-1] <= 0xFF
        seen.append(machine.intr.level)
    return seen


def test_every_guest_access_is_answered():
    machine = Machine()
    storm(machine, 8259, 20_000)
    assert len(json.dumps(machine.pic.save())) < 1000


@pytest.mark.parametrize("seed", range(30))
def test_restored_pair_goes_on_as_the_saved_one(seed):
    saved, restored = Machine(), Machine(initialized=False)
    storm(saved, seed, 200)
    restored.pic.load(json.loads(json.dumps(saved.pic.save())))
    assert restored.intr.level == saved.intr.level
    assert storm(restored, seed + 1, 100) == storm(saved, seed + 1, 100)


def test_loading_sets_intr_again(machine):
    machine.rise(4)
    state = machine.pic.save()
    machine.intr.level = False  # as when the CPU's side was loaded before
    machine.pic.load(state)
    assert machine.intr.level


@pytest.mark.parametrize("seed", range(20))
def test_every_request_is_served_in_the_end(seed):
    devices = random.Random(seed)
    machine = Machine()
    asked, served = [0] * 16, [0] * 16
    for _ in range(300):
        irq = devices.choice(list(machine.lines))
        if machine.irr(SLAVE if irq >= 8 else MASTER) >> (irq & 7) & 1 == 0:
            machine.fall(irq)
            machine.rise(irq)
            asked[irq] += 1
        if devices.random() < 0.5:
            for irq in machine.served():
                served[irq] += 1
    for irq in machine.served():
        served[irq] += 1
    assert served == asked
