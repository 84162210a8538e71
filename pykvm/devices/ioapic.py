"""The IOAPIC (82093AA with the EOI register of version 0x20), at guest-physical 0xFEC0_0000.

Each of its 24 inputs has a redirection entry that says whether, how and to whom an interrupt goes.
An edge is sent once, when it comes. A level is sent when it is there, and once more after each EOI
for as long as it stays: the entry's Remote IRR bit says that a local APIC has taken it and not yet
ended it.

A line's level here is whether it asks; which voltage that is on a board is the entry's polarity bit,
which is kept and changes nothing.

Source: Intel 82093AA data sheet (290566) §3; the EOI register: Intel 100-series PCH (332691) §13.
"""

from __future__ import annotations

from pykvm.devices.apicbus import EXTINT, FIXED, INIT, LOWEST_PRIORITY, NMI, SMI, wide
from pykvm.devices.line import Input
from pykvm.errors import InternalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.devices.apicbus import Deliver, Message
    from pykvm.devices.device import Line, State

# offset, name, access, value after reset, section
REGISTERS = (
    (0x00, "IOREGSEL", "RW", 0x00, "3.1.1"),
    (0x10, "IOWIN", "RW", None, "3.1.2"),
    (0x40, "EOI", "W", None, "PCH 13"),
)
IOREGSEL = 0x00
IOWIN = 0x10
EOI = 0x40
IOAPIC_SIZE = 0x1000

# What IOREGSEL selects
INDIRECT_REGISTERS = (
    (0x00, "IOAPICID", "RW", 0x0000_0000, "3.2.1"),
    (0x01, "IOAPICVER", "R", 0x0017_0020, "3.2.2"),
    (0x02, "IOAPICARB", "R", 0x0000_0000, "3.2.3"),
    *((0x10 + 2 * pin, f"IOREDTBL{pin} low", "RW", 0x0001_0000, "3.2.4") for pin in range(24)),
    *((0x11 + 2 * pin, f"IOREDTBL{pin} high", "RW", 0x0000_0000, "3.2.4") for pin in range(24)),
)
IOAPICID = 0x00
IOAPICVER = 0x01
IOAPICARB = 0x02
IOREDTBL = 0x10

PINS = 24
VERSION = 0x20
ID_BITS = 0x0F00_0000

# A redirection entry, 64 bits (§3.2.4)
VECTOR = 0xFF
DELIVERY_MODE_SHIFT = 8
LOGICAL = 1 << 11
DELIVERY_STATUS = 1 << 12  # always idle: messages don't wait
POLARITY = 1 << 13
REMOTE_IRR = 1 << 14
LEVEL = 1 << 15
MASK = 1 << 16
DESTINATION_SHIFT = 56
WRITABLE = 0xFF00_0000_0001_AFFF

BY_LEVEL = (FIXED, LOWEST_PRIORITY)  # all others are edges, whatever the entry says (§3.2.4)
MODES = (*BY_LEVEL, SMI, NMI, INIT, EXTINT)


class IoApic:
    """24 inputs, ``line(pin)``, and a callable that takes the messages (`apicbus`)."""

    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self.on_entry: Callable[[int], None] | None = None  # told of each pin whose entry was written
        self.before: Callable[[], None] = lambda: None  # called before a register is written
        self._select = 0
        self._id = 0
        self._entries = [MASK] * PINS
        self._levels = 0  # of the inputs

    # The inputs

    def line(self, pin: int) -> Line:
        """Input ``pin``, 0 to 23."""
        if not 0 <= pin < PINS:
            raise InternalError(f"there is no input {pin}", where="ioapic")
        return Input(self._set, pin)

    def _set(self, pin: int, level: bool) -> None:
        bit = 1 << pin
        if not level:
            self._levels &= ~bit
        elif not self._levels & bit:
            self._levels |= bit
            entry = self._entries[pin]
            if _is_level(entry):
                self._serve_level(pin)
            elif not entry & MASK:  # an edge on a masked input is lost (§3.2.4)
                self._send(entry)

    def _serve_level(self, pin: int) -> None:
        entry = self._entries[pin]
        asks = self._levels >> pin & 1 and not entry & (MASK | REMOTE_IRR)
        if asks and _is_level(entry) and self._send(entry):
            self._entries[pin] |= REMOTE_IRR

    def _send(self, entry: int) -> bool:
        message = _message(entry)
        return message[2] in MODES and self._deliver(*message)

    def sends_edges_of(self, pin: int) -> bool:
        """Whether an edge of input ``pin`` is an interrupt with a vector."""
        entry = self._entries[pin]
        return not entry & (LEVEL | MASK) and entry >> DELIVERY_MODE_SHIFT & 7 in BY_LEVEL

    def level(self, pin: int) -> Message | None:
        """The message of input ``pin``, masked or not, if it is by level and so has an EOI."""
        entry = self._entries[pin]
        return _message(entry) if _is_level(entry) else None

    def eoi(self, vector: int) -> None:
        """A local APIC, or the guest by the EOI register, has ended the level interrupt ``vector``."""
        for pin, entry in enumerate(self._entries):
            if entry & REMOTE_IRR and entry & VECTOR == vector:
                self._entries[pin] = entry & ~REMOTE_IRR
                self._serve_level(pin)

    # The driver's side

    def read(self, offset: int, size: int) -> int:
        if offset == IOREGSEL:
            return self._select
        return self._read_selected() if offset == IOWIN else 0

    def write(self, offset: int, size: int, value: int) -> None:
        self.before()
        if offset == IOREGSEL:
            self._select = value & 0xFF
        elif offset == IOWIN:
            self._write_selected(value)
        elif offset == EOI:
            self.eoi(value & 0xFF)

    def _read_selected(self) -> int:
        select = self._select
        if select in (IOAPICID, IOAPICARB):  # they hold the same number (§3.2.3)
            return self._id
        if select == IOAPICVER:
            return PINS - 1 << 16 | VERSION
        pin, high = divmod(select - IOREDTBL, 2)
        if not 0 <= pin < PINS:
            return 0
        return self._entries[pin] >> 32 if high else self._entries[pin] & 0xFFFF_FFFF

    def _write_selected(self, value: int) -> None:
        if self._select == IOAPICID:
            self._id = value & ID_BITS
            return
        pin, high = divmod(self._select - IOREDTBL, 2)
        if not 0 <= pin < PINS:
            return
        entry = self._entries[pin]
        new = entry & 0xFFFF_FFFF | value << 32 if high else entry & ~0xFFFF_FFFF | value
        new &= WRITABLE
        # Kernels for chips without the EOI register end a level interrupt by making it an edge.
        self._entries[pin] = new | entry & REMOTE_IRR if _is_level(new) else new
        if self.on_entry is not None:
            self.on_entry(pin)
        self._serve_level(pin)

    # State

    def save(self) -> State:
        return {
            "version": 1,
            "select": self._select,
            "id": self._id,
            "entries": list(self._entries),
            "levels": self._levels,
        }

    def load(self, state: State) -> None:
        self._select = state["select"]
        self._id = state["id"]
        self._entries[:] = state["entries"]
        self._levels = state["levels"]
        if self.on_entry is not None:
            for pin in range(PINS):
                self.on_entry(pin)


def _message(entry: int) -> Message:
    mode = entry >> DELIVERY_MODE_SHIFT & 7
    return wide(entry >> DESTINATION_SHIFT), bool(entry & LOGICAL), mode, entry & VECTOR, _is_level(entry)


def _is_level(entry: int) -> bool:
    return bool(entry & LEVEL) and entry >> DELIVERY_MODE_SHIFT & 7 in BY_LEVEL
