"""One 8259A interrupt controller: eight inputs, their priorities, and the question which comes next.

Nothing happens here by itself. ``request`` answers from the registers which input the chip would
interrupt with, and whoever changed something asks it again. The INT output and the cascade are the
pair's (`pic`).

Source: Intel 8259A data sheet (231468), "Programming the 8259A" for the command words.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.devices.device import State

# A0, name, access, which bits of a byte written make it this word, section of the data sheet
REGISTERS = (
    (0, "ICW1", "W", "D4 = 1", "Initialization command words 1 and 2"),
    (0, "OCW2", "W", "D4 = 0, D3 = 0", "Operation control word 2"),
    (0, "OCW3", "W", "D4 = 0, D3 = 1", "Operation control word 3"),
    (0, "IRR, ISR", "R", "by OCW3.RR and RIS", "Reading the 8259A status"),
    (1, "ICW2, ICW3, ICW4", "W", "in this order after ICW1", "Initialization command words"),
    (1, "OCW1 (IMR)", "RW", "at all other times", "Operation control word 1"),
)
COMMAND = 0
DATA = 1

ICW1 = 0x10
ICW1_IC4 = 0x01  # ICW4 will come
ICW1_SNGL = 0x02  # no cascade, so ICW3 will not
ICW2_BASE = 0xF8
ICW4_AEOI = 0x02
ICW4_SFNM = 0x10

OCW2_LEVEL = 0x07
OCW2_COMMAND_SHIFT = 5
# R, SL, EOI: bits 7–5 of OCW2
OCW2_CLEAR_ROTATE_IN_AEOI = 0
OCW2_EOI = 1
OCW2_SPECIFIC_EOI = 3
OCW2_SET_ROTATE_IN_AEOI = 4
OCW2_ROTATE_ON_EOI = 5
OCW2_SET_PRIORITY = 6
OCW2_ROTATE_ON_SPECIFIC_EOI = 7

OCW3 = 0x08
OCW3_RIS = 0x01  # the next reads give ISR, else IRR, …
OCW3_RR = 0x02  # … if this is set; else they give what they gave
OCW3_POLL = 0x04
OCW3_SMM = 0x20  # special mask mode on, else off, …
OCW3_ESMM = 0x40  # … if this is set

POLL_INTERRUPT = 0x80

INPUTS = 8
SPURIOUS = 7  # "If no interrupt request is present … the 8259A will issue an interrupt level 7."


class I8259:
    """A chip with its inputs 0 to 7.

    ``cascaded`` is a mask of the inputs that are the INT of another 8259A. Those go by their level: it
    falls when the slave is served, and the chip need not see each edge of it.
    ``elcr`` is the PC's own addition, a mask of the inputs that go by level instead of edge.
    """

    def __init__(self, *, cascaded: int = 0) -> None:
        self._cascaded = cascaded
        self.elcr = 0
        self.base = 0  # ICW2: the vector of input 0
        self._levels = 0  # of the inputs
        self._edges = 0  # inputs that have risen, and were not served since
        self._isr = 0
        self._imr = 0xFF  # nothing before somebody asks for it; after power-up the chip says nothing
        self._lowest = SPURIOUS  # the input of the lowest priority; the next one has the highest
        self._auto_eoi = False
        self._rotate_in_auto_eoi = False
        self._special_mask = False
        self._special_fully_nested = False
        self._poll = False
        self._read_isr = False
        self._icws: list[int] = []  # the numbers of the ICWs still to come

    # The inputs

    def set_input(self, number: int, level: bool) -> None:
        """Input ``number`` goes high or low; a request that falls before it was served is none."""
        bit = 1 << number
        if not level:
            self._levels &= ~bit
            self._edges &= ~bit
        elif not self._levels & bit:
            self._levels |= bit
            self._edges |= bit

    def masks(self, number: int) -> bool:
        """Whether IMR keeps input ``number`` from asking."""
        return bool(self._imr >> number & 1)

    @property
    def _irr(self) -> int:
        by_level = self.elcr | self._cascaded
        return self._levels & by_level | self._edges & ~by_level

    # Priorities

    def _rank(self, inputs: int) -> int:
        """The highest priority among ``inputs``, a mask: 0 is the highest there is, 8 is that of none."""
        turned = (inputs | inputs << INPUTS) >> self._lowest + 1 & 0xFF
        return (turned & -turned).bit_length() - 1 if turned else INPUTS

    def _ranked(self, rank: int) -> int:
        """The input whose priority is ``rank``."""
        return self._lowest + 1 + rank & 7

    def request(self) -> int | None:
        """The input that the chip asks to be served, if its INT output is high."""
        asking = self._irr & ~self._imr
        if not asking:
            return None
        if self._special_mask:
            # "it inhibits further interrupts at that level and enables interrupts from all other
            # levels (lower as well as higher) that are not masked"
            asking &= ~self._isr
            return self._ranked(self._rank(asking)) if asking else None
        rank, serving = self._rank(asking), self._rank(self._isr)
        if rank < serving:
            return self._ranked(rank)
        if rank == serving and self._special_fully_nested and self._cascaded >> self._ranked(rank) & 1:
            return self._ranked(rank)  # "this slave is not locked out from the master's priority logic"
        return None

    def acknowledge(self) -> int | None:
        """INTA: the input that is now in service, or None if there was no request."""
        number = self.request()
        if number is not None:
            self._edges &= ~(1 << number)
            if not self._auto_eoi:
                self._isr |= 1 << number
            elif self._rotate_in_auto_eoi:
                self._lowest = number
        return number

    # The driver's side

    def read(self, a0: int) -> int:
        if self._poll:  # "the next RD pulse to the 8259A" is the acknowledge
            self._poll = False
            number = self.acknowledge()
            return 0 if number is None else POLL_INTERRUPT | number
        if a0 == DATA:
            return self._imr
        return self._isr if self._read_isr else self._irr

    def write(self, a0: int, value: int) -> None:
        if a0 == DATA and self._icws:
            self._initialize(self._icws.pop(0), value)
        elif a0 == DATA:
            self._imr = value
        elif value & ICW1:
            self._reset(value)
        elif value & OCW3:
            self._control(value)
        else:
            self._end_or_rotate(value >> OCW2_COMMAND_SHIFT, value & OCW2_LEVEL)

    def _reset(self, icw1: int) -> None:
        """ICW1. Its LTIM, level mode for all inputs, is without effect where there is an ELCR."""
        self._edges = self._isr = self._imr = 0
        self._lowest = SPURIOUS
        self._auto_eoi = self._rotate_in_auto_eoi = False
        self._special_mask = self._special_fully_nested = False
        self._poll = self._read_isr = False
        self._icws = [2]
        if not icw1 & ICW1_SNGL:
            self._icws.append(3)
        if icw1 & ICW1_IC4:
            self._icws.append(4)

    def _initialize(self, number: int, value: int) -> None:
        if number == 2:
            self.base = value & ICW2_BASE
        elif number == 4:
            self._auto_eoi = bool(value & ICW4_AEOI)
            self._special_fully_nested = bool(value & ICW4_SFNM)
        # ICW3 tells the chips how they are wired, which they know here.

    def _control(self, ocw3: int) -> None:
        if ocw3 & OCW3_ESMM:
            self._special_mask = bool(ocw3 & OCW3_SMM)
        if ocw3 & OCW3_POLL:
            self._poll = True
        if ocw3 & OCW3_RR:
            self._read_isr = bool(ocw3 & OCW3_RIS)

    def _end_or_rotate(self, command: int, level: int) -> None:
        """OCW2."""
        if command in (OCW2_EOI, OCW2_ROTATE_ON_EOI):
            # "An ISR bit that is masked by an IMR bit will not be cleared by a non-specific EOI command
            # if the 8259A is in the special mask mode."
            rank = self._rank(self._isr & ~self._imr if self._special_mask else self._isr)
            if rank == INPUTS:
                return
            level = self._ranked(rank)
        if command & OCW2_EOI:
            self._isr &= ~(1 << level)
        if command in (OCW2_ROTATE_ON_EOI, OCW2_ROTATE_ON_SPECIFIC_EOI, OCW2_SET_PRIORITY):
            self._lowest = level
        elif command in (OCW2_SET_ROTATE_IN_AEOI, OCW2_CLEAR_ROTATE_IN_AEOI):
            self._rotate_in_auto_eoi = command == OCW2_SET_ROTATE_IN_AEOI

    # State

    def save(self) -> State:
        return {
            "elcr": self.elcr,
            "base": self.base,
            "levels": self._levels,
            "edges": self._edges,
            "isr": self._isr,
            "imr": self._imr,
            "lowest": self._lowest,
            "auto_eoi": self._auto_eoi,
            "rotate_in_auto_eoi": self._rotate_in_auto_eoi,
            "special_mask": self._special_mask,
            "special_fully_nested": self._special_fully_nested,
            "poll": self._poll,
            "read_isr": self._read_isr,
            "icws": list(self._icws),
        }

    def load(self, state: State) -> None:
        self.elcr = state["elcr"]
        self.base = state["base"]
        self._levels = state["levels"]
        self._edges = state["edges"]
        self._isr = state["isr"]
        self._imr = state["imr"]
        self._lowest = state["lowest"]
        self._auto_eoi = state["auto_eoi"]
        self._rotate_in_auto_eoi = state["rotate_in_auto_eoi"]
        self._special_mask = state["special_mask"]
        self._special_fully_nested = state["special_fully_nested"]
        self._poll = state["poll"]
        self._read_isr = state["read_isr"]
        self._icws = list(state["icws"])
