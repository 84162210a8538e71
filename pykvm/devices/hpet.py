"""The HPET (high precision event timers): a counter of 100 MHz and three comparators, at 0xFED0_0000.

A machine has it where its file says ``hpet: true``. Its interrupts come by lines, not by messages (FSB); in
legacy replacement mode comparator 0 takes the PIT's interrupt and comparator 1 the RTC's.

Registers are of 64 bits and can be reached by halves.

Source: IA-PC HPET Specification 1.0a (2004) §2.3.
"""

from __future__ import annotations

from pykvm.devices.hpettimer import M64, TICK, Comparator

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.devices.device import Clock, Line, State

# offset, name, access, value after reset, section
REGISTERS = (
    (0x000, "GCAP_ID", "R", 0x0098_9680_8086_A201, "2.3.4: 10 ns, 3 comparators, 64 bits"),
    (0x010, "GEN_CONF", "RW", 0, "2.3.5"),
    (0x020, "GINTR_STA", "RW1C", 0, "2.3.6"),
    (0x0F0, "MAIN_CNT", "RW", 0, "2.3.7"),
    *((0x100 + 0x20 * n, f"T{n}_CONFIG", "RW", 0x30, "2.3.8") for n in range(3)),
    *((0x108 + 0x20 * n, f"T{n}_COMPARATOR", "RW", M64, "2.3.9") for n in range(3)),
    *((0x110 + 0x20 * n, f"T{n}_FSB_ROUTE", "R", 0, "2.3.10: no FSB interrupts") for n in range(3)),
)
GCAP_ID, GEN_CONF, GINTR_STA, MAIN_CNT = 0x000, 0x010, 0x020, 0x0F0
TIMERS_AT, TIMER_SIZE = 0x100, 0x20
TN_CONFIG, TN_COMPARATOR = 0x00, 0x08

# GCAP_ID: the period in femtoseconds, the vendor, and what there is
VENDOR = 0x8086
LEG_RT_CAP = 1 << 15
COUNT_SIZE_CAP = 1 << 13
REVISION = 1
TIMERS = 3
CAPABILITIES = TICK * 10**6 << 32 | VENDOR << 16 | LEG_RT_CAP | COUNT_SIZE_CAP | (TIMERS - 1) << 8 | REVISION

# GEN_CONF
ENABLE_CNF = 1 << 0
LEG_RT_CNF = 1 << 1


class Hpet:
    """``routes`` are the inputs of the IOAPIC that a comparator may choose, by number.

    ``legacy`` are the lines that comparators 0 and 1 take in legacy replacement mode, and ``on_legacy`` is
    told when it begins and ends: the PIT and the RTC are to be cut off.
    """

    def __init__(
        self,
        routes: dict[int, Line],
        legacy: tuple[Line, Line],
        clock: Clock,
        on_legacy: Callable[[bool], None],
    ) -> None:
        self._clock = clock
        self._on_legacy = on_legacy
        self._config = 0
        self._status = 0
        self._offset = 0  # what the counter holds while it stands; while it runs, less the clock's ticks
        self._timers = [
            Comparator(routes, line, clock, self._running, self._fired(1 << number))
            for number, line in enumerate((*legacy, None))
        ]

    # The main counter

    def _ticks(self) -> int:
        return self._clock.now() // TICK

    def _counter(self) -> int:
        ticks = self._ticks() if self._config & ENABLE_CNF else 0
        return self._offset + ticks & M64

    def _running(self) -> int | None:
        return self._counter() if self._config & ENABLE_CNF else None

    # The driver's side

    def read(self, offset: int, size: int) -> int:
        return self._register(offset & ~7) >> 8 * (offset & 7)

    def _register(self, offset: int) -> int:
        if offset >= TIMERS_AT:
            number, register = divmod(offset - TIMERS_AT, TIMER_SIZE)
            if number < TIMERS and register == TN_CONFIG:
                return self._timers[number].config
            if number < TIMERS and register == TN_COMPARATOR:
                return self._timers[number].read()
            return 0
        if offset == GCAP_ID:
            return CAPABILITIES
        if offset == GEN_CONF:
            return self._config
        if offset == GINTR_STA:
            return self._status
        return self._counter() if offset == MAIN_CNT else 0

    def write(self, offset: int, size: int, value: int) -> None:
        shift = 8 * (offset & 7)
        mask = (1 << 8 * size) - 1 << shift & M64
        value = value << shift & M64
        offset &= ~7
        if offset >= TIMERS_AT:
            number, register = divmod(offset - TIMERS_AT, TIMER_SIZE)
            if number < TIMERS and register == TN_CONFIG:
                timer = self._timers[number]
                timer.set_config(timer.config & ~mask | value)
                if not timer.is_level:
                    self._status &= ~(1 << number)
            elif number < TIMERS and register == TN_COMPARATOR:
                self._timers[number].write(value, mask)
        elif offset == GEN_CONF:
            self._configure(self._config & ~mask | value)
        elif offset == GINTR_STA:
            self._end(value)
        elif offset == MAIN_CNT:
            # "Only when the counter is halted" (§2.3.7); what is written while it runs counts all the same.
            self._set_counter(self._counter() & ~mask | value)
            self._arrange()

    def _set_counter(self, value: int) -> None:
        self._offset = value - (self._ticks() if self._config & ENABLE_CNF else 0) & M64

    def _configure(self, value: int) -> None:
        value &= ENABLE_CNF | LEG_RT_CNF
        counter = self._counter()
        changed = self._config ^ value
        self._config = value
        self._set_counter(counter)
        if changed & LEG_RT_CNF:
            self._replace(bool(value & LEG_RT_CNF))
        if changed & ENABLE_CNF:
            if not value & ENABLE_CNF:
                for timer in self._timers:
                    timer.lower()
            self._arrange()

    def _replace(self, on: bool) -> None:
        self._on_legacy(on)
        for timer in self._timers[:2]:
            timer.replace(on)

    def _arrange(self) -> None:
        for timer in self._timers:
            timer.arrange()

    # Interrupts

    def _fired(self, bit: int) -> Callable[[], None]:
        def fired() -> None:
            self._status |= bit

        return fired

    def _end(self, bits: int) -> None:
        for number, timer in enumerate(self._timers):
            if bits & self._status & 1 << number:
                self._status &= ~(1 << number)
                timer.lower()

    # State

    def save(self) -> State:
        return {
            "version": 1,
            "config": self._config,
            "status": self._status,
            "counter": self._counter(),
            "timers": [timer.save() for timer in self._timers],
        }

    def load(self, state: State) -> None:
        self._config = state["config"] & (ENABLE_CNF | LEG_RT_CNF)
        self._status = state["status"]
        self._set_counter(state["counter"])
        self._replace(bool(self._config & LEG_RT_CNF))
        for timer, saved in zip(self._timers, state["timers"], strict=True):
            timer.load(saved)
