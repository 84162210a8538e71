"""The MC146818 as firmware, Linux's rtc-cmos and older drivers drive it.

"DS" is the data sheet of the MC146818.
"""

from __future__ import annotations

import calendar
import random
import time
from collections.abc import Callable

import pytest
from doubles import Clock, Line, Timer

from pykvm.devices.rtc import (
    A_UIP,
    B_24H,
    B_AIE,
    B_DM,
    B_PIE,
    B_SET,
    B_UIE,
    C_AF,
    C_IRQF,
    C_PF,
    C_UF,
    CENTURY,
    DATA,
    DAY_OF_MONTH,
    DAY_OF_WEEK,
    HOURS,
    HOURS_ALARM,
    INDEX,
    MINUTES,
    MINUTES_ALARM,
    MONTH,
    SECONDS,
    SECONDS_ALARM,
    TIME_CELLS,
    YEAR,
    A,
    B,
    C,
    D,
    Rtc,
    seconds_since_1970,
)

MS = 1_000_000
SECOND = 1000 * MS
GIB = 1 << 30


def at(text: str) -> int:
    """The ns since 1970 of ``2024-02-28 23:59:57``."""
    return calendar.timegm(time.strptime(text, "%Y-%m-%d %H:%M:%S")) * SECOND


class HostClock(Clock):
    """A clock whose timers can be counted, and whose wall can be set."""

    def __init__(self, wall: int) -> None:
        super().__init__(wall)
        self.timers: list[Timer] = []

    def call_at(self, when: int, action: Callable[[], None]) -> Timer:
        assert when > self.now(), "a timer for what has been would never let the guest run"
        timer = super().call_at(when, action)
        self.timers.append(timer)
        return timer

    def waiting(self) -> int:
        return sum(timer.action is not None for timer in self.timers)


class Board:
    """A clock chip with its line and the host's time, and what a driver has."""

    def __init__(self, wall: str = "2024-02-28 23:59:57", **memory: int) -> None:
        self.line = Line()
        self.clock = HostClock(at(wall))
        self.rtc = Rtc(self.line, self.clock, **memory or {"ram_below_4g": GIB})

    def get(self, cell: int) -> int:
        self.rtc.write(INDEX, 1, cell)
        return self.rtc.read(DATA, 1)

    def put(self, cell: int, value: int) -> None:
        self.rtc.write(INDEX, 1, cell)
        self.rtc.write(DATA, 1, value)

    def date(self) -> str:
        """The time as a driver reads it that knows the chip in its BCD, 24 hour mode."""
        cells = (CENTURY, YEAR, MONTH, DAY_OF_MONTH, HOURS, MINUTES, SECONDS)
        return "{:02x}{:02x}-{:02x}-{:02x} {:02x}:{:02x}:{:02x}".format(*map(self.get, cells))

    def set_date(self, text: str) -> None:
        """Write the cells of ``2024-02-28 23:59:57``, in BCD."""
        cells = (CENTURY, YEAR, MONTH, DAY_OF_MONTH, HOURS, MINUTES, SECONDS)
        places = (0, 2, 5, 8, 11, 14, 17)
        for cell, place in zip(cells, places):
            self.put(cell, int(text[place : place + 2], 16))

    def alarm(self, hours: int, minutes: int, seconds: int) -> None:
        self.put(HOURS_ALARM, hours)
        self.put(MINUTES_ALARM, minutes)
        self.put(SECONDS_ALARM, seconds)

    def interrupts_in(self, ns: int) -> int:
        """How many interrupts a driver sees that answers each by reading C."""
        before, end, step = self.line.edges, self.clock.now() + ns, 50_000
        while self.clock.now() < end:
            self.clock.advance(min(step, end - self.clock.now()))
            if self.line.level:
                self.get(C)
        return self.line.edges - before


@pytest.fixture
def board() -> Board:
    return Board()


# Time


