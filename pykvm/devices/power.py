"""ACPI fixed hardware: the PM1 event and control blocks, the PM timer, and the reset register.

ACPI is always enabled: there is no SMI command port, and SCI_EN reads 1. There is no GPE block.
The power button is the fixed one (PWRBTN_STS), the only sleep state is S5.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.devices.device import Clock, Line, State, Timer

# offset, name, access, value after reset, section of ACPI 6.5
REGISTERS = (
    (0, "PM1_STS", "RW1C", 0x0000, "4.8.4.1.1"),
    (2, "PM1_EN", "RW", 0x0000, "4.8.4.1.2"),
    (4, "PM1_CNT", "RW", 0x0001, "4.8.4.2.1"),
    (8, "PM_TMR", "R", None, "4.8.4.3"),
)
RESET_REGISTERS = ((0, "RST_CNT", "RW", 0x00, "Intel PIIX3, RC, port CF9h; ACPI 6.5 §4.8.4.6"),)
SCI_IRQ = 9

# The blocks as the FADT tells them: port and length in bytes.
PM_PORT = 0x600
PM_PORTS = 12
PM1_EVT_BLK = 0x600
PM1_EVT_LEN = 4
PM1_CNT_BLK = 0x604
PM1_CNT_LEN = 2
PM_TMR_BLK = 0x608
PM_TMR_LEN = 4
RESET_REG = 0xCF9
RESET_VALUE = 0x06

# PM1_STS and PM1_EN
TMR_STS = 1 << 0
GBL_STS = 1 << 5
PWRBTN_STS = 1 << 8
RTC_STS = 1 << 10
# The events that can be enabled. GBL_STS has no firmware to set it, and RTC_STS no sleep to wake from, but
# Linux reads back the enable of the clock's event and complains where it didn't stick.
ENABLES = TMR_STS | GBL_STS | PWRBTN_STS | RTC_STS

# PM1_CNT
SCI_EN = 1 << 0
BM_RLD = 1 << 1
SLP_TYP = 7 << 10
SLP_TYP_SHIFT = 10
SLP_EN = 1 << 13  # write only
SLP_TYP_S5 = 5  # what \_S5 says

PM_TIMER_HZ = 3_579_545
TMR_HALF = 1 << 31  # TMR_STS tells each change of the timer's top bit
SECOND = 1_000_000_000

# Reset control: SYS_RST and FULL_RST say how hard, RST_CPU does it.
SYS_RST = 1 << 1
RST_CPU = 1 << 2
FULL_RST = 1 << 3


class Power:
    """The PM1 blocks and the PM timer: ``PM_PORTS`` ports at ``PM_PORT``, up to 4 bytes wide."""

    def __init__(self, sci: Line, clock: Clock, on_poweroff: Callable[[], None]) -> None:
        self._sci = sci
        self._clock = clock
        self._on_poweroff = on_poweroff
        self._status = 0
        self._enable = 0
        self._control = SCI_EN
        self._timer_zero = 0  # ticks to add to the clock's
        self._half_seen = 0  # which half of the timer's range TMR_STS has told
        self._wake: Timer | None = None

    def press_button(self) -> None:
        """Press the power button: the guest's system decides what it does."""
        self._status |= PWRBTN_STS
        self._raise_sci()

    def _ticks(self) -> int:
        return self._clock.now() * PM_TIMER_HZ // SECOND + self._timer_zero

    def _settle(self) -> int:
        """Bring TMR_STS up to date; the timer's ticks."""
        ticks = self._ticks()
        if ticks // TMR_HALF != self._half_seen:
            self._half_seen = ticks // TMR_HALF
            self._status |= TMR_STS
        return ticks

    def _raise_sci(self) -> None:
        self._sci.set(bool(self._status & self._enable))

    def _watch_timer(self) -> None:
        """See to it that the SCI comes when the timer's top bit changes.

        Timers are not cancelled: a guest that toggles TMR_EN makes no second one.
        """
        if self._enable & TMR_STS and self._wake is None:
            change = (self._half_seen + 1) * TMR_HALF - self._timer_zero
            self._wake = self._clock.call_at(-(-change * SECOND // PM_TIMER_HZ), self._timer_changed)

    def _timer_changed(self) -> None:
        self._wake = None
        self._settle()
        self._raise_sci()
        self._watch_timer()

    def read(self, offset: int, size: int) -> int:
        ticks = self._settle()
        blocks = self._status | self._enable << 16 | self._control << 32 | ticks % (1 << 32) << 64
        return blocks >> 8 * offset & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        self._settle()
        written = value << 8 * offset
        touched = (1 << 8 * size) - 1 << 8 * offset
        self._status &= ~(written & 0xFFFF)
        keep = ~(touched >> 16)
        self._enable = (self._enable & keep | written >> 16) & ENABLES
        keep = ~(touched >> 32)
        self._control = (self._control & keep | written >> 32) & (SLP_TYP | BM_RLD) | SCI_EN
        self._raise_sci()
        self._watch_timer()
        if written >> 32 & SLP_EN and (self._control & SLP_TYP) >> SLP_TYP_SHIFT == SLP_TYP_S5:
            self._on_poweroff()

    def save(self) -> State:
        ticks = self._settle()
        return {
            "version": 1,
            "status": self._status,
            "enable": self._enable,
            "control": self._control,
            "ticks": ticks,
        }

    def load(self, state: State) -> None:
        self._status = state["status"]
        self._enable = state["enable"]
        self._control = state["control"]
        self._timer_zero += state["ticks"] - self._ticks()
        self._half_seen = state["ticks"] // TMR_HALF
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        self._raise_sci()
        self._watch_timer()


class ResetControl:
    """The reset control register of a PIIX or ICH, which the FADT gives as RESET_REG."""

    def __init__(self, on_reset: Callable[[], None]) -> None:
        self._on_reset = on_reset
        self._value = 0

    def read(self, offset: int, size: int) -> int:
        return self._value

    def write(self, offset: int, size: int, value: int) -> None:
        self._value = value & (SYS_RST | FULL_RST)
        if value & RST_CPU:
            self._on_reset()

    def save(self) -> State:
        return {"version": 1, "value": self._value}

    def load(self, state: State) -> None:
        self._value = state["value"]
