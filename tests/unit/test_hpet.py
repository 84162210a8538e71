"""The HPET as drivers use it. Quotations are from the IA-PC HPET Specification 1.0a."""

import json

from doubles import Clock, Line

from pykvm.devices.bus import MemoryBus
from pykvm.devices.hpet import Hpet
from pykvm.memory.layout import HPET, HPET_SIZE

GCAP_ID, GEN_CONF, GINTR_STA, MAIN_CNT = 0x000, 0x010, 0x020, 0x0F0
T0, T1, T2 = 0x100, 0x120, 0x140
CONFIG, COMPARATOR = 0, 8
ENABLE, LEGACY = 1, 2
LEVEL, INT_ENB, PERIODIC, VAL_SET, MODE32 = 1 << 1, 1 << 2, 1 << 3, 1 << 6, 1 << 8
US = 100  # ticks


class Machine:
    def __init__(self, clock=None):
        self.clock = clock or Clock()
        self.routes = {10: Line(), 11: Line()}
        self.pit, self.rtc = Line(), Line()
        self.legacy = []
        self.hpet = Hpet(self.routes, (self.pit, self.rtc), self.clock, self.legacy.append)
        self.bus = MemoryBus()
        self.bus.attach(self.hpet, HPET, HPET_SIZE, width=8)

    def read(self, register, size=8):
        return self.bus.read(HPET + register, size)

    def write(self, register, value, size=8):
        self.bus.write(HPET + register, size, value)

    def start(self, config=ENABLE):
        self.write(GEN_CONF, config)

    def ticks(self, count):
        self.clock.advance(10 * count)


def test_it_says_what_it_is():
    m = Machine()
    capabilities = m.read(GCAP_ID)
    assert capabilities >> 32 == 10_000_000  # femtoseconds: 10 ns
    assert capabilities >> 32 <= 0x05F5E100  # "must be less than or equal to 05F5E100h"
    assert capabilities & 0xFF != 0  # "The value must NOT be 00h"
    assert (capabilities >> 8 & 0x1F, capabilities >> 13 & 1, capabilities >> 15 & 1) == (2, 1, 1)
    assert m.read(GCAP_ID + 4, 4) == capabilities >> 32
    for timer in (T0, T1, T2):
        assert m.read(timer + CONFIG) == (1 << 10 | 1 << 11) << 32 | 1 << 5 | 1 << 4
    m.write(GCAP_ID, 0)
    assert m.read(GCAP_ID) == capabilities


def test_the_counter_counts_while_enabled_and_stands_else():
    m = Machine()
    m.ticks(100)
    assert m.read(MAIN_CNT) == 0
    m.start()
    m.ticks(100)
    assert m.read(MAIN_CNT) == 100
    m.start(0)
    m.ticks(100)
    assert m.read(MAIN_CNT) == 100
    m.write(MAIN_CNT, 0xFFFF_FFFF)
    m.start()
    m.ticks(2)
    assert (m.read(MAIN_CNT + 4, 4), m.read(MAIN_CNT, 4)) == (1, 1)


def test_the_counter_can_be_set_by_halves():
    m = Machine()
    m.write(MAIN_CNT, 0x1234, 4)
    m.write(MAIN_CNT + 4, 7, 4)
    assert m.read(MAIN_CNT) == 7 << 32 | 0x1234


def test_one_shot_fires_once_at_its_value():
    m = Machine()
    m.write(T2 + CONFIG, 10 << 9 | INT_ENB)
    m.write(T2 + COMPARATOR, 50 * US)
    m.start()
    m.ticks(50 * US - 1)
    assert m.routes[10].edges == 0
    m.ticks(1)
    assert (m.routes[10].edges, m.routes[10].level) == (1, False)
    m.ticks(1000 * US)
    assert m.routes[10].edges == 1
    assert m.read(GINTR_STA) == 0  # "if the timer is set to edge-triggered mode … this bit should be ignored"


def test_a_value_already_passed_waits_for_the_counter_to_wrap():
    m = Machine()
    m.start()
    m.ticks(10 * US)
    m.write(T0 + CONFIG, 11 << 9 | INT_ENB | MODE32)
    m.write(T0 + COMPARATOR, 5 * US)
    m.ticks((1 << 32) - 5 * US - 1)
    assert m.routes[11].edges == 0
    m.ticks(1)
    assert m.routes[11].edges == 1