def test_the_clock_shows_the_hosts_time_and_goes_on(board: Board) -> None:
    assert board.date() == "2024-02-28 23:59:57"
    board.clock.advance(4 * SECOND)
    assert board.date() == "2024-02-29 00:00:01"
    board.clock.advance(86400 * SECOND)
    assert board.date() == "2024-03-01 00:00:01"


@pytest.mark.parametrize(
    ("date", "day"), [("2024-02-25 12:00:00", 1), ("2024-03-02 12:00:00", 7), ("1970-01-01 00:00:00", 5)]
)
def test_the_week_begins_with_sunday(date: str, day: int) -> None:
    assert Board(date).get(DAY_OF_WEEK) == day


@pytest.mark.parametrize(
    ("hour", "mode", "shown"),
    [
        (0, B_24H, 0x00),
        (23, B_24H, 0x23),
        (23, B_24H | B_DM, 23),
        (0, 0, 0x12),
        (1, 0, 0x01),
        (11, 0, 0x11),
        (12, 0, 0x92),
        (13, 0, 0x81),
        (23, 0, 0x91),
        (0, B_DM, 12),
        (12, B_DM, 0x80 | 12),
        (23, B_DM, 0x80 | 11),
    ],
)
def test_hours_are_shown_and_set_in_each_mode(hour: int, mode: int, shown: int) -> None:
    board = Board(f"2024-05-06 {hour:02}:00:00")
    board.put(B, mode)
    assert board.get(HOURS) == shown
    other = Board("2024-05-06 05:00:00")
    other.put(B, mode)
    other.put(HOURS, shown)
    other.put(B, B_24H)
    assert other.date() == f"2024-05-06 {hour:02}:00:00"


def test_binary_mode_shows_every_part_in_binary() -> None:
    board = Board("2039-11-28 13:45:59")
    board.put(B, B_24H | B_DM)
    cells = (CENTURY, YEAR, MONTH, DAY_OF_MONTH, MINUTES, SECONDS)
    assert [board.get(cell) for cell in cells] == [20, 39, 11, 28, 45, 59]


def test_linux_reads_a_time_that_does_not_change_under_it() -> None:
    """rtc-mc146818-lib: the seconds before and after agree, and no update is in progress."""
    board = Board("1999-12-31 23:59:59")
    board.clock.advance(SECOND - 100_000)
    tries = 0
    while True:
        tries += 1
        seconds = board.get(SECONDS)
        if board.get(A) & A_UIP:
            board.clock.advance(100_000)
            continue
        date = board.date()
        if board.get(A) & A_UIP or board.get(SECONDS) != seconds:
            continue
        break
    assert (date, tries) == ("2000-01-01 00:00:00", 2)


def test_an_update_announces_itself_244_us_before(board: Board) -> None:
    assert not board.get(A) & A_UIP
    board.clock.advance(SECOND - 244_001)
    assert not board.get(A) & A_UIP
    board.clock.advance(1)
    assert board.get(A) & A_UIP
    board.clock.advance(243_999)
    assert board.get(A) & A_UIP
    assert board.get(SECONDS) == 0x57
    board.clock.advance(1)
    assert not board.get(A) & A_UIP
    assert board.get(SECONDS) == 0x58


def test_a_guest_cannot_make_an_update_last(board: Board) -> None:
    board.put(A, A_UIP | 0x26)
    assert board.get(A) == 0x26


@pytest.mark.parametrize(("cell", "value"), [(B, B_SET | B_24H), (A, 0x66), (A, 0x76)])
def test_no_update_is_announced_while_the_clock_is_stopped(board: Board, cell: int, value: int) -> None:
    board.put(cell, value)
    board.clock.advance(SECOND - 1)
    assert board.get(A) & A_UIP == 0
    board.clock.advance(5 * SECOND)
    assert board.date() == "2024-02-28 23:59:57"


# Setting


