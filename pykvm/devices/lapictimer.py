"""The timer of a local APIC: one-shot, periodic, or at a value of the TSC.

Nothing counts here: a count that was loaded at some time determines its value at every later one. The
clock is asked for a call only for an interrupt that the LVT lets through, and one call at most is
outstanding. It is left alone where the guest moves its timer to a later hour, as kernels do all the
time, and finds out when it comes that it has to wait on.

**Late ticks.** Periods that the host missed are made up one by one, twice as fast as they were
programmed; those more than 250 ms old are dropped. Two ticks are never less than 100 µs apart.

Source: Intel SDM vol. 3A §10.5.4.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.devices.device import Clock, State, Timer

TIMER_HZ = 1_000_000_000
"""Counts a second at divisor 1: one is a nanosecond. CPUID leaf 0x15 (ECX) tells guests, as the crystal's."""

# LVT timer register, bits 18–17
ONE_SHOT = 0
PERIODIC = 1
TSC_DEADLINE = 2
COUNTING = (ONE_SHOT, PERIODIC)

SECOND = 1_000_000_000
LATEST_TICK = 250_000_000  # ns: older ticks are dropped
CLOSEST_TICKS = 100_000  # ns between two ticks at least


class ApicTimer:
    """``expired`` is called for each interrupt; ``tsc`` reads the guest's TSC, ``tsc_hz`` is its rate.

    Times are the clock's, in ns.
    """

    def __init__(
        self, clock: Clock, tsc: Callable[[], int], tsc_hz: int, expired: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._tsc = tsc
        self._tsc_hz = tsc_hz
        self._expired = expired
        self._call: Timer | None = None  # what the clock was asked for, …
        self._call_at = 0  # … and when it comes
        self.reset()

    def reset(self) -> None:
        self._mode = ONE_SHOT
        self._heard = False  # an interrupt would get through the LVT
        self.divide = 0  # the register
        self.initial = 0
        self._began: int | None = None  # when the count was at its initial value; None: it stands at 0
        self._deadline = 0  # of the TSC; 0: none
        self._expiry: int | None = None  # when the next interrupt is due, if anybody hears it, …
        self._not_before = 0  # … and when it may come

    # The registers

    def configure(self, mode: int, heard: bool) -> None:
        """The LVT changed: its mode (bits 18–17), and whether it lets an interrupt through."""
        if (mode, heard) == (self._mode, self._heard):
            return
        self._settle()
        if mode != self._mode and not (mode in COUNTING and self._mode in COUNTING):
            # "Transitioning between TSC-deadline mode and other timer modes also disarms the timer."
            self._began, self.initial, self._deadline = None, 0, 0
        self._mode, self._heard = mode, heard
        self._plan()

    def set_divide(self, value: int) -> None:
        """The divide configuration register: bits 3, 1, 0 are 0 for 2, 1 for 4, …, 6 for 128, 7 for 1."""
        if value == self.divide:
            return
        self._settle()
        current = self.current()
        self.divide = value
        if self._began is not None:
            self._began = self._clock.now() - (self.initial - current << self._shift)
        self._plan()

    @property
    def _shift(self) -> int:
        """The divisor as a power of two."""
        return (self.divide & 3 | self.divide >> 1 & 4) + 1 & 7

    @property
    def _length(self) -> int:
        """How long a whole count takes."""
        return self.initial << self._shift

    def set_initial(self, count: int) -> None:
        """The initial count register starts the count; 0 stops it. Without effect in TSC-deadline mode."""
        if self._mode in COUNTING:
            self._settle()
            self.initial = count
            self._began = self._clock.now() if count else None
            self._plan()

    def current(self) -> int:
        """The current count register."""
        if self._began is None:
            return 0
        passed = self._clock.now() - self._began
        if self._mode == PERIODIC:
            passed %= self._length
        return max(self.initial - (passed >> self._shift), 0)

    @property
    def deadline(self) -> int:
        """IA32_TSC_DEADLINE: 0 once it has passed."""
        return self._deadline if self._tsc() < self._deadline else 0

    def set_deadline(self, tsc: int) -> None:
        """Write IA32_TSC_DEADLINE: 0 disarms. Without effect in the other modes."""
        if self._mode == TSC_DEADLINE:
            self._settle()
            self._deadline = tsc
            self._plan()

    def tsc_moved(self) -> None:
        """The guest has written its TSC, so that a deadline is nearer or farther."""
        if self._deadline:
            self._plan()

    # Time

    def _settle(self) -> None:
        """What has passed has passed: the interrupt that is due comes, and a count or deadline ends."""
        self._expire_if_due()
        now = self._clock.now()
        if self._began is not None:
            length = self._length
            if self._mode == PERIODIC:
                self._began = now - (now - self._began) % length
            elif now - self._began >= length:
                self._began = None
        self._deadline = self.deadline

    def _plan(self) -> None:
        """Find when the next interrupt is due, as things are now, and see to it."""
        self._not_before = 0
        self._expiry = None
        if self._heard and self._deadline:
            left = max(self._deadline - self._tsc(), 0)
            self._expiry = self._clock.now() - (-left * SECOND // self._tsc_hz)
        elif self._heard and self._began is not None:
            self._expiry = self._began + self._length
        self._expire_if_due()
        self._ask_for_call()

    def _expire_if_due(self) -> None:
        now = self._clock.now()
        if self._expiry is None or now < max(self._expiry, self._not_before):
            return
        if self._mode == TSC_DEADLINE:
            left = self._deadline - self._tsc()
            if left > 0:  # clock and TSC don't run quite alike
                self._expiry = now - (-left * SECOND // self._tsc_hz)
                return
            self._deadline, self._expiry = 0, None
        elif self._mode == PERIODIC:
            length = self._length
            missed = max(now - LATEST_TICK - self._expiry, 0) // length
            self._expiry += (missed + 1) * length
            self._not_before = now + max(length // 2, CLOSEST_TICKS)
        else:
            self._began = self._expiry = None
        self._expired()

    def _ask_for_call(self) -> None:
        if self._expiry is None:
            return
        when = max(self._expiry, self._not_before)
        if self._call is not None:
            if self._call_at <= when:
                return
            self._call.cancel()
        self._call = self._clock.call_at(when, self._called)
        self._call_at = when

    def _called(self) -> None:
        self._call = None
        self._expire_if_due()
        self._ask_for_call()

    # State

    def save(self) -> State:
        now = self._clock.now()
        return {
            "mode": self._mode,
            "heard": self._heard,
            "divide": self.divide,
            "initial": self.initial,
            "passed": None if self._began is None else now - self._began,
            "deadline": self._deadline,
            "expiry": None if self._expiry is None else self._expiry - now,
        }

    def load(self, state: State) -> None:
        """Take back what ``save`` gave; the guest's TSC goes on from where it was already."""
        now = self._clock.now()
        self._mode, self._heard = state["mode"], state["heard"]
        self.divide = state["divide"]
        self.initial = state["initial"]
        self._began = None if state["passed"] is None else now - state["passed"]
        self._deadline = state["deadline"]
        self._expiry = None if state["expiry"] is None else state["expiry"] + now
        self._not_before = 0
        if self._deadline:
            self._plan()
        else:
            self._ask_for_call()