def test_no_interrupt_without_its_enable_and_none_while_halted():
    m = Machine()
    m.write(T0 + COMPARATOR, 50 * US)
    m.start()
    m.ticks(100 * US)
    m.start(0)
    m.write(T0 + CONFIG, 10 << 9 | INT_ENB)
    m.write(T0 + COMPARATOR, 150 * US)
    m.ticks(100 * US)
    assert m.routes[10].edges == 0


def test_periodic_as_linux_programs_it():
    # hpet_clkevt_set_state_periodic: VAL_SET, the first value, then the period by a second write.
    m = Machine()
    m.start()
    m.ticks(1000 * US)
    m.write(T0 + CONFIG, 10 << 9 | INT_ENB | PERIODIC | VAL_SET | MODE32, 4)
    m.write(T0 + COMPARATOR, 1000 * US + 500 * US, 4)
    m.write(T0 + COMPARATOR, 200 * US, 4)
    m.ticks(499 * US)
    assert m.routes[10].edges == 0
    m.ticks(1 * US)
    assert m.routes[10].edges == 1
    assert m.read(T0 + COMPARATOR) == 1700 * US
    m.ticks(1000 * US)
    assert m.routes[10].edges == 6


def test_a_period_far_too_short_is_cut():
    m = Machine()
    m.write(T0 + CONFIG, 10 << 9 | INT_ENB | PERIODIC | VAL_SET)
    m.write(T0 + COMPARATOR, 1)
    m.start()
    m.ticks(1000 * US)
    assert 1 < m.routes[10].edges <= 11


def test_a_level_stays_until_its_bit_is_cleared():
    m = Machine()
    m.write(T1 + CONFIG, 11 << 9 | INT_ENB | LEVEL)
    m.write(T1 + COMPARATOR, 100)
    m.start()
    m.ticks(100)
    assert m.routes[11].level
    assert m.read(GINTR_STA) == 1 << 1
    m.write(GINTR_STA, 1 << 0)  # another's
    assert m.routes[11].level
    m.write(GINTR_STA, 1 << 1)  # "software can clear this bit by writing a 1 to this bit position"
    assert not m.routes[11].level
    assert m.read(GINTR_STA) == 0


def test_a_route_that_is_not_offered_is_not_taken():
    m = Machine()
    m.write(T0 + CONFIG, 10 << 9)
    m.write(T0 + CONFIG, 3 << 9)
    # "the value read back will not match what was written"
    assert m.read(T0 + CONFIG) >> 9 & 0x1F == 10


def test_legacy_replacement_takes_the_places_of_pit_and_rtc():
    m = Machine()
    m.write(T0 + CONFIG, 10 << 9 | INT_ENB)
    m.write(T1 + CONFIG, INT_ENB)
    m.write(T0 + COMPARATOR, 100)
    m.write(T1 + COMPARATOR, 200)
    m.start(ENABLE | LEGACY)
    assert m.legacy == [True]
    m.ticks(150)
    assert (m.pit.edges, m.rtc.edges, m.routes[10].edges) == (1, 0, 0)
    m.ticks(100)
    assert (m.pit.edges, m.rtc.edges) == (1, 1)
    m.start(ENABLE)
    assert m.legacy == [True, False]


def test_saved_and_loaded_it_goes_on_where_it_was():
    m = Machine()
    m.write(T0 + CONFIG, 10 << 9 | INT_ENB | PERIODIC | VAL_SET)
    m.write(T0 + COMPARATOR, 300 * US)
    m.write(T1 + CONFIG, 11 << 9 | INT_ENB | LEVEL)
    m.write(T1 + COMPARATOR, 100)
    m.start(ENABLE | LEGACY)
    m.ticks(100 * US)
    state = json.loads(json.dumps(m.hpet.save()))
    other = Machine(Clock(wall=5))
    other.clock.advance(123_456_780)
    other.hpet.load(state)
    assert other.read(MAIN_CNT) == 100 * US
    assert other.legacy == [True]
    assert other.rtc.level
    other.ticks(200 * US - 1)
    assert other.pit.edges == 0
    other.ticks(1)
    assert other.pit.edges == 1


def test_absent_registers_read_zero_and_take_anything():
    m = Machine()
    for register in (0x008, 0x018, 0x028, 0x0F8, 0x110, 0x118, 0x160, 0x3F8):
        m.write(register, (1 << 64) - 1)
        assert m.read(register) == 0
