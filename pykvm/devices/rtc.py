"""The real-time clock and its RAM: Motorola's MC146818 as a PC has it, with 128 bytes at ports 0x70 and 0x71.

Its time is the host's, moved by what the guest has set. Nothing runs: the time is worked out when
it is read, the flags of register C when it is read or could interrupt, and a timer is set only
while the guest has enabled an interrupt that may still come.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pykvm.devices.device import Clock, Line, State, Timer

# offset, name, access, value after reset, source
REGISTERS = (
    (0, "INDEX", "W", None, "IBM PC AT Technical Reference: port 0x70, bit 7 masks NMI"),
    (1, "DATA", "RW", None, "port 0x71: the cell that INDEX names"),
)
PORTS = 2
INDEX = 0
DATA = 1

# cell, name, source: MC146818 (Motorola, 1984), "Memory map"; from 0x0E on as BIOSes use the RAM
CELLS = (
    (0x00, "SECONDS", "MC146818"),
    (0x01, "SECONDS_ALARM", "MC146818"),
    (0x02, "MINUTES", "MC146818"),
    (0x03, "MINUTES_ALARM", "MC146818"),
    (0x04, "HOURS", "MC146818"),
    (0x05, "HOURS_ALARM", "MC146818"),
    (0x06, "DAY_OF_WEEK", "MC146818"),
    (0x07, "DAY_OF_MONTH", "MC146818"),
    (0x08, "MONTH", "MC146818"),
    (0x09, "YEAR", "MC146818"),
    (0x0A, "A", "MC146818"),
    (0x0B, "B", "MC146818"),
    (0x0C, "C", "MC146818"),
    (0x0D, "D", "MC146818"),
    (0x0F, "SHUTDOWN", "IBM PC AT: where the BIOS goes on after a reset"),
    (0x14, "EQUIPMENT", "IBM PC AT: bit 1, a floating-point unit"),
    (0x15, "BASE_MEMORY", "IBM PC AT: KiB below 640K, two bytes"),
    (0x17, "EXTENDED_MEMORY", "IBM PC AT: KiB above 1M, two bytes; again at 0x30"),
    (0x2E, "CHECKSUM", "IBM PC AT: the sum of 0x10 to 0x2D, high byte first"),
    (0x32, "CENTURY", "IBM PC AT; FADT.CENTURY"),
    (0x34, "MEMORY_ABOVE_16M", "Bochs: units of 64 KiB up to 4G, two bytes"),
    (0x5B, "MEMORY_ABOVE_4G", "Bochs: units of 64 KiB, three bytes"),
)
CELL_COUNT = 128
SECONDS, MINUTES, HOURS, DAY_OF_WEEK, DAY_OF_MONTH, MONTH, YEAR = 0, 2, 4, 6, 7, 8, 9
SECONDS_ALARM, MINUTES_ALARM, HOURS_ALARM = 1, 3, 5
A, B, C, D = 0x0A, 0x0B, 0x0C, 0x0D
EQUIPMENT = 0x14
BASE_MEMORY = 0x15
EXTENDED_MEMORY = (0x17, 0x30)
CHECKSUM = 0x2E
CENTURY = 0x32
MEMORY_ABOVE_16M = 0x34
MEMORY_ABOVE_4G = 0x5B

TIME_CELLS = frozenset((SECONDS, MINUTES, HOURS, DAY_OF_WEEK, DAY_OF_MONTH, MONTH, YEAR, CENTURY))

A_UIP = 0x80  # update in progress
A_DIVIDER_RESET = 0x60  # DV = 11x
A_RATE = 0x0F
A_RESET = 0x26  # a crystal of 32768 Hz, 1024 Hz: what a PC's BIOS sets
B_SET = 0x80
B_PIE = 0x40
B_AIE = 0x20
B_UIE = 0x10
B_DM = 0x04  # 1 binary, 0 BCD
B_24H = 0x02
C_IRQF = 0x80
C_PF = 0x40
C_AF = 0x20
C_UF = 0x10
INTERRUPTS = C_PF | C_AF | C_UF  # each flag of C has its enable in the same bit of B
D_VRT = 0x80  # valid RAM and time: the battery is good

DO_NOT_CARE = 0xC0  # an alarm cell from here on matches everything
NMI_MASK = 0x80
EQUIPMENT_FPU = 0x02

SECOND = 1_000_000_000  # ns
CRYSTAL = 32768  # Hz
UIP_BEFORE_UPDATE = 244_000  # ns; Table 6
FIRST_UPDATE = SECOND // 2  # after the divider's reset is taken away
KIB, MIB = 1 << 10, 1 << 20


class Rtc:
    """The clock on ports 0 and 1 of its place, with its interrupt ``irq`` (a PC's IRQ 8).

    ``ram_below_4g`` and ``ram_above_4g`` are the machine's memory in bytes, for firmware to read.
    """

    def __init__(self, irq: Line, clock: Clock, *, ram_below_4g: int, ram_above_4g: int = 0) -> None:
        self._irq = irq
        self._clock = clock
        self._index = 0
        self._cells = bytearray(CELL_COUNT)
        self._cells[A] = A_RESET
        self._cells[B] = B_24H
        self._describe_memory(ram_below_4g, ram_above_4g)
        self._offset = 0  # ns, from the host's time to the guest's
        self._divider_start = clock.now()
        self._flags = 0  # those of C, complete up to these two moments:
        self._seen = clock.now()
        self._seen_second = self._time() // SECOND
        self._timer: Timer | None = None
        self._level = False

    def _describe_memory(self, below: int, above: int) -> None:
        def put(cell: int, count: int, value: int) -> None:
            value = min(max(0, value), (1 << 8 * count) - 1)
            self._cells[cell : cell + count] = value.to_bytes(count, "little")

        put(EQUIPMENT, 1, EQUIPMENT_FPU)
        put(BASE_MEMORY, 2, 640)
        for cell in EXTENDED_MEMORY:
            put(cell, 2, (below - MIB) // KIB)
        put(MEMORY_ABOVE_16M, 2, (below - 16 * MIB) // (64 * KIB))
        put(MEMORY_ABOVE_4G, 3, above // (64 * KIB))
        self._cells[CHECKSUM : CHECKSUM + 2] = sum(self._cells[0x10:CHECKSUM]).to_bytes(2, "big")

    # The guest's side

    def read(self, offset: int, size: int) -> int:
        """The cell that INDEX names; reading C clears it. INDEX itself is not readable."""
        if offset == INDEX:
            return 0xFF
        cell = self._index & ~NMI_MASK
        if cell == C:
            return self._read_flags()
        if cell == A:
            return self._cells[A] | (A_UIP if self._update_in_progress() else 0)
        if cell == D:
            return D_VRT
        if cell in TIME_CELLS and not self._stopped():
            self._show_time()
        return self._cells[cell]

    def write(self, offset: int, size: int, value: int) -> None:
        """The cell that INDEX names; C and D are not writable."""
        cell = self._index & ~NMI_MASK
        if offset == INDEX:
            self._index = value
        elif cell in (A, B):
            self._control(cell, value)
        elif cell in TIME_CELLS:
            self._catch_up()
            if self._stopped():
                self._cells[cell] = value
            else:
                self._show_time()
                self._cells[cell] = value
                self._set_time()
            self._arrange()
        elif cell not in (C, D):
            # An alarm that was due goes by the old cells.
            self._catch_up()
            self._cells[cell] = value
            self._arrange()

    # Time

    def _time(self) -> int:
        """The guest's time in ns since 1970. While the clock is stopped, only its fraction counts."""
        return self._clock.wall() + self._offset

    def _stopped(self) -> bool:
        """No updates: the guest is setting the time, or holds the divider in reset."""
        return bool(self._cells[B] & B_SET) or self._divider_reset()

    def _divider_reset(self) -> bool:
        return self._cells[A] & A_DIVIDER_RESET == A_DIVIDER_RESET

    def _update_in_progress(self) -> bool:
        return not self._stopped() and self._time() % SECOND >= SECOND - UIP_BEFORE_UPDATE

    def _show_time(self) -> None:
        """Bring the time cells up to date."""
        now = time.gmtime(self._time() // SECOND)
        cells, encode = self._cells, self._encode
        cells[SECONDS] = encode(now.tm_sec)
        cells[MINUTES] = encode(now.tm_min)
        cells[HOURS] = self._encode_hour(now.tm_hour)
        cells[DAY_OF_WEEK] = encode((now.tm_wday + 1) % 7 + 1)  # 1 is Sunday
        cells[DAY_OF_MONTH] = encode(now.tm_mday)
        cells[MONTH] = encode(now.tm_mon)
        cells[YEAR] = encode(now.tm_year % 100)
        cells[CENTURY] = encode(now.tm_year // 100 % 100)

    def _set_time(self) -> None:
        """The time cells become the time; the fraction of the second goes on."""
        cells, decode = self._cells, self._decode
        seconds = seconds_since_1970(
            decode(cells[CENTURY]) * 100 + decode(cells[YEAR]),
            decode(cells[MONTH]),
            decode(cells[DAY_OF_MONTH]),
            self._decode_hour(cells[HOURS]),
            decode(cells[MINUTES]),
            decode(cells[SECONDS]),
        )
        self._offset += (seconds - self._time() // SECOND) * SECOND
        self._seen_second = seconds

    def _encode(self, value: int) -> int:
        return value if self._cells[B] & B_DM else value // 10 << 4 | value % 10

    def _decode(self, byte: int) -> int:
        return byte if self._cells[B] & B_DM else (byte >> 4) * 10 + (byte & 0x0F)

    def _encode_hour(self, hour: int) -> int:
        if self._cells[B] & B_24H:
            return self._encode(hour)
        return self._encode(hour % 12 or 12) | (hour >= 12) << 7

    def _decode_hour(self, byte: int) -> int:
        if self._cells[B] & B_24H:
            return self._decode(byte)
        return self._decode(byte & 0x7F) % 12 + 12 * (byte >> 7)

    # Control

    def _control(self, cell: int, value: int) -> None:
        """A or B is written: the clock may stop or go on, and interrupts come or not."""
        self._catch_up()
        was_stopped, was_reset = self._stopped(), self._divider_reset()
        if not was_stopped:
            self._show_time()
        if cell == A:
            value &= ~A_UIP
        elif value & B_SET:
            value &= ~B_UIE  # "or the SET bit going high clears the UIE bit"
        self._cells[cell] = value
        if was_reset and not self._divider_reset():
            self._divider_start = self._clock.now()
            self._offset += (FIRST_UPDATE - self._time()) % SECOND
        if was_stopped and not self._stopped():
            self._set_time()
        self._arrange()

    # Interrupts

    def _read_flags(self) -> int:
        self._catch_up()
        flags = self._flags | (C_IRQF if self._level else 0)
        self._flags = 0
        self._arrange()
        return flags

    def _catch_up(self) -> None:
        """Set the flags of what has happened since the last time."""
        now = self._clock.now()
        if self._periods(self._seen) < self._periods(now):
            self._flags |= C_PF
        self._seen = now
        if not self._stopped():
            second = self._time() // SECOND
            if self._seen_second < second:
                self._flags |= C_UF
                alarm = self._next_alarm()
                if alarm is not None and alarm <= second:
                    self._flags |= C_AF
            # Where the host's clock is set back, so is the guest's, without an update.
            self._seen_second = second

    def _arrange(self) -> None:
        """The line follows the flags, and the timer is set for the next that could raise it."""
        level = bool(self._flags & self._cells[B] & INTERRUPTS)
        if level != self._level:
            self._level = level
            self._irq.set(level)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # Once it is up, the line stays until the guest reads C: nothing can come that changes it.
        if not level:
            when = min(self._upcoming(), default=None)
            if when is not None:
                self._timer = self._clock.call_at(when, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._catch_up()
        self._arrange()

    def _upcoming(self) -> Iterable[int]:
        """When, in the clock's ns, each of the enabled interrupts comes next."""
        enabled, now = self._cells[B], self._clock.now()
        period = self._period()
        if enabled & B_PIE and period:
            ticks = (self._periods(now) + 1) * period
            yield self._divider_start - -ticks * SECOND // CRYSTAL
        if not self._stopped():
            guest_time = self._time()
            if enabled & B_UIE:
                yield now + SECOND - guest_time % SECOND
            alarm = self._next_alarm() if enabled & B_AIE else None
            if alarm is not None:
                yield now + alarm * SECOND - guest_time

    def _period(self) -> int:
        """The rate that A chooses, as a period in ticks of the crystal; 0 for none (Table 5)."""
        rate = self._cells[A] & A_RATE
        if not rate or self._divider_reset():
            return 0
        # The two highest rates are not there with this crystal; their codes stand for 256 and 128 Hz.
        return 1 << (rate + 6 if rate <= 2 else rate - 1)

    def _periods(self, now: int) -> int:
        """How many periods the divider has counted by ``now``."""
        period = self._period()
        return (now - self._divider_start) * CRYSTAL // SECOND // period if period else 0

    def _next_alarm(self) -> int | None:
        """The first second after the one seen last in which the alarm cells match, if they ever do."""
        hours = self._matching(self._cells[HOURS_ALARM], self._encode_hour, 24)
        minutes = self._matching(self._cells[MINUTES_ALARM], self._encode, 60)
        seconds = self._matching(self._cells[SECONDS_ALARM], self._encode, 60)
        if not (hours and minutes and seconds):
            return None
        second = self._seen_second + 1
        # At most to the next hour 24 times, to the next minute 60 times, to the next second 60 times.
        while True:
            if second // 3600 % 24 not in hours:
                second += 3600 - second % 3600
            elif second // 60 % 60 not in minutes:
                second += 60 - second % 60
            elif second % 60 not in seconds:
                second += 1
            else:
                return second

    def _matching(self, byte: int, encode: Callable[[int], int], count: int) -> list[int]:
        """Which of the values below ``count`` an alarm cell stands for."""
        return [value for value in range(count) if byte >= DO_NOT_CARE or byte == encode(value)]

    # State

    def save(self) -> State:
        return {
            "version": 1,
            "index": self._index,
            "cells": bytes(self._cells),
            "offset": self._offset,
            "divider_start": self._divider_start,
            "flags": self._flags,
            "seen": self._seen,
            "seen_second": self._seen_second,
        }

    def load(self, state: State) -> None:
        self._index = state["index"]
        self._cells[:] = state["cells"]
        self._offset = state["offset"]
        self._divider_start = state["divider_start"]
        self._flags = state["flags"]
        self._seen = state["seen"]
        self._seen_second = state["seen_second"]
        self._catch_up()
        self._arrange()
        self._irq.set(self._level)


def seconds_since_1970(year: int, month: int, day: int, hour: int, minute: int, second: int) -> int:
    """The seconds from 1970-01-01 00:00 to a date; a part that is too large or small rolls over."""
    # Counted from March, the leap day is a year's last and the months' lengths are regular.
    year, month = divmod(year * 12 + month - 3, 12)
    days = year * 365 + year // 4 - year // 100 + year // 400 + (month * 153 + 2) // 5 + day - 1
    days -= 719468  # from 0000-03-01 to 1970-01-01
    return ((days * 24 + hour) * 60 + minute) * 60 + second
