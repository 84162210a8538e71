"""The pair of 8259A interrupt controllers of a PC (ports 0x20, 0xA0) and its ELCR (port 0x4D0).

Inputs 0 to 7 are the master's, 8 to 15 the slave's, whose INT is the master's input 2. What the CPU
sees are the master's INT output, ``intr``, and the acknowledge cycle, which gives a vector::

    devices ─ line(n) ─► I8259 slave ──┐ IR2
    devices ─ line(n) ────────────────►└► I8259 master ─ intr ─► CPU or LINT0 ─ acknowledge() ─► vector

INT follows the requests: it falls with the last of them. A CPU that acknowledges all the same gets
the spurious IRQ 7, without a bit in service. The spurious IRQ 15 of real chips needs a request of the
slave's that falls between the two pulses of one acknowledge cycle; here these are one.

Source: Intel 8259A data sheet (231468); the ELCR is described in Intel's PIIX3 (290550) §2.5.10.
"""

from __future__ import annotations

from pykvm.devices.i8259 import I8259, INPUTS, SPURIOUS
from pykvm.devices.line import Input
from pykvm.errors import InternalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.devices.device import Line, State

# first port, number of ports, what the pair calls the first of them
PLACES = (
    (0x20, 2, 0),
    (0xA0, 2, 2),
    (0x4D0, 2, 4),
)
MASTER, SLAVE, ELCR = 0, 1, 2  # offset // 2
CASCADE = 2  # the master's input that is the slave's output

# Inputs that may go by level, by chip. The timer, the keyboard, the cascade, the clock and the
# coprocessor always go by edge.
ELCR_BITS = (0xF8, 0xDE)


class PicPair:
    """Both chips. ``line(n)`` is input n, ``intr`` the line to the CPU."""

    def __init__(self, intr: Line) -> None:
        self._intr = intr
        self._level = False
        self._chips = I8259(cascaded=1 << CASCADE), I8259()
        self.before: Callable[[], None] = lambda: None
        """Called before a register is read or written."""

    def line(self, number: int) -> Line:
        """Input ``number``, 0 to 15 but not 2."""
        if not 0 <= number < 2 * INPUTS or number == CASCADE:
            raise InternalError(f"input {number} can't be wired", where="pic")
        return Input(self._set, number)

    def _set(self, number: int, level: bool) -> None:
        chip = self._chips[number // INPUTS]
        chip.set_input(number % INPUTS, level)
        if not chip.masks(number % INPUTS):
            self._follow()

    def masks(self, number: int) -> bool:
        """Whether input ``number`` is masked: nothing follows from it."""
        return self._chips[number // INPUTS].masks(number % INPUTS)

    def _follow(self) -> None:
        """The slave's output goes to the master, the master's to the CPU."""
        master, slave = self._chips
        master.set_input(CASCADE, slave.request() is not None)
        self._output(master.request() is not None)

    def _output(self, level: bool) -> None:
        if level != self._level:
            self._level = level
            self._intr.set(level)

    def acknowledge(self) -> int:
        """The CPU's acknowledge cycle: the vector of the request that is served from now on."""
        chip = self._chips[MASTER]
        number = chip.acknowledge()
        if number == CASCADE:
            chip = self._chips[SLAVE]
            number = chip.acknowledge()
        # INT falls with each acknowledge, so that one who takes it by its edges sees the next request.
        self._output(False)
        self._follow()
        return chip.base | (SPURIOUS if number is None else number)

    # The driver's side

    def read(self, offset: int, size: int) -> int:
        self.before()
        where, which = divmod(offset, 2)
        if where == ELCR:
            return self._chips[which].elcr
        value = self._chips[where].read(which)
        self._follow()  # a poll is an acknowledge
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        self.before()
        where, which = divmod(offset, 2)
        if where == ELCR:
            self._chips[which].elcr = value & ELCR_BITS[which]
        else:
            self._chips[where].write(which, value)
        self._follow()

    # State

    def save(self) -> State:
        return {"version": 1, "chips": [chip.save() for chip in self._chips]}

    def load(self, state: State) -> None:
        for chip, saved in zip(self._chips, state["chips"]):
            chip.load(saved)
        self._follow()
        self._intr.set(self._level)