def test_set_holds_the_time_for_the_guest_and_keeps_the_fraction_of_the_second(board: Board) -> None:
    board.clock.advance(700 * MS)
    board.put(B, B_SET | B_24H)
    board.set_date("2031-07-04 12:34:56")
    board.clock.advance(2500 * MS)  # 0.2 s into a second
    assert board.date() == "2031-07-04 12:34:56"
    board.put(B, B_24H)
    board.clock.advance(799 * MS)
    assert board.date() == "2031-07-04 12:34:56"
    board.clock.advance(MS)
    assert board.date() == "2031-07-04 12:34:57"


def test_linux_sets_the_time_and_the_first_update_comes_half_a_second_later(board: Board) -> None:
    """DS, DV: "When the divider reset is removed the first update cycle begins one-half second later"."""
    board.clock.advance(123 * MS)
    b, a = board.get(B), board.get(A)
    board.put(B, b | B_SET)
    board.put(A, a | 0x70)
    board.set_date("2031-07-04 12:34:56")
    board.put(B, b)
    board.put(A, a)
    assert board.date() == "2031-07-04 12:34:56"
    board.clock.advance(500 * MS - 1)
    assert board.date() == "2031-07-04 12:34:56"
    board.clock.advance(1)
    assert board.date() == "2031-07-04 12:34:57"
    board.clock.advance(SECOND)
    assert board.date() == "2031-07-04 12:34:58"


def test_the_divider_decides_the_fraction_also_when_set_is_cleared_last(board: Board) -> None:
    board.put(B, B_SET | B_24H)
    board.put(A, 0x76)
    board.clock.advance(333 * MS)
    board.put(A, 0x26)
    board.clock.advance(300 * MS)
    board.put(B, B_24H)
    board.clock.advance(200 * MS - 1)
    assert board.date() == "2024-02-28 23:59:57"
    board.clock.advance(1)
    assert board.date() == "2024-02-28 23:59:58"


def test_the_clock_that_was_held_goes_on_from_where_it_was(board: Board) -> None:
    board.put(B, B_SET | B_24H)
    board.clock.advance(3600 * SECOND)
    board.put(B, B_24H)
    assert board.date() == "2024-02-28 23:59:57"


def test_a_single_cell_can_be_set_while_the_clock_runs(board: Board) -> None:
    board.put(MINUTES, 0x10)
    assert board.date() == "2024-02-28 23:10:57"
    board.clock.advance(3 * SECOND)
    assert board.date() == "2024-02-28 23:11:00"


def test_a_date_that_does_not_exist_rolls_over(board: Board) -> None:
    board.put(B, B_SET | B_24H)
    board.set_date("2023-02-30 24:60:61")
    assert board.date() == "2023-02-30 24:60:61"  # while it is held it is what was written
    board.put(B, B_24H)
    assert board.date() == "2023-03-03 01:01:01"


def test_dates_are_counted_as_the_calendar_does() -> None:
    chance = random.Random(1)
    for _ in range(2000):
        seconds = chance.randrange(-62_000_000_000, 250_000_000_000)
        date = time.gmtime(seconds)
        assert seconds_since_1970(*date[:6]) == seconds


def test_writing_c_and_d_changes_nothing(board: Board) -> None:
    board.put(C, 0xFF)
    board.put(D, 0)
    assert board.get(D) == 0x80  # the battery is good
    assert board.get(C) == 0
    assert not board.line.level


# The line, and register C


def test_reading_c_tells_clears_and_lowers_the_line(board: Board) -> None:
    board.put(B, B_24H | B_UIE)
    board.clock.advance(SECOND)
    assert board.line.level
    assert board.get(C) == C_IRQF | C_PF | C_UF
    assert not board.line.level
    assert board.get(C) == 0


def test_flags_come_without_their_interrupts(board: Board) -> None:
    board.clock.advance(SECOND)
    assert not board.line.level
    assert board.get(C) == C_PF | C_UF
    board.clock.advance(100_000)
    assert board.get(C) == 0


def test_setting_the_time_takes_no_flag_away(board: Board) -> None:
    board.clock.advance(SECOND)
    board.put(MINUTES, 0x30)
    assert board.get(C) & C_UF


