"""One comparator of the HPET: when it fires, and what it does to its interrupt.

Its time is the HPET's main counter, in ticks of 10 ns, which the block tells it.

**Late and fast.** A periodic comparator that the host was late for fires once, and goes on with the period
that is running then: the main counter tells the guest how late it is. It never fires more often than every
100 µs, whatever period the guest writes.

Source: IA-PC HPET Specification 1.0a (2004) §2.3.8 and §2.3.9.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.devices.device import Clock, Line, State, Timer

TICK = 10  # ns

# Tn_CONFIG (§2.3.8)
TN_INT_TYPE_CNF = 1 << 1  # 1 level, 0 edge
TN_INT_ENB_CNF = 1 << 2
TN_TYPE_CNF = 1 << 3  # 1 periodic
TN_PER_INT_CAP = 1 << 4
TN_SIZE_CAP = 1 << 5
TN_VAL_SET_CNF = 1 << 6
TN_32MODE_CNF = 1 << 8
TN_INT_ROUTE_SHIFT = 9
TN_INT_ROUTE_CNF = 0x1F << TN_INT_ROUTE_SHIFT
TN_INT_ROUTE_CAP_SHIFT = 32
TN_WRITABLE = (
    TN_INT_TYPE_CNF | TN_INT_ENB_CNF | TN_TYPE_CNF | TN_VAL_SET_CNF | TN_32MODE_CNF | TN_INT_ROUTE_CNF
)

M32, M64 = (1 << 32) - 1, (1 << 64) - 1
CLOSEST = 100_000 // TICK  # ticks between two interrupts of a periodic comparator


class Comparator:
    """``line`` of a route number is where its interrupt goes; ``legacy`` takes that line's place while
    the block is in legacy replacement mode. ``counter`` is None while the main counter stands.
    """

    def __init__(
        self,
        routes: dict[int, Line],
        legacy: Line | None,
        clock: Clock,
        counter: Callable[[], int | None],
        fired: Callable[[], None],
    ) -> None:
        self._routes = routes
        self._legacy = legacy
        self._clock = clock
        self._counter = counter
        self._fired = fired  # called when a level is raised: its bit in GINTR_STA is to be set
        self._replaces = False
        self._config = 0
        self._comparator = M64
        self._period = 0
        self._timer: Timer | None = None
        self._high: Line | None = None

    # Registers

    @property
    def config(self) -> int:
        """Tn_CONFIG with the bits that say what it can."""
        routes = sum(1 << route for route in self._routes)
        return self._config | TN_PER_INT_CAP | TN_SIZE_CAP | routes << TN_INT_ROUTE_CAP_SHIFT

    def set_config(self, value: int) -> None:
        value &= TN_WRITABLE
        # "If the software writes a value to this field that is not supported ... the value read back will
        # not match": it keeps the route that it had.
        if value >> TN_INT_ROUTE_SHIFT & 0x1F not in self._routes:
            value = value & ~TN_INT_ROUTE_CNF | self._config & TN_INT_ROUTE_CNF
        self._config = value
        if value & TN_32MODE_CNF:
            self._comparator &= M32
            self._period &= M32
        if not self.is_level:
            self.lower()
        self.arrange()

    @property
    def is_level(self) -> bool:
        return bool(self._config & TN_INT_TYPE_CNF)

    def read(self) -> int:
        """Tn_COMPARATOR: for a periodic timer the value that comes next."""
        return self._comparator

    def write(self, value: int, mask: int) -> None:
        """Write the bits of ``mask``; what is written to a periodic timer is its period, too."""
        limit = self._limit
        periodic = bool(self._config & TN_TYPE_CNF)
        if not periodic or self._config & TN_VAL_SET_CNF:
            self._comparator = (self._comparator & ~mask | value & mask) & limit
        if periodic:
            self._period = (self._period & ~mask | value & mask) & limit
        if mask >> 32 or limit == M32:  # whole: the bit clears itself with the write that uses it
            self._config &= ~TN_VAL_SET_CNF
        self.arrange()

    @property
    def _limit(self) -> int:
        return M32 if self._config & TN_32MODE_CNF else M64

    # Time

    def arrange(self) -> None:
        """Set the clock for the next match, if it would be noticed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        counter = self._counter()
        if counter is None or not self._config & TN_INT_ENB_CNF:
            return
        ticks = (self._comparator - counter & self._limit) or self._limit
        if ticks >> 62:
            return  # in a thousand years
        self._timer = self._clock.call_at(self._clock.now() + ticks * TICK, self._match)

    def _match(self) -> None:
        self._timer = None
        counter = self._counter()
        if counter is None:
            return
        if self._config & TN_TYPE_CNF and self._period:
            step = max(self._period, CLOSEST)
            late = (counter - self._comparator & self._limit) // step
            self._comparator = self._comparator + (late + 1) * step & self._limit
        self.arrange()
        if self.is_level:
            self._fired()
            self._raise()
        else:
            self._raise()
            self.lower()

    # The interrupt

    def replace(self, on: bool) -> None:
        """Legacy replacement: the interrupt goes where the PIT's or the RTC's goes."""
        if on != self._replaces:
            self.lower()
            self._replaces = on

    def _raise(self) -> None:
        line = self._routes.get(self._config >> TN_INT_ROUTE_SHIFT & 0x1F)
        if self._replaces and self._legacy is not None:
            line = self._legacy
        if line is not None:
            self._high = line
            line.set(True)

    def lower(self) -> None:
        """Take the interrupt back, as the guest has seen it."""
        if self._high is not None:
            self._high.set(False)
            self._high = None

    # State

    def save(self) -> State:
        return {
            "config": self._config,
            "comparator": self._comparator,
            "period": self._period,
            "high": self._high is not None,
        }

    def load(self, state: State) -> None:
        """Take back what ``save`` gave; the block's own state and counter are there already."""
        self.lower()
        self._config = state["config"] & TN_WRITABLE
        self._comparator = state["comparator"]
        self._period = state["period"]
        if state["high"]:
            self._raise()
        self.arrange()
