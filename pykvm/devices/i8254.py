"""One counter of an i8254, as a function of time.

Nothing counts here. A count that was loaded at some pulse of the clock determines its value, its
output and its next edge at every later pulse, so each is computed when somebody looks, and nothing
drifts. A *pulse* is the number of a clock pulse since the machine's time 0; all three counters of a
chip share them.

Source: Intel 8254 data sheet (231164), "Mode definitions" and "Read operations".
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.devices.device import State

# Control word, bits 5–4: how the 16 bits pass through the one port.
ACCESS_LOW = 1
ACCESS_HIGH = 2
ACCESS_BOTH = 3

# Control word, bits 3–1. 6 and 7 are 2 and 3 again.
MODE_TERMINAL_COUNT = 0
MODE_ONE_SHOT = 1
MODE_RATE = 2
MODE_SQUARE = 3
MODE_SOFTWARE_STROBE = 4
MODE_HARDWARE_STROBE = 5

PERIODIC = (MODE_RATE, MODE_SQUARE)
TRIGGERED = (MODE_ONE_SHOT, MODE_HARDWARE_STROBE)

CONTROL_BCD = 0x01

# Status byte (read-back): bits 5–0 are the control word's.
STATUS_OUT = 0x80
STATUS_NULL_COUNT = 0x40


class Run:
    """A count on its way down.

    ``size`` is the count loaded (1 to 65536), ``base`` the pulse at which its first period begins,
    ``start`` the pulse that loads it (they differ where a square wave starts with its low half), and
    ``stop`` the number of pulses after which a low gate holds it, None if nothing does.
    """

    __slots__ = ("base", "mode", "modulus", "size", "start", "stop")

    def __init__(self, mode: int, modulus: int, size: int, base: int, start: int, stop: int | None) -> None:
        self.mode = mode
        self.modulus = modulus
        self.size = size
        self.base = base
        self.start = start
        self.stop = stop

    @property
    def high(self) -> int:
        """Pulses for which a square wave is high: an odd count gives the high half one more."""
        return (self.size + 1) // 2

    def elapsed(self, pulse: int) -> int:
        passed = pulse - self.base
        return passed if self.stop is None else min(passed, self.stop)

    def hold(self, pulse: int) -> None:
        """The gate went low: keep the count that it has now, or its first if it isn't loaded yet."""
        self.stop = max(self.elapsed(pulse), 0)

    def resume(self, pulse: int) -> None:
        """The gate went high: count on."""
        self.base = pulse - self.elapsed(pulse)
        self.stop = None

    def value(self, pulse: int) -> int:
        """The counting element, in binary."""
        elapsed = self.elapsed(pulse)
        if self.mode == MODE_RATE:
            value = self.size - elapsed % self.size
        elif self.mode == MODE_SQUARE:
            phase = elapsed % self.size
            value = (self.size & ~1) - 2 * (phase if phase < self.high else phase - self.high)
        else:
            value = self.size - elapsed
        return value % self.modulus

    def out(self, pulse: int) -> bool:
        elapsed = self.elapsed(pulse)
        if self.mode == MODE_RATE:
            return elapsed % self.size != self.size - 1
        if self.mode == MODE_SQUARE:
            return elapsed % self.size < self.high
        if self.mode in (MODE_SOFTWARE_STROBE, MODE_HARDWARE_STROBE):
            return elapsed != self.size
        return elapsed >= self.size

    def rise_after(self, pulse: int) -> int | None:
        """The first later pulse at which OUT goes from low to high."""
        if self.stop is not None:
            return None
        if self.mode in PERIODIC:
            if self.size == 1:  # illegal in both modes: OUT never moves
                return None
            return self.base + self.size * ((pulse - self.base) // self.size + 1)
        rise = self.base + self.size
        if self.mode in (MODE_SOFTWARE_STROBE, MODE_HARDWARE_STROBE):
            rise += 1
        return rise if rise > pulse else None

    def reload_after(self, pulse: int) -> int:
        """The first later pulse at which a periodic mode takes a new count."""
        cycle = pulse - (pulse - self.base) % self.size
        half = cycle + self.high
        return half if self.mode == MODE_SQUARE and half > pulse else cycle + self.size


class Counter:
    """A counter behind its port: control, the two halves of a count, latches, and the gate."""

    def __init__(self, *, gate: bool) -> None:
        self.gate = gate
        self._control = ACCESS_BOTH << 4
        self._size: int | None = None  # the count register, None from a control word to its count
        self._null = True  # the count register has not reached the counting element
        self._still = (0, False)  # value and OUT while nothing runs
        self._run: Run | None = None
        self._next: Run | None = None  # takes over at its start
        self._first: int | None = None  # low byte written, high byte to come
        self._high_next = False  # low byte read, high byte to come
        self._latched: int | None = None
        self._status: int | None = None

    @property
    def _mode(self) -> int:
        mode = self._control >> 1 & 7
        return mode & 3 if mode > MODE_HARDWARE_STROBE else mode

    @property
    def _access(self) -> int:
        return self._control >> 4 & 3

    @property
    def _modulus(self) -> int:
        return 10000 if self._control & CONTROL_BCD else 0x10000

    # What the pins and the counting element show.

    def _settle(self, pulse: int) -> None:
        if self._next is not None and pulse >= self._next.start:
            self._run, self._next, self._null = self._next, None, False

    def out(self, pulse: int) -> bool:
        """The level of OUT."""
        self._settle(pulse)
        return self._run.out(pulse) if self._run is not None else self._still[1]

    def rise_after(self, pulse: int) -> int | None:
        """The first later pulse at which OUT goes from low to high, as things are now."""
        rise = self._run.rise_after(pulse) if self._run is not None else None
        if self._next is not None and (rise is None or rise > self._next.start):
            rise = self._next.rise_after(max(pulse, self._next.start))
        return rise

    def _value(self, pulse: int) -> int:
        """The counting element as it reads: binary or four decimal digits."""
        value = self._run.value(pulse) if self._run is not None else self._still[0]
        return int(str(value % 10000), 16) if self._control & CONTROL_BCD else value

    # What the driver does.

    def program(self, control: int, pulse: int) -> None:
        """Take bits 5–0 of a control word: OUT goes to the mode's first level at once."""
        self._settle(pulse)
        value = self._run.value(pulse) if self._run is not None else self._still[0]
        self._control = control
        self._still = value, self._mode != MODE_TERMINAL_COUNT
        self._size = self._run = self._next = None
        self._null = True
        self._first = self._latched = self._status = None
        self._high_next = False

    def write(self, byte: int, pulse: int) -> None:
        """Take one byte of a count."""
        self._settle(pulse)
        if self._access == ACCESS_LOW:
            self._load(byte, pulse)
        elif self._access == ACCESS_HIGH:
            self._load(byte << 8, pulse)
        elif self._first is None:
            self._first = byte
            if self._mode == MODE_TERMINAL_COUNT:  # "Writing the first byte disables counting"
                self._stop(pulse, out=False)
        else:
            count = byte << 8 | self._first
            self._first = None
            self._load(count, pulse)

    def latch(self, pulse: int) -> None:
        """Hold the count until it is read; a second latch before that changes nothing."""
        self._settle(pulse)
        if self._latched is None:
            self._latched = self._value(pulse)

    def latch_status(self, pulse: int) -> None:
        """Hold the status byte until it is read."""
        if self._status is None:
            out = STATUS_OUT if self.out(pulse) else 0
            self._status = out | (STATUS_NULL_COUNT if self._null else 0) | self._control

    def read(self, pulse: int) -> int:
        """Give one byte: the status if latched, else of the latched count, else of the count now."""
        if self._status is not None:
            status, self._status = self._status, None
            return status
        self._settle(pulse)
        value = self._value(pulse) if self._latched is None else self._latched
        if self._access == ACCESS_BOTH and not self._high_next:
            self._high_next = True
            return value & 0xFF
        self._high_next = False
        self._latched = None
        return value & 0xFF if self._access == ACCESS_LOW else value >> 8

    def set_gate(self, level: bool, pulse: int) -> None:
        """Set the GATE input. Its rise is the trigger of modes 1, 2, 3 and 5."""
        self._settle(pulse)
        if level == self.gate:
            return
        self.gate = level
        if self._mode in PERIODIC and not level:  # "OUT is set high immediately"
            self._stop(pulse, out=True, loading=True)
        if self._mode in (*PERIODIC, *TRIGGERED):
            if level and self._size is not None:
                self._next = self._loaded(self._size, pulse + 1)
            return
        for run in (self._run, self._next):
            if run is not None and level:
                run.resume(pulse)
            elif run is not None:
                run.hold(pulse)

    def _stop(self, pulse: int, *, out: bool, loading: bool = False) -> None:
        """Stand still at the present value; with ``loading``, a first count is loaded all the same."""
        if self._run is None and self._next is not None and loading:
            self._next.hold(pulse)
        else:
            self._next = None
        value = self._run.value(pulse) if self._run is not None else self._still[0]
        self._still = value, out
        self._run = None

    def _loaded(self, size: int, start: int) -> Run:
        """The count ``size`` as pulse ``start`` loads it; a low gate lets it be loaded, not count."""
        held = not self.gate and self._mode not in TRIGGERED
        return Run(self._mode, self._modulus, size, start, start, 0 if held else None)

    def _load(self, count: int, pulse: int) -> None:
        """A whole count was written: say when it is loaded."""
        if self._control & CONTROL_BCD:
            count = sum((count >> 4 * digit & 0xF) * 10**digit for digit in range(4)) % 10000
        unwritten = self._size is None
        self._size = size = count or self._modulus
        self._null = True
        mode = self._mode
        if mode in (MODE_TERMINAL_COUNT, MODE_SOFTWARE_STROBE):
            if mode == MODE_TERMINAL_COUNT:
                self._stop(pulse, out=False)
            self._next = self._loaded(size, pulse + 1)
        elif mode in TRIGGERED:
            if self._next is not None:
                self._next = self._loaded(size, self._next.start)
        elif unwritten:
            self._next = self._loaded(size, pulse + 1)
        elif self._next is not None and self._run is None:
            self._next = self._loaded(size, self._next.start)
        elif self._run is not None and self.gate:  # else the gate's rise will load it
            self._next = self._successor(self._run, size, pulse)

    def _successor(self, run: Run, size: int, pulse: int) -> Run:
        """What follows a periodic ``run`` when its period, or its half of a square wave, is over."""
        following = self._loaded(size, run.reload_after(pulse))
        if self._mode == MODE_SQUARE and run.out(following.start - 1):
            following.base -= following.high
        return following

    # Snapshots: pulses are told from the moment of saving.

    def save(self, pulse: int) -> State:
        self._settle(pulse)
        return {
            "gate": self.gate,
            "control": self._control,
            "size": self._size,
            "null": self._null,
            "still": list(self._still),
            "run": _save_run(self._run, pulse),
            "next": _save_run(self._next, pulse),
            "first": self._first,
            "high_next": self._high_next,
            "latched": self._latched,
            "status": self._status,
        }

    def load(self, state: State, pulse: int) -> None:
        self.gate = state["gate"]
        self._control = state["control"]
        self._size = state["size"]
        self._null = state["null"]
        self._still = state["still"][0], state["still"][1]
        self._run = _load_run(state["run"], pulse)
        self._next = _load_run(state["next"], pulse)
        self._first = state["first"]
        self._high_next = state["high_next"]
        self._latched = state["latched"]
        self._status = state["status"]


def _save_run(run: Run | None, pulse: int) -> list[int | None] | None:
    if run is None:
        return None
    return [run.mode, run.modulus, run.size, run.base - pulse, run.start - pulse, run.stop]


def _load_run(saved: list[int] | None, pulse: int) -> Run | None:
    if saved is None:
        return None
    mode, modulus, size, base, start, stop = saved
    return Run(mode, modulus, size, base + pulse, start + pulse, stop)