def test_an_interrupt_that_is_enabled_late_comes_at_once(board: Board) -> None:
    """DS, register C: IRQF = PF·PIE + AF·AIE + UF·UIE."""
    board.clock.advance(SECOND)
    board.put(B, B_24H | B_UIE)
    assert board.line.level
    board.put(B, B_24H)
    assert not board.line.level
    assert board.get(C) == C_PF | C_UF


def test_the_update_ended_interrupt_comes_each_second(board: Board) -> None:
    board.clock.advance(300 * MS)
    board.put(B, B_24H | B_UIE)
    board.clock.advance(700 * MS - 1)
    assert not board.line.level
    board.clock.advance(1)
    assert board.line.level
    board.get(C)
    assert board.interrupts_in(3 * SECOND) == 3


def test_set_switches_the_update_ended_interrupt_off(board: Board) -> None:
    """DS, register B: "or the SET bit going high clears the UIE bit"."""
    board.put(B, B_24H | B_UIE)
    board.put(B, B_24H | B_UIE | B_SET)
    assert board.get(B) == B_24H | B_SET
    board.clock.advance(3 * SECOND)
    assert not board.get(C) & C_UF


@pytest.mark.parametrize(
    ("rate", "hertz"),
    [(0, 0), (1, 256), (2, 128), (3, 8192), (4, 4096), (6, 1024), (10, 64), (13, 8), (15, 2)],
)
def test_the_periodic_interrupt_comes_at_each_rate(board: Board, rate: int, hertz: int) -> None:
    """DS, table 5, with a time base of 32.768 kHz."""
    board.put(A, 0x20 | rate)
    board.get(C)
    board.put(B, B_24H | B_PIE)
    assert board.interrupts_in(SECOND) == hertz


def test_the_periodic_interrupt_stands_still_in_divider_reset(board: Board) -> None:
    board.put(A, 0x66)
    board.put(B, B_24H | B_PIE)
    board.get(C)
    assert board.interrupts_in(100 * MS) == 0
    board.put(A, 0x26)
    assert board.interrupts_in(100 * MS) == 102


