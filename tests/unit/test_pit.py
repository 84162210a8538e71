"""The i8254 as drivers use it. Quotations are from Intel's 8254 data sheet (231164)."""

import itertools
import json

import pytest
from doubles import Clock, Line

from pykvm.devices.bus import PortBus
from pykvm.devices.pit import PIT_HZ, PIT_PORT, PIT_PORTS, SPEAKER_PORT, Pit

SECOND = 10**9
CONTROL = 0x43

MODE0, MODE1, MODE2, MODE3, MODE4, MODE5 = (mode << 1 for mode in range(6))
LOW, HIGH, BOTH = 0x10, 0x20, 0x30
BCD = 1


class Machine:
    """A timer on a bus, with ``out``, ``in_`` and the chip's own pulses to go by."""

    def __init__(self):
        self.clock, self.irq, self.bus = Clock(), Line(), PortBus()
        self.pit = Pit(self.irq, self.clock)
        self.bus.attach(self.pit, PIT_PORT, PIT_PORTS)
        self.bus.attach(self.pit.speaker, SPEAKER_PORT, 1)
        self.pulse = 0

    def out(self, port, *values):
        for value in values:
            self.bus.write(port, 1, value)

    def in_(self, port):
        return self.bus.read(port, 1)

    def pulses(self, count):
        """Let ``count`` pulses of the chip's clock pass."""
        self.pulse += count
        self.clock.advance(-(-self.pulse * SECOND // PIT_HZ) - self.clock.now())

    def program(self, counter, control, count):
        """Write a control word and a count of two bytes, as far as the access takes them."""
        self.out(CONTROL, counter << 6 | control)
        if control & LOW:
            self.out(0x40 + counter, count & 0xFF)
        if control & HIGH:
            self.out(0x40 + counter, count >> 8)

    def count(self, counter):
        """Latch and read both bytes."""
        self.out(CONTROL, counter << 6)
        return self.in_(0x40 + counter) | self.in_(0x40 + counter) << 8

    def status(self, counter):
        self.out(CONTROL, 0xE0 | 2 << counter)
        return self.in_(0x40 + counter)

    def level(self, counter):
        return bool(self.status(counter) & 0x80)

    def null_count(self, counter):
        return bool(self.status(counter) & 0x40)

    def gate(self, level):
        self.out(0x61, int(level))

    def wave(self, counter, pulses):
        """OUT at each of the next pulses, as a string of _ and ^."""
        text = ""
        for _ in range(pulses):
            self.pulses(1)
            text += "^" if self.level(counter) else "_"
        return text

    def counts(self, counter, pulses):
        values = []
        for _ in range(pulses):
            self.pulses(1)
            values.append(self.count(counter))
        return values


@pytest.fixture
def machine():
    return Machine()


# Modes: what OUT and the count do at each pulse, gate high.


def test_mode_0_rises_n_plus_1_pulses_after_the_count_is_written(machine):
    # "OUT … does not go high until N + 1 CLK pulses after the initial count is written."
    machine.program(1, BOTH | MODE0, 3)
    assert not machine.level(1)
    assert machine.wave(1, 6) == "___^^^"


def test_mode_0_counts_through_zero_and_wraps(machine):
    machine.program(1, BOTH | MODE0, 3)
    assert machine.counts(1, 6) == [3, 2, 1, 0, 0xFFFF, 0xFFFE]


def test_mode_0_new_count_lowers_out_and_starts_over_at_once(machine):
    machine.program(1, BOTH | MODE0, 2)
    machine.pulses(10)
    assert machine.level(1)
    machine.out(0x41, 4)
    # "Writing the first byte disables counting. OUT is set low immediately."
    assert not machine.level(1)
    stopped = machine.count(1)
    machine.pulses(5)
    assert machine.count(1) == stopped
    machine.out(0x41, 0)
    assert machine.wave(1, 6) == "____^^"


def test_mode_1_stays_high_without_a_trigger(machine):
    machine.program(1, BOTH | MODE1, 2)
    assert machine.wave(1, 5) == "^^^^^"
    assert machine.null_count(1)


def test_mode_1_is_a_one_shot_that_the_gate_triggers_again(machine):
    machine.program(2, BOTH | MODE1, 3)
    machine.gate(True)
    # "OUT will … go low on the CLK pulse following a trigger … and will remain low until the
    # Counter reaches zero."
    assert machine.wave(2, 5) == "___^^"
    machine.gate(False)
    machine.gate(True)
    assert machine.wave(2, 2) == "__"
    machine.gate(False)
    machine.gate(True)
    assert machine.wave(2, 5) == "___^^"


def test_mode_1_new_count_waits_for_the_next_trigger(machine):
    machine.program(2, BOTH | MODE1, 3)
    machine.gate(True)
    machine.pulses(1)
    machine.out(0x42, 5, 0)
    assert machine.null_count(2)
    assert machine.wave(2, 4) == "__^^"
    machine.gate(False)
    machine.gate(True)
    assert machine.wave(2, 7) == "_____^^"
    assert not machine.null_count(2)


def test_mode_2_is_low_for_the_last_pulse_of_each_period(machine):
    machine.program(1, BOTH | MODE2, 3)
    assert machine.level(1)
    assert machine.wave(1, 9) == "^^_^^_^^_"


def test_mode_2_counts_from_n_to_1(machine):
    machine.program(1, BOTH | MODE2, 3)
    assert machine.counts(1, 7) == [3, 2, 1, 3, 2, 1, 3]


def test_mode_2_new_count_takes_effect_at_the_end_of_the_period(machine):
    machine.program(1, BOTH | MODE2, 4)
    machine.pulses(2)
    machine.out(0x41, 2, 0)
    assert machine.null_count(1)
    assert machine.counts(1, 6) == [2, 1, 2, 1, 2, 1]
    assert not machine.null_count(1)


def test_mode_3_is_high_for_half_of_an_even_count(machine):
    machine.program(1, BOTH | MODE3, 4)
    assert machine.wave(1, 8) == "^^__^^__"


def test_mode_3_is_high_one_pulse_longer_for_an_odd_count(machine):
    # "OUT will be high for (N + 1)/2 counts and low for (N - 1)/2 counts."
    machine.program(1, BOTH | MODE3, 5)
    assert machine.wave(1, 10) == "^^^__^^^__"


def test_mode_3_counts_down_by_two(machine):
    machine.program(1, BOTH | MODE3, 6)
    assert machine.counts(1, 7) == [6, 4, 2, 6, 4, 2, 6]
    machine.program(1, BOTH | MODE3, 5)
    assert machine.counts(1, 6) == [4, 2, 0, 4, 2, 4]


@pytest.mark.parametrize(
    ("pulses_before", "wave"),
    [(1, "^^__^^__^^"), (4, "__^^__^^__"), (6, "^^__^^__^^")],
)
def test_mode_3_new_count_takes_effect_at_the_end_of_the_half_cycle(machine, pulses_before, wave):
    # "The new count will be loaded at the end of the current half-cycle."
    machine.program(1, BOTH | MODE3, 6)
    machine.pulses(pulses_before)
    machine.out(0x41, 4, 0)
    assert machine.wave(1, 10) == wave


def test_mode_4_strobes_once_for_one_pulse(machine):
    # "OUT does not strobe low until N + 1 CLK pulses after the initial count is written."
    machine.program(1, BOTH | MODE4, 3)
    assert machine.wave(1, 7) == "^^^_^^^"
    machine.pulses(0x10000 - 10)
    assert "_" not in machine.wave(1, 20)


def test_mode_4_new_count_is_loaded_at_the_next_pulse(machine):
    machine.program(1, BOTH | MODE4, 3)
    machine.pulses(2)
    machine.out(0x41, 5)  # "Writing the first byte has no effect on counting."
    assert machine.count(1) == 2
    machine.out(0x41, 0)
    assert machine.counts(1, 3) == [5, 4, 3]
    assert machine.wave(1, 4) == "^^_^"


def test_mode_5_strobes_after_a_trigger(machine):
    machine.program(2, BOTH | MODE5, 3)
    assert machine.wave(2, 5) == "^^^^^"
    machine.gate(True)
    assert machine.wave(2, 6) == "^^^_^^"


@pytest.mark.parametrize(("alias", "mode"), [(0x0C, MODE2), (0x0E, MODE3)])
def test_modes_6_and_7_are_2_and_3(machine, alias, mode):
    machine.gate(True)
    machine.program(1, BOTH | alias, 5)
    machine.program(2, BOTH | mode, 5)
    for _ in range(12):
        machine.pulses(1)
        assert machine.level(1) == machine.level(2)
    assert machine.status(1) & 0x3F == BOTH | alias


def test_count_0_is_65536(machine):
    machine.program(1, BOTH | MODE0, 0)
    assert machine.counts(1, 2) == [0, 0xFFFF]
    machine.pulses(65534)
    assert not machine.level(1)
    machine.pulses(1)
    assert machine.level(1)


def test_bcd_counts_in_decimal_and_0_is_10000(machine):
    machine.program(1, BOTH | MODE0 | BCD, 0x1000)
    assert machine.counts(1, 2) == [0x1000, 0x0999]
    machine.program(1, BOTH | MODE0 | BCD, 0)
    machine.pulses(2)
    assert machine.count(1) == 0x9999
    machine.pulses(9998)
    assert not machine.level(1)
    machine.pulses(1)
    assert machine.level(1)


# The gate of counter 2.


def test_gate_low_holds_mode_0_and_high_lets_it_count_on(machine):
    machine.program(2, BOTH | MODE0, 10)
    machine.pulses(5)
    assert machine.count(2) == 10  # loaded, though the gate is low
    machine.gate(True)
    machine.pulses(4)
    assert machine.count(2) == 6
    machine.gate(False)
    machine.pulses(100)
    assert machine.count(2) == 6
    machine.gate(True)
    assert machine.wave(2, 7) == "_____^^"


def test_gate_low_holds_mode_4(machine):
    machine.gate(True)
    machine.program(2, BOTH | MODE4, 4)
    machine.pulses(3)
    machine.gate(False)
    machine.pulses(10)
    assert machine.count(2) == 2
    machine.gate(True)
    assert machine.wave(2, 3) == "^_^"


@pytest.mark.parametrize("mode", [MODE2, MODE3])
def test_gate_low_sets_out_of_a_periodic_mode_high_and_its_rise_reloads(machine, mode):
    machine.gate(True)
    machine.program(2, BOTH | mode, 6)
    machine.pulses(6)
    assert not machine.level(2)
    machine.gate(False)  # "If GATE goes low during an output pulse, OUT is set high immediately."
    assert machine.level(2)
    held = machine.count(2)
    machine.pulses(50)
    assert machine.level(2)
    assert machine.count(2) == held
    machine.gate(True)  # "A trigger reloads the Counter with the initial count on the next CLK"
    machine.pulses(1)
    assert machine.count(2) == 6


def test_count_written_while_the_gate_holds_a_rate_is_loaded_by_the_gates_rise(machine):
    machine.gate(True)
    machine.program(2, BOTH | MODE2, 6)
    machine.pulses(2)
    machine.gate(False)
    machine.out(0x42, 9, 0)
    machine.pulses(20)
    assert machine.null_count(2)
    machine.gate(True)
    assert machine.counts(2, 2) == [9, 8]


def test_a_second_count_under_a_low_gate_waits_for_its_rise_too(machine):
    machine.program(2, BOTH | MODE2, 6)
    machine.pulses(3)
    machine.out(0x42, 9, 0)
    machine.pulses(20)
    assert machine.null_count(2)
    assert machine.count(2) == 6
    machine.gate(True)
    assert machine.counts(2, 2) == [9, 8]


def test_first_count_is_loaded_though_the_gate_falls_before_the_next_pulse(machine):
    machine.gate(True)
    machine.program(2, BOTH | MODE2, 6)
    machine.gate(False)
    assert machine.counts(2, 3) == [6, 6, 6]
    assert not machine.null_count(2)


# Reading and writing.


def test_latched_count_stands_while_counting_goes_on(machine):
    machine.program(2, BOTH | MODE2, 0x1234)
    machine.gate(True)
    machine.pulses(1 + 0x35)
    machine.out(CONTROL, 0x80)
    machine.pulses(500)
    assert machine.in_(0x42) == 0xFF  # 0x11FF, as it was when latched
    machine.pulses(500)
    assert machine.in_(0x42) == 0x11
    assert machine.in_(0x42) | machine.in_(0x42) << 8 == 0x11FF - 1000


def test_second_latch_before_the_read_is_ignored(machine):
    machine.program(1, BOTH | MODE2, 1000)
    machine.pulses(1)
    machine.out(CONTROL, 0x40)
    machine.pulses(10)
    machine.out(CONTROL, 0x40)
    assert machine.in_(0x41) | machine.in_(0x41) << 8 == 1000


def test_control_word_forgets_what_was_latched(machine):
    # "The count is held in the latch until it is read by the CPU (or until the Counter is reprogrammed)."
    machine.program(1, BOTH | MODE2, 1000)
    machine.pulses(1)
    machine.out(CONTROL, 0xC0 | 0x04)
    machine.program(1, BOTH | MODE2, 2000)
    machine.pulses(1)
    assert machine.in_(0x41) | machine.in_(0x41) << 8 == 2000


@pytest.mark.parametrize(("access", "byte"), [(LOW, 0x34), (HIGH, 0x12)])
def test_one_byte_access_reads_that_byte_each_time(machine, access, byte):
    machine.program(1, access | MODE2, 0x1234)
    machine.pulses(1)
    assert machine.in_(0x41) == byte
    assert machine.in_(0x41) == byte
    assert machine.status(1) & 0x30 == access


def test_one_byte_written_leaves_the_other_byte_of_the_count_zero(machine):
    machine.program(1, HIGH | MODE2, 0x1200)
    machine.pulses(1)
    assert machine.in_(0x41) == 0x12
    machine.pulses(0x11FF)
    assert not machine.level(1)
    machine.program(1, LOW | MODE2, 0x34)
    machine.pulses(0x34)
    assert not machine.level(1)


def test_reads_and_writes_of_one_counter_may_be_interleaved(machine):
    # "Read least significant byte. Write new least significant byte. Read most significant byte.
    # Write new most significant byte."
    machine.program(1, BOTH | MODE4, 0x1234)
    machine.pulses(1)
    machine.out(CONTROL, 0x40)
    assert machine.in_(0x41) == 0x34
    machine.out(0x41, 0x78)
    assert machine.in_(0x41) == 0x12
    machine.out(0x41, 0x56)
    machine.pulses(1)
    assert machine.count(1) == 0x5678


def test_read_back_latches_several_counters_at_one_pulse(machine):
    for counter in (0, 1):
        machine.program(counter, BOTH | MODE2, 5000)
    machine.pulses(11)
    machine.out(CONTROL, 0xD0 | 0x02 | 0x04)
    machine.pulses(100)
    for port in (0x40, 0x41):
        assert machine.in_(port) | machine.in_(port) << 8 == 4990


def test_read_back_of_both_gives_status_first_then_the_count(machine):
    machine.program(1, BOTH | MODE3, 1000)
    machine.pulses(1)
    machine.out(CONTROL, 0xC0 | 0x04)
    machine.pulses(700)  # OUT is low by now
    assert machine.in_(0x41) == 0x80 | BOTH | MODE3
    assert machine.in_(0x41) | machine.in_(0x41) << 8 == 1000


def test_null_count_lasts_until_the_count_is_loaded(machine):
    machine.out(CONTROL, 0x40 | BOTH | MODE2)
    assert machine.null_count(1)
    machine.out(0x41, 100, 0)
    assert machine.null_count(1)
    machine.pulses(1)
    assert not machine.null_count(1)


def test_control_word_alone_stops_the_counter(machine):
    machine.program(0, BOTH | MODE2, 1000)
    machine.pulses(10_500)
    edges = machine.irq.edges
    machine.out(CONTROL, BOTH | MODE0)
    machine.pulses(200_000)
    assert machine.irq.edges == edges


def test_control_port_reads_as_nothing(machine):
    assert machine.in_(0x43) == 0xFF


# Counter 0's interrupt.


def test_irq_0_comes_once_per_period_and_never_drifts(machine):
    machine.program(0, BOTH | MODE2, 11932)  # Linux at 100 Hz
    start = machine.irq.edges
    machine.pulses(1)
    for second in range(1, 4):
        machine.clock.advance(SECOND)
        assert machine.irq.edges - start == second * PIT_HZ // 11932
    rise = -(-(1 + 11932 * 400) * SECOND // PIT_HZ)
    machine.clock.advance(rise - 1 - machine.clock.now())
    assert machine.irq.edges - start == 399
    machine.clock.advance(1)
    assert machine.irq.edges - start == 400


@pytest.mark.parametrize("mode", [MODE2, MODE3])
def test_irq_0_of_a_new_rate_follows_the_end_of_the_old_period(machine, mode):
    machine.program(0, BOTH | mode, 1000)
    machine.pulses(1 + 700)
    edges = machine.irq.edges
    machine.out(0x40, 0x00, 0x08)
    machine.pulses(299)
    assert machine.irq.edges == edges
    machine.pulses(1)
    assert machine.irq.edges == edges + 1
    machine.pulses(2047)
    assert machine.irq.edges == edges + 1
    machine.pulses(1)
    assert machine.irq.edges == edges + 2


def test_irq_0_of_mode_0_rises_once_and_stays_up(machine):
    machine.program(0, BOTH | MODE0, 1000)
    machine.pulses(1000)
    assert (machine.irq.level, machine.irq.edges) == (False, 0)
    machine.pulses(1)
    assert (machine.irq.level, machine.irq.edges) == (True, 1)
    machine.pulses(1_000_000)
    assert (machine.irq.level, machine.irq.edges) == (True, 1)


def test_irq_0_of_mode_4_is_a_one_shot_per_count_as_linux_uses_it(machine):
    machine.out(CONTROL, BOTH | MODE4 | 0x00)
    edges = machine.irq.edges
    for shot in range(1, 4):
        machine.out(0x40, 0xE8, 0x03)
        machine.pulses(1001)
        assert machine.irq.edges == edges + shot - 1
        machine.pulses(1)
        assert machine.irq.edges == edges + shot
        machine.pulses(5000)


def test_control_word_that_raises_out_is_an_edge(machine):
    machine.out(CONTROL, BOTH | MODE2)
    assert (machine.irq.level, machine.irq.edges) == (True, 1)


def test_control_word_in_the_low_half_of_a_square_wave_is_an_edge_too(machine):
    machine.program(0, BOTH | MODE3, 1000)
    machine.pulses(1 + 300)
    edges = machine.irq.edges
    machine.out(CONTROL, BOTH | MODE3)
    assert machine.irq.edges == edges
    machine.out(0x40, 0xE8, 0x03)
    machine.pulses(1 + 700)
    machine.out(CONTROL, BOTH | MODE3)
    assert machine.irq.edges == edges + 1


def test_latch_commands_do_not_disturb_irq_0(machine):
    machine.program(0, BOTH | MODE3, 1000)
    edges = machine.irq.edges
    for _ in range(10):
        machine.pulses(100)
        machine.count(0)
        machine.status(0)
    machine.pulses(1)
    assert machine.irq.edges == edges + 1


@pytest.mark.parametrize("mode", [MODE2, MODE3])
def test_count_1_makes_no_interrupts(machine, mode):
    machine.program(0, BOTH | mode, 1)
    edges = machine.irq.edges
    machine.clock.advance(SECOND)
    assert machine.irq.edges == edges


class LateClock(Clock):
    """A host that is busy: timers fire only when ``catch_up`` lets them."""

    def sleep(self, ns):
        self.time += ns


@pytest.fixture
def late_machine(monkeypatch):
    monkeypatch.setattr(f"{__name__}.Clock", LateClock)
    return Machine()


def test_missed_ticks_are_made_up_at_twice_the_rate(late_machine):
    machine = late_machine
    machine.program(0, BOTH | MODE2, 1193)  # 1 kHz
    start, edges = machine.clock.now(), machine.irq.edges
    machine.clock.sleep(100_500_000)
    machine.clock.advance(0)
    assert machine.irq.edges == edges + 1
    machine.clock.advance(10_000_000)
    assert 19 <= machine.irq.edges - edges <= 22
    machine.clock.advance(200_000_000)
    assert machine.irq.edges - edges == (machine.clock.now() - start) * PIT_HZ // SECOND // 1193


def test_ticks_older_than_a_quarter_of_a_second_are_dropped(late_machine):
    machine = late_machine
    machine.program(0, BOTH | MODE2, 1193)
    edges = machine.irq.edges
    machine.clock.sleep(10 * SECOND)
    machine.clock.advance(SECOND)
    assert 1240 <= machine.irq.edges - edges <= 1260


def test_what_is_owed_is_forgotten_when_the_guest_programs_anew(late_machine):
    machine = late_machine
    machine.program(0, BOTH | MODE2, 1193)
    machine.clock.sleep(100_000_000)
    machine.clock.advance(0)
    machine.program(0, BOTH | MODE0, 11932)
    edges = machine.irq.edges
    machine.clock.advance(9_000_000)
    assert machine.irq.edges == edges
    machine.clock.advance(SECOND)
    assert machine.irq.edges == edges + 1


def test_one_shot_after_a_slow_rate_is_not_delayed(machine):
    machine.program(0, BOTH | MODE2, 0)
    machine.pulses(1 + 65536)
    machine.program(0, BOTH | MODE0, 1193)
    machine.clock.advance(1_100_000)
    assert machine.irq.level


def test_rate_above_10_khz_costs_no_more_than_10_khz(machine):
    machine.program(0, BOTH | MODE2, 2)
    edges = machine.irq.edges
    machine.clock.advance(SECOND)
    assert 9_900 <= machine.irq.edges - edges <= 10_001


def test_reprogramming_without_end_leaves_a_bounded_number_of_timers(machine):
    machine.out(CONTROL, BOTH | MODE0)
    for _ in range(100_000):
        machine.out(0x40, 0, 0)
        machine.clock.advance(10_000)
    waiting = machine.clock._queue
    assert sum(timer.action is not None for _, _, timer in waiting) == 1
    assert len(waiting) < 2 * 55_000_000 / 10_000 + 3


# Port 0x61.


def test_only_gate_and_speaker_bits_are_writable(machine):
    machine.out(0x61, 0xFF)
    assert machine.in_(0x61) & 0xCF == 0x03
    machine.out(0x61, 0xFC)
    assert machine.in_(0x61) & 0xCF == 0x00


def test_refresh_bit_toggles_every_15_microseconds(machine):
    seen = []
    for _ in range(1000):
        seen.append(machine.in_(0x61) >> 4 & 1)
        machine.pulses(1)
    toggles = sum(before != after for before, after in itertools.pairwise(seen))
    assert toggles == 999 // 18


def test_linux_calibrates_against_counter_2(machine):
    # arch/x86/kernel/tsc.c, pit_calibrate_tsc: gate on, speaker off, mode 0, wait for OUT2.
    machine.out(0x61, machine.in_(0x61) & ~0x02 | 0x01)
    machine.out(CONTROL, 0xB0)
    latch = PIT_HZ // 100
    machine.out(0x42, latch & 0xFF, latch >> 8)
    start = machine.clock.now()
    while not machine.in_(0x61) & 0x20:
        machine.clock.advance(1000)
    assert 10_000_000 - 2_000 <= machine.clock.now() - start <= 10_000_000 + 2_000


def test_linux_quick_calibration_sees_the_high_byte_fall_without_latching(machine):
    # quick_pit_calibrate: count 0xFFFF, then reads of low and high byte as they come.
    machine.out(0x61, machine.in_(0x61) & ~0x02 | 0x01)
    machine.out(CONTROL, 0xB0)
    machine.out(0x42, 0xFF, 0xFF)
    machine.in_(0x42)  # nothing is loaded yet: Linux drops one reading
    machine.in_(0x42)
    machine.pulses(1)
    seen = {}
    for _ in range(3000):
        machine.in_(0x42)
        seen.setdefault(machine.in_(0x42), machine.clock.now())
        machine.clock.advance(2_000)
    assert list(seen) == list(range(0xFF, min(seen) - 1, -1))
    assert abs(seen[0xF0] - seen[0xFE] - 14 * 256 * SECOND // PIT_HZ) <= 4_000


# Snapshots.


@pytest.mark.parametrize(
    "control", [BOTH | MODE0, BOTH | MODE2, BOTH | MODE3, BOTH | MODE4, BOTH | MODE1 | BCD]
)
def test_restored_timer_goes_on_as_the_saved_one(control):
    def busy():
        machine = Machine()
        machine.pulses(12345)
        machine.gate(True)
        for counter in (0, 1, 2):
            machine.program(counter, control, 0x0900)
        machine.pulses(700)
        machine.out(0x42, 0x77)  # half a count
        machine.out(0x41, 0x50, 0x07)  # a count that waits, in the periodic modes
        machine.out(CONTROL, 0xC0 | 0x02)  # status and count latched
        machine.in_(0x40)
        return machine

    saved, restored = busy(), Machine()
    restored.pulses(999)  # another time on the clock
    state = json.loads(json.dumps([saved.pit.save(), saved.pit.speaker.save()]))
    restored.pit.load(state[0])
    restored.pit.speaker.load(state[1])
    assert restored.irq.level == saved.irq.level

    def story(machine):
        edges, seen = machine.irq.edges, [machine.in_(0x40), machine.in_(0x40), machine.in_(0x61) & 0x2F]
        machine.out(0x42, 0x03)
        for step in (1, 300, 1000, 4000, 70000):
            machine.pulses(step)
            seen += [machine.status(n) for n in range(3)] + [machine.count(n) for n in range(3)]
            seen.append(machine.irq.edges - edges)
        return seen

    assert story(restored) == story(saved)


def test_every_guest_access_is_answered():
    import random

    guest = random.Random(8254)
    machine = Machine()
    for _ in range(20_000):
        port = guest.choice((0x40, 0x41, 0x42, 0x43, 0x43, 0x61))
        size = guest.choice((1, 1, 1, 2, 4))
        if guest.random() < 0.6:
            machine.bus.write(port, size, guest.getrandbits(8 * size))
        else:
            assert 0 <= machine.bus.read(port, size) < 1 << 8 * size
        machine.clock.advance(guest.choice((0, 100, 838, 5_000, 300_000)))
