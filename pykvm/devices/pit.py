"""The i8254 timer of a PC (ports 0x40 to 0x43) and the speaker's port (0x61).

OUT of counter 0 is IRQ 0, counter 1 once refreshed the memory, counter 2 drives the speaker and has
a gate that software sets. They run at 1193182 Hz and count by arithmetic (`i8254`). One timer at most
is outstanding, at counter 0's next rise, the only edge that an edge-triggered input notices; a guest
that reprograms the counter as fast as it can leaves cancelled timers of at most 55 ms behind.

**Late ticks.** When the host was late, the rises that were missed are made up one by one, twice as
fast as they were programmed, so that a guest which counts ticks keeps its time; those more than
250 ms old are dropped, and what was owed is forgotten when the guest loads another count. Two rises
are never less than 100 µs apart: a faster rate is cut to 10 kHz.

Source: Intel 8254 data sheet (231164); IBM PC AT Technical Reference, port 061h.
"""

from __future__ import annotations

from pykvm.devices.i8254 import Counter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.devices.device import Clock, Line, State, Timer

# offset, name, access, value after reset, source
REGISTERS = (
    (0, "COUNTER_0", "RW", None, "8254, write and read operations"),
    (1, "COUNTER_1", "RW", None, "8254, write and read operations"),
    (2, "COUNTER_2", "RW", None, "8254, write and read operations"),
    (3, "CONTROL", "W", None, "8254, control word, counter latch, read-back"),
)
SPEAKER_REGISTERS = ((0, "PORT_B", "RW", 0x00, "PC AT, port 061h"),)
PIT_PORT = 0x40
PIT_PORTS = 4
PIT_IRQ = 0
PIT_HZ = 1_193_182
SPEAKER_PORT = 0x61

CONTROL = 3
CONTROL_COUNTER_SHIFT = 6
CONTROL_READ_BACK = 3
CONTROL_ACCESS = 0x30  # 0 here is the counter latch command
CONTROL_PROGRAM = 0x3F  # access, mode and BCD, which the counter keeps
READ_BACK_NO_COUNT = 0x20
READ_BACK_NO_STATUS = 0x10
READ_BACK_COUNTER_0 = 0x02

PORT_B_GATE2 = 0x01
PORT_B_SPEAKER = 0x02
PORT_B_REFRESH = 0x10
PORT_B_OUT2 = 0x20
REFRESH_PULSES = 18  # counter 1 as a PC's firmware programs it: a toggle each 15 µs

SECOND = 1_000_000_000
LATEST_RISE = PIT_HZ // 4  # in pulses: older rises are dropped
CLOSEST_RISES = 100_000  # ns between two rises at least


class Pit:
    """The timer chip. ``speaker`` is a device of its own, for port 0x61."""

    def __init__(self, irq: Line, clock: Clock) -> None:
        self._irq = irq
        self._clock = clock
        self._counters = (Counter(gate=True), Counter(gate=True), Counter(gate=False))
        self._rise: int | None = None  # pulse of counter 0's next rise that the line hasn't seen
        self._not_before = 0  # ns: when the line may rise again
        self._timer: Timer | None = None
        self.speaker = Speaker(self._counters[2], self._pulse)

    def read(self, offset: int, size: int) -> int:
        return 0xFF if offset == CONTROL else self._counters[offset].read(self._pulse())

    def write(self, offset: int, size: int, value: int) -> None:
        pulse = self._pulse()
        select = value >> CONTROL_COUNTER_SHIFT if offset == CONTROL else offset
        if select == CONTROL_READ_BACK:
            self._read_back(value, pulse)
        elif offset == CONTROL and not value & CONTROL_ACCESS:
            self._counters[select].latch(pulse)
        else:
            if select == 0:
                self._before_change(pulse)
            if offset == CONTROL:
                self._counters[select].program(value & CONTROL_PROGRAM, pulse)
            else:
                self._counters[select].write(value, pulse)
            if select == 0:
                self._after_change(pulse)

    def _read_back(self, value: int, pulse: int) -> None:
        for number, counter in enumerate(self._counters):
            if value & READ_BACK_COUNTER_0 << number:
                if not value & READ_BACK_NO_COUNT:
                    counter.latch(pulse)
                if not value & READ_BACK_NO_STATUS:
                    counter.latch_status(pulse)

    # Time, in pulses of the chip's clock, and counter 0's output.

    def _pulse(self) -> int:
        return self._clock.now() * PIT_HZ // SECOND

    def _before_change(self, pulse: int) -> None:
        self._rise_if_due(pulse)
        self._irq.set(self._counters[0].out(pulse))

    def _after_change(self, pulse: int) -> None:
        counter = self._counters[0]
        self._irq.set(counter.out(pulse))
        self._rise = counter.rise_after(pulse)
        self._not_before = min(self._not_before, self._clock.now() + CLOSEST_RISES)
        self._arm()

    def _rise_if_due(self, pulse: int) -> None:
        rise = self._rise
        if rise is None or rise > pulse:
            return
        self._irq.set(False)
        self._irq.set(True)
        since = max(rise, pulse - LATEST_RISE)
        self._rise = self._counters[0].rise_after(since)
        half = 0 if self._rise is None else (self._rise - since) * SECOND // PIT_HZ // 2
        self._not_before = self._clock.now() + max(half, CLOSEST_RISES)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._rise is not None:
            due = -(-self._rise * SECOND // PIT_HZ)
            self._timer = self._clock.call_at(max(due, self._not_before), self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._rise_if_due(self._pulse())
        self._arm()

    def save(self) -> State:
        pulse = self._pulse()
        return {
            "version": 1,
            "counters": [counter.save(pulse) for counter in self._counters],
            "rise": None if self._rise is None else self._rise - pulse,
        }

    def load(self, state: State) -> None:
        pulse = self._pulse()
        for counter, saved in zip(self._counters, state["counters"]):
            counter.load(saved, pulse)
        self._rise = None if state["rise"] is None else state["rise"] + pulse
        self._not_before = 0
        self._irq.set(self._counters[0].out(pulse))
        self._arm()


class Speaker:
    """Port 0x61: counter 2's gate and output, and the refresh bit by which old code waits."""

    def __init__(self, counter: Counter, pulse: Callable[[], int]) -> None:
        self._counter = counter
        self._pulse = pulse
        self._on = False

    def read(self, offset: int, size: int) -> int:
        pulse = self._pulse()
        return (
            (PORT_B_GATE2 if self._counter.gate else 0)
            | (PORT_B_SPEAKER if self._on else 0)
            | (PORT_B_REFRESH if pulse // REFRESH_PULSES & 1 else 0)
            | (PORT_B_OUT2 if self._counter.out(pulse) else 0)
        )

    def write(self, offset: int, size: int, value: int) -> None:
        self._on = bool(value & PORT_B_SPEAKER)
        self._counter.set_gate(bool(value & PORT_B_GATE2), self._pulse())

    def save(self) -> State:
        """The speaker's bit; the gate is saved with the timer."""
        return {"version": 1, "on": self._on}

    def load(self, state: State) -> None:
        self._on = state["on"]
