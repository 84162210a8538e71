"""The local APIC's timer as kernels use it. Sections are those of Intel's SDM, volume 3A."""

import json
import random

import pytest
from apic_doubles import TSC_HZ, Board

from pykvm.devices import lapicregisters as reg
from pykvm.devices.lapictimer import TIMER_HZ

TSC_DEADLINE_MSR = 0x6E0
ONE_SHOT, PERIODIC, TSC_DEADLINE, RESERVED = (mode << 17 for mode in range(4))
MASKED = 1 << 16
VECTOR = 0xEC
BY_1, BY_2, BY_16, BY_128 = 0xB, 0x0, 0x3, 0xA
MS = 10**6


@pytest.fixture
def board():
    return Board()


@pytest.fixture
def cpu(board):
    return board.cpus[0]


def program(cpu, lvt, count, divide=BY_1):
    cpu.write(reg.LVT_TIMER, lvt)
    cpu.write(reg.DIVIDE, divide)
    cpu.write(reg.INITIAL_COUNT, count)


def ticks(board, cpu, ns, step):
    """When, in steps of ``step``, interrupts are taken within ``ns``."""
    found = []
    for at in range(step, ns + 1, step):
        board.clock.advance(step)
        if cpu.take_all() == [VECTOR]:
            found.append(at)
    return found


# Counting.


def test_linux_calibrates_by_a_masked_count(board, cpu):
    # __setup_APIC_LVTT(0xffffffff, 0, 0) and two reads
    program(cpu, ONE_SHOT | MASKED | VECTOR, 0xFFFF_FFFF, BY_16)
    first = cpu.read(reg.CURRENT_COUNT)
    board.clock.advance(100 * MS)
    assert first - cpu.read(reg.CURRENT_COUNT) == TIMER_HZ // 16 // 10
    assert board.clock.calls == 0  # and nobody waits for its end
    assert cpu.take() is None


@pytest.mark.parametrize(
    "divide, by", [(0x0, 2), (0x1, 4), (0x2, 8), (0x3, 16), (0x8, 32), (0x9, 64), (0xA, 128), (0xB, 1)]
)
def test_the_divisors(board, cpu, divide, by):
    # figure 10-10
    program(cpu, VECTOR, 1000, divide)
    assert cpu.read(reg.DIVIDE) == divide
    board.clock.advance(300 * by)
    assert cpu.read(reg.CURRENT_COUNT) == 700
    board.clock.advance(699 * by)
    assert cpu.take() is None
    board.clock.advance(by)
    assert cpu.take() == VECTOR


def test_a_one_shot_counts_to_0_once(board, cpu):
    program(cpu, VECTOR, 1000)
    assert ticks(board, cpu, 5000, 500) == [1000]
    assert cpu.read(reg.CURRENT_COUNT) == 0
    assert cpu.read(reg.INITIAL_COUNT) == 1000


def test_a_new_initial_count_starts_over(board, cpu):
    program(cpu, VECTOR, 1000)
    board.clock.advance(900)
    cpu.write(reg.INITIAL_COUNT, 1000)
    assert ticks(board, cpu, 3000, 100) == [1000]


def test_an_initial_count_of_0_stops(board, cpu):
    # "A write of 0 to the initial-count register effectively stops the local APIC timer"
    for mode in (ONE_SHOT, PERIODIC):
        program(cpu, mode | VECTOR, 1000)
        cpu.write(reg.INITIAL_COUNT, 0)
        assert cpu.read(reg.CURRENT_COUNT) == 0
        assert ticks(board, cpu, 3000, 500) == []