def test_periods_are_counted_from_the_end_of_divider_reset(board: Board) -> None:
    board.clock.advance(123_456_789)
    board.put(A, 0x66)
    board.put(A, 0x2F)
    board.put(B, B_24H | B_PIE)
    board.get(C)
    board.clock.advance(SECOND // 2 - 1)
    assert not board.line.level
    board.clock.advance(1)
    assert board.line.level


# Alarm


def test_the_alarm_comes_at_its_time_and_not_before(board: Board) -> None:
    board.alarm(0x00, 0x00, 0x02)
    board.put(B, B_24H | B_AIE)
    board.get(C)
    board.clock.advance(5 * SECOND - 1)
    assert not board.line.level
    board.clock.advance(1)
    assert board.line.level
    assert board.get(C) & (C_IRQF | C_AF) == C_IRQF | C_AF
    board.clock.advance(86399 * SECOND)
    assert not board.line.level
    board.clock.advance(SECOND)
    assert board.line.level


@pytest.mark.parametrize(
    ("cells", "interrupts"),
    [
        ((0xC0, 0xFF, 0xFF), 7200),  # each second
        ((0xFF, 0xC0, 0x30), 120),  # each minute
        ((0xFF, 0x15, 0x30), 2),  # each hour
        ((0x01, 0x15, 0xC0), 60),  # each second of a minute
        ((0x01, 0x15, 0x30), 1),
        ((0x05, 0x15, 0x30), 0),  # out of the two hours
        ((0x24, 0x15, 0x30), 0),  # no such hour
        ((0x01, 0x60, 0x30), 0),
        ((0x01, 0x15, 0x0A), 0),  # no BCD
        ((0x01, 0x15, 0xBF), 0),
    ],
)
def test_alarm_cells_from_c0_on_match_everything(cells: tuple[int, int, int], interrupts: int) -> None:
    board = Board("2024-05-05 23:59:59")
    board.alarm(*cells)
    board.put(B, B_24H | B_AIE)
    count = 0
    for _ in range(7200):
        board.clock.advance(SECOND)
        if board.line.level:
            count += bool(board.get(C) & C_AF)
    assert count == interrupts


def test_the_alarm_knows_morning_from_afternoon() -> None:
    board = Board("2024-05-06 00:59:00")
    board.put(B, B_AIE)
    board.alarm(0x81, 0x00, 0x00)
    board.clock.advance(3600 * SECOND)
    assert not board.line.level
    board.clock.advance(12 * 3600 * SECOND)
    assert board.line.level


def test_an_alarm_that_is_moved_goes_by_its_new_time(board: Board) -> None:
    board.put(B, B_24H | B_AIE)
    board.alarm(0x23, 0x59, 0x58)
    board.get(C)
    board.put(SECONDS_ALARM, 0x59)
    board.clock.advance(SECOND)
    assert not board.line.level
    board.clock.advance(SECOND)
    assert board.line.level


def test_an_alarm_that_the_time_was_set_past_does_not_come(board: Board) -> None:
    board.alarm(0x12, 0x00, 0x00)
    board.put(B, B_24H | B_AIE)
    board.get(C)
    board.set_date("2025-01-01 12:00:01")
    board.clock.advance(3600 * SECOND)
    assert not board.get(C) & C_AF
    board.set_date("2025-01-01 11:59:59")
    board.clock.advance(SECOND)
    assert board.line.level


# What it costs


def test_an_idle_guest_has_no_timer(board: Board) -> None:
    board.date()
    board.get(C)
    board.clock.advance(100 * SECOND)
    assert board.clock.timers == []


def test_a_guest_that_never_answers_has_no_timer_either(board: Board) -> None:
    board.put(B, B_24H | B_PIE)
    board.clock.advance(SECOND)
    assert board.line.level
    assert board.clock.waiting() == 0
    assert len(board.clock.timers) == 1


def test_there_is_one_timer_and_disabling_takes_it_away(board: Board) -> None:
    board.alarm(0xFF, 0xFF, 0xFF)
    board.put(B, B_24H | B_PIE | B_AIE | B_UIE)
    board.get(C)
    assert board.clock.waiting() == 1
    board.put(B, B_24H)
    assert board.clock.waiting() == 0


def test_a_host_clock_that_is_set_back_or_forth_stops_nothing(board: Board) -> None:
    board.put(B, B_24H | B_UIE)
    board.clock.start -= 3600 * SECOND
    board.clock.advance(2 * SECOND)
    board.get(C)
    assert board.date() == "2024-02-28 22:59:59"
    assert board.interrupts_in(2 * SECOND) == 2
    board.clock.start += 86400 * SECOND + 300 * MS
    board.get(C)
    assert board.interrupts_in(2 * SECOND) == 2
    assert board.date() == "2024-02-29 23:00:03"


# The RAM


def test_the_index_port_is_written_only_and_its_top_bit_selects_nothing(board: Board) -> None:
    board.put(0x0F, 0xAA)
    assert board.get(0x8F) == 0xAA  # with NMI masked
    assert board.rtc.read(INDEX, 1) == 0xFF


def test_the_ram_keeps_what_is_written(board: Board) -> None:
    cells = [cell for cell in range(0x0E, 0x80) if cell != CENTURY]
    for cell in cells:
        board.put(cell, cell ^ 0x5A)
    assert [board.get(cell) for cell in cells] == [cell ^ 0x5A for cell in cells]


def word(board: Board, cell: int, count: int = 2) -> int:
    return sum(board.get(cell + n) << 8 * n for n in range(count))


@pytest.mark.parametrize(
    ("below", "above", "extended", "above_16m", "above_4g"),
    [
        (512 << 10, 0, 0, 0, 0),
        (8 << 20, 0, 7168, 0, 0),
        (512 << 20, 0, 0xFFFF, 496 * 16, 0),
        (3 * GIB, 5 * GIB, 0xFFFF, (3 * 1024 - 16) * 16, 5 * 1024 * 16),
        (3 * GIB, 1 << 50, 0xFFFF, (3 * 1024 - 16) * 16, 0xFFFFFF),
    ],
)
def test_firmware_finds_the_memory(
    below: int, above: int, extended: int, above_16m: int, above_4g: int
) -> None:
    board = Board(ram_below_4g=below, ram_above_4g=above)
    assert word(board, 0x15) == 640
    assert word(board, 0x17) == word(board, 0x30) == extended
    assert word(board, 0x34) == above_16m
    assert word(board, 0x5B, 3) == above_4g


def test_firmware_finds_the_floating_point_unit(board: Board) -> None:
    assert board.get(0x14) & 0x02


def test_the_checksum_of_the_settings_is_right(board: Board) -> None:
    assert board.get(0x2E) << 8 | board.get(0x2F) == sum(board.get(cell) for cell in range(0x10, 0x2E))


# State, and guests that mean no good


@pytest.mark.parametrize("stopped", [False, True])
def test_a_copy_goes_on_with_the_hosts_time(stopped: bool) -> None:
    board = Board()
    board.put(MINUTES, 0x30)
    if stopped:
        board.put(B, B_SET | B_24H)
    state = board.rtc.save()
    later = Board("2024-02-29 23:59:57")
    later.rtc.load(state)
    assert later.date() == ("2024-02-28 23:30:57" if stopped else "2024-02-29 23:30:57")


def test_a_copy_made_between_index_and_data_reads_the_same_cell(board: Board) -> None:
    board.rtc.write(INDEX, 1, YEAR)
    copy = Board()
    copy.rtc.load(board.rtc.save())
    assert copy.rtc.read(DATA, 1) == 0x24


def test_loading_sets_the_line_whatever_it_was(board: Board) -> None:
    line = Line()
    line.set(True)
    Rtc(line, board.clock, ram_below_4g=GIB).load(board.rtc.save())
    assert not line.level


def test_an_alarm_that_was_due_while_the_machine_was_stored_comes_with_it() -> None:
    board = Board()
    board.alarm(0x12, 0x00, 0x00)
    board.put(B, B_24H | B_AIE)
    later = Board("2024-02-29 15:00:00")
    later.rtc.load(board.rtc.save())
    assert later.line.level


@pytest.mark.parametrize("seed", range(20))
def test_no_guest_breaks_it_and_a_copy_made_in_the_middle_of_work_goes_on_alike(seed: int) -> None:
    chance = random.Random(seed)
    board, trace = Board(), []
    cells = (*sorted(TIME_CELLS), SECONDS_ALARM, MINUTES_ALARM, HOURS_ALARM, A, B, C, D)
    for _ in range(30):
        copy = Board()
        copy.clock.start, copy.clock.time = board.clock.start, board.clock.time
        copy.rtc.load(board.rtc.save())
        assert copy.line.level == board.line.level
        for _ in range(40):
            cell = chance.choice((*cells, chance.randrange(256)))
            value = chance.choice(
                (chance.randrange(256), chance.choice((0xFF, 0x26, 0x76, 0x02, 0x82, 0x72)))
            )
            action = chance.choice(("get", "get", "put", "put", "advance"))
            step = chance.choice((1, 1000, MS, SECOND // 2, 3 * SECOND, 4000 * SECOND))
            trace.append((action, cell, value, step))
            results = []
            for one in (board, copy):
                if action == "get":
                    results.append(one.get(cell))
                elif action == "put":
                    one.put(cell, value)
                else:
                    one.clock.advance(step)
            assert results[:1] == results[1:], trace[-50:]
            assert all(0 <= result <= 0xFF for result in results)
            assert board.line.level == copy.line.level, trace[-50:]
            assert board.clock.waiting() <= 1
        assert len(board.rtc.save()["cells"]) == 128