def test_a_periodic_timer_reloads(board, cpu):
    program(cpu, PERIODIC | VECTOR, MS)
    board.clock.advance(MS // 4)
    assert cpu.read(reg.CURRENT_COUNT) == MS * 3 // 4
    board.clock.advance(MS)
    assert cpu.take_all() == [VECTOR]
    assert cpu.read(reg.CURRENT_COUNT) == MS * 3 // 4
    assert ticks(board, cpu, 4 * MS, MS // 4) == [MS * n - MS // 4 for n in (1, 2, 3, 4)]


def test_the_mode_changes_between_one_shot_and_periodic_while_it_counts(board, cpu):
    program(cpu, PERIODIC | VECTOR, MS)
    board.clock.advance(MS * 5 // 2)
    cpu.take_all()
    cpu.write(reg.LVT_TIMER, ONE_SHOT | VECTOR)
    assert cpu.read(reg.CURRENT_COUNT) == MS // 2
    assert ticks(board, cpu, 3 * MS, MS // 2) == [MS // 2]
    cpu.write(reg.LVT_TIMER, PERIODIC | VECTOR)  # it has stopped, and stays so
    assert ticks(board, cpu, 3 * MS, MS // 2) == []
    assert cpu.read(reg.CURRENT_COUNT) == 0


def test_a_new_divisor_goes_on_from_the_count_that_is_there(board, cpu):
    program(cpu, VECTOR, 1000)
    board.clock.advance(400)
    cpu.write(reg.DIVIDE, BY_2)
    assert cpu.read(reg.CURRENT_COUNT) == 600
    assert ticks(board, cpu, 2000, 100) == [1200]


def test_a_masked_interrupt_is_lost_and_the_next_comes(board, cpu):
    program(cpu, PERIODIC | VECTOR, MS)
    cpu.write(reg.LVT_TIMER, PERIODIC | MASKED | VECTOR)
    board.clock.advance(3 * MS // 2)
    assert cpu.take() is None
    cpu.write(reg.LVT_TIMER, PERIODIC | VECTOR)
    assert ticks(board, cpu, 2 * MS, MS // 2) == [MS // 2, MS * 3 // 2]


def test_a_one_shot_that_ended_masked_does_not_come_later(board, cpu):
    program(cpu, MASKED | VECTOR, 1000)
    board.clock.advance(2000)
    cpu.write(reg.LVT_TIMER, VECTOR)
    assert ticks(board, cpu, 5000, 1000) == []


def test_an_apic_that_is_disabled_by_software_hears_no_timer(board, cpu):
    program(cpu, VECTOR, 1000)
    cpu.write(reg.SVR, 0xFF)
    board.clock.advance(5000)
    cpu.enable()
    assert cpu.take() is None


def test_the_reserved_mode_stands_still(board, cpu):
    program(cpu, RESERVED | VECTOR, 1000)
    assert cpu.read(reg.CURRENT_COUNT) == 0
    assert ticks(board, cpu, 5000, 1000) == []


# TSC deadline (§10.5.4.1).


def test_linux_sets_a_deadline_and_takes_it_once(board, cpu):
    cpu.write(reg.LVT_TIMER, TSC_DEADLINE | VECTOR)
    deadline = board.tsc() + TSC_HZ // 1000
    cpu.wrmsr(TSC_DEADLINE_MSR, deadline)
    assert cpu.rdmsr(TSC_DEADLINE_MSR) == deadline
    assert cpu.read(reg.CURRENT_COUNT) == 0
    assert ticks(board, cpu, 4 * MS, MS // 2) == [MS]
    assert cpu.rdmsr(TSC_DEADLINE_MSR) == 0


def test_a_deadline_in_the_past_comes_at_once(board, cpu):
    board.clock.advance(MS)
    cpu.write(reg.LVT_TIMER, TSC_DEADLINE | VECTOR)
    cpu.wrmsr(TSC_DEADLINE_MSR, board.tsc())
    assert cpu.take_all() == [VECTOR]
    assert cpu.rdmsr(TSC_DEADLINE_MSR) == 0
    cpu.wrmsr(TSC_DEADLINE_MSR, 1)
    assert cpu.take_all() == [VECTOR]


def test_a_deadline_of_0_disarms(board, cpu):
    cpu.write(reg.LVT_TIMER, TSC_DEADLINE | VECTOR)
    cpu.wrmsr(TSC_DEADLINE_MSR, board.tsc() + 1000)
    cpu.wrmsr(TSC_DEADLINE_MSR, 0)
    assert ticks(board, cpu, 5000, 1000) == []


def test_a_deadline_for_ever_away_is_a_deadline(board, cpu):
    cpu.write(reg.LVT_TIMER, TSC_DEADLINE | VECTOR)
    cpu.wrmsr(TSC_DEADLINE_MSR, (1 << 64) - 1)
    assert ticks(board, cpu, 10 * MS, MS) == []
    assert cpu.rdmsr(TSC_DEADLINE_MSR) == (1 << 64) - 1
    cpu.wrmsr(TSC_DEADLINE_MSR, board.tsc() + TSC_HZ // 1000)
    assert ticks(board, cpu, 2 * MS, MS) == [MS]


def test_the_count_registers_are_idle_in_deadline_mode_and_the_msr_in_the_others(board, cpu):
    cpu.wrmsr(TSC_DEADLINE_MSR, 1)
    assert cpu.rdmsr(TSC_DEADLINE_MSR) == 0
    assert cpu.take() is None
    cpu.write(reg.LVT_TIMER, TSC_DEADLINE | VECTOR)
    cpu.write(reg.INITIAL_COUNT, 1000)
    assert cpu.read(reg.CURRENT_COUNT) == 0
    assert ticks(board, cpu, 5000, 1000) == []


@pytest.mark.parametrize("there, back", [(TSC_DEADLINE, PERIODIC), (PERIODIC, TSC_DEADLINE)])
def test_changing_to_deadline_mode_and_back_disarms(board, cpu, there, back):
    # "Transitioning between TSC-deadline mode and other timer modes also disarms the timer."
    cpu.write(reg.LVT_TIMER, there | VECTOR)
    cpu.write(reg.INITIAL_COUNT, MS)
    cpu.wrmsr(TSC_DEADLINE_MSR, board.tsc() + TSC_HZ // 1000)
    cpu.write(reg.LVT_TIMER, back | VECTOR)
    cpu.write(reg.LVT_TIMER, there | VECTOR)
    assert cpu.rdmsr(TSC_DEADLINE_MSR) == 0
    assert ticks(board, cpu, 4 * MS, MS) == []


def test_a_deadline_that_passed_masked_does_not_come_later(board, cpu):
    cpu.write(reg.LVT_TIMER, TSC_DEADLINE | MASKED | VECTOR)
    cpu.wrmsr(TSC_DEADLINE_MSR, board.tsc() + 1000)
    board.clock.advance(MS)
    assert cpu.rdmsr(TSC_DEADLINE_MSR) == 0
    cpu.write(reg.LVT_TIMER, TSC_DEADLINE | VECTOR)
    assert ticks(board, cpu, 2 * MS, MS) == []


def test_a_tsc_that_is_written_moves_the_deadline(board, cpu):
    cpu.write(reg.LVT_TIMER, TSC_DEADLINE | VECTOR)
    cpu.wrmsr(TSC_DEADLINE_MSR, board.tsc() + 2 * TSC_HZ // 1000)
    board.tsc_offset += TSC_HZ // 1000
    cpu.apic.tsc_moved()
    assert ticks(board, cpu, 4 * MS, MS // 2) == [MS]
    cpu.wrmsr(TSC_DEADLINE_MSR, board.tsc() + 2 * TSC_HZ // 1000)
    board.tsc_offset -= TSC_HZ // 1000
    cpu.apic.tsc_moved()
    assert ticks(board, cpu, 4 * MS, MS // 2) == [3 * MS]


def test_a_clock_that_is_ahead_of_the_tsc_waits_for_it(board, cpu):
    cpu.write(reg.LVT_TIMER, TSC_DEADLINE | VECTOR)
    cpu.wrmsr(TSC_DEADLINE_MSR, board.tsc() + TSC_HZ // 1000)
    board.tsc_offset -= TSC_HZ // 10**5  # 10 µs, and nobody is told
    board.clock.advance(MS)
    assert cpu.take() is None
    board.clock.advance(MS // 100)
    assert cpu.take() == VECTOR


# What it costs.


def test_a_timer_that_is_put_off_again_and_again_asks_the_clock_once(board, cpu):
    cpu.write(reg.LVT_TIMER, TSC_DEADLINE | VECTOR)
    for _ in range(1000):
        cpu.wrmsr(TSC_DEADLINE_MSR, board.tsc() + TSC_HZ)
        board.clock.advance(1000)
    assert board.clock.calls == 1
    assert ticks(board, cpu, 1200 * MS, 50 * MS) == [1000 * MS]
    assert board.clock.calls == 2


def test_an_idle_apic_asks_the_clock_for_nothing(board, cpu):
    program(cpu, VECTOR, 1000)
    board.clock.advance(MS)
    cpu.take_all()
    calls = board.clock.calls
    board.clock.advance(10**12)
    assert board.clock.calls == calls


def test_a_period_of_1_ns_ticks_10000_times_a_second_at_most(board, cpu):
    program(cpu, PERIODIC | VECTOR, 1)
    board.clock.advance(10**9)
    assert board.clock.calls <= 10_001


def test_late_ticks_are_made_up_twice_as_fast(board, cpu):
    program(cpu, PERIODIC | VECTOR, 10 * MS)
    board.clock.time += 105 * MS  # the host was busy
    assert len(ticks(board, cpu, 200 * MS, MS)) == 30  # 20 of these and 10 of those
    assert len(ticks(board, cpu, 200 * MS, MS)) == 20


def test_very_late_ticks_are_dropped(board, cpu):
    program(cpu, PERIODIC | VECTOR, 10 * MS)
    board.clock.time += 10_000 * MS
    caught_up = ticks(board, cpu, 1000 * MS, MS)
    assert 125 <= len(caught_up) <= 126
    assert len(ticks(board, cpu, 1000 * MS, MS)) == 100


# Snapshots, hostile guests.


@pytest.mark.parametrize("mode", [ONE_SHOT, PERIODIC, TSC_DEADLINE])
@pytest.mark.parametrize("mask", [0, MASKED])
def test_restored_timer_goes_on_as_the_saved_one(mode, mask):
    saved, restored = Board(), Board()
    saved.clock.advance(12345)
    restored.clock.advance(999_999)
    restored.tsc_offset = saved.tsc() - restored.tsc()
    program(saved.cpus[0], mode | mask | VECTOR, 3 * MS, BY_2)
    saved.cpus[0].wrmsr(TSC_DEADLINE_MSR, saved.tsc() + TSC_HZ // 500)
    for board in (saved, restored):
        board.clock.advance(MS)
    restored.cpus[0].apic.load(json.loads(json.dumps(saved.cpus[0].apic.save())))

    def story(board):
        cpu = board.cpus[0]
        seen = [cpu.read(reg.CURRENT_COUNT), cpu.rdmsr(TSC_DEADLINE_MSR), cpu.read(reg.DIVIDE)]
        seen += ticks(board, cpu, 20 * MS, MS // 2)
        cpu.write(reg.LVT_TIMER, mode | VECTOR)
        return seen + ticks(board, cpu, 20 * MS, MS // 2)

    assert story(restored) == story(saved)


@pytest.mark.parametrize("seed", range(8))
def test_every_guest_access_is_answered_and_counts_stay_in_bounds(seed):
    guest = random.Random(seed)
    board = Board()
    cpu = board.cpus[0]
    for _ in range(4_000):
        choice = guest.randrange(6)
        if choice == 0:
            cpu.write(reg.LVT_TIMER, guest.getrandbits(2) << 17 | guest.getrandbits(1) << 16 | VECTOR)
        elif choice == 1:
            cpu.write(reg.DIVIDE, guest.getrandbits(4))
        elif choice == 2:
            cpu.write(reg.INITIAL_COUNT, guest.getrandbits(guest.choice((0, 4, 16, 32))))
        elif choice == 3:
            ahead = guest.getrandbits(guest.choice((4, 20, 63))) * guest.choice((-1, 0, 1))
            cpu.wrmsr(TSC_DEADLINE_MSR, max(board.tsc() + ahead, 0) & (1 << 64) - 1)
        elif choice == 4:
            board.clock.advance(guest.choice((1, 1000, 10**5, 10**6)))
        else:
            board.tsc_offset += guest.randrange(-1000, 1000)
            cpu.apic.tsc_moved()
        assert 0 <= cpu.read(reg.CURRENT_COUNT) <= max(cpu.read(reg.INITIAL_COUNT), 0) < 1 << 32
        cpu.take_all()
