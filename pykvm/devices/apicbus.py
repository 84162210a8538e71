"""What goes between the APICs: messages that say which interrupt, and whom it is for.

A message is a destination (physical: an APIC's id; logical: a set, which each APIC matches with its
LDR), a delivery mode, a vector and whether it is level-triggered. IOAPIC, local APICs (IPIs) and MSIs
all send these; here they are plain calls.

Source: Intel SDM vol. 3A §10.6.2 (destinations), §10.6.2.4 (arbitration), §10.11 (MSI).
"""

from __future__ import annotations

from pykvm.devices import lapicregisters as reg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pykvm.devices.lapic import LocalApic

    Message = tuple[int, bool, int, int, bool]
    """Destination, logical, delivery mode, vector, level."""
    Deliver = Callable[[int, bool, int, int, bool], bool]
    """Takes a message's parts: True where an APIC took it."""

# Delivery modes: bits 10–8 of an ICR, LVT or redirection entry and of an MSI's data
FIXED = 0
LOWEST_PRIORITY = 1
SMI = 2
NMI = 4
INIT = 5
STARTUP = 6
EXTINT = 7

BROADCAST = 0xFFFF_FFFF
BROADCAST_8 = 0xFF

IPI_MODES = (FIXED, LOWEST_PRIORITY, SMI, NMI, INIT, STARTUP)

FIRST_VECTOR = 16  # vectors 0 to 15 are illegal in fixed and lowest-priority messages (§10.5.2)

MSI_LOGICAL = 1 << 2  # of the address
MSI_DESTINATION_SHIFT = 12
MSI_ASSERT = 1 << 14  # of the data
MSI_LEVEL = 1 << 15
MSI_ADDRESS = 0xFEE0_0000


def wide(destination: int) -> int:
    """A destination of 8 bits, as xAPIC, IOAPIC and MSI have it, in the 32 bits of x2APIC."""
    return BROADCAST if destination == BROADCAST_8 else destination


def as_msi(destination: int, logical: bool, mode: int, vector: int, level: bool) -> tuple[int, int]:
    """What a device writes to send this message, whose destination has 8 bits: address and data."""
    address = MSI_ADDRESS | (destination & 0xFF) << MSI_DESTINATION_SHIFT | logical * MSI_LOGICAL
    return address, level * (MSI_LEVEL | MSI_ASSERT) | mode << 8 | vector


class ApicBus:
    """The local APICs of a machine, and who wants to hear of an EOI: ``on_eoi(vector)``, the IOAPIC's."""

    def __init__(self) -> None:
        self.on_eoi: Callable[[int], None] | None = None
        self._apics: list[LocalApic] = []
        self._last = 0  # place of the winner of the last arbitration

    def attach(self, apic: LocalApic) -> None:
        self._apics.append(apic)

    def deliver(self, destination: int, logical: bool, mode: int, vector: int, level: bool) -> bool:
        """Send a message to the APICs that match; True where one took it."""
        return self._send([a for a in self._apics if a.matches(destination, logical)], mode, vector, level)

    def ipi(self, sender: LocalApic, icr: int, destination: int) -> None:
        """Send what ``sender`` has in the lower half of its ICR (§10.6.1). It is an edge, always."""
        mode, vector = (icr & reg.MODE) >> reg.MODE_SHIFT, icr & reg.VECTOR
        deassert = mode == INIT and icr & (reg.ICR_LEVEL | reg.ICR_ASSERT) == reg.ICR_LEVEL
        if mode not in IPI_MODES or deassert:  # an INIT's de-assert means nothing since the Pentium 4
            return
        shorthand = icr >> reg.ICR_SHORTHAND_SHIFT
        if shorthand == reg.NO_SHORTHAND:
            self.deliver(destination, bool(icr & reg.ICR_LOGICAL), mode, vector, False)
            return
        all_of_them = [apic for apic in self._apics if apic.matches(BROADCAST, False)]
        targets = [sender] if shorthand == reg.TO_SELF else all_of_them
        if shorthand == reg.TO_OTHERS or mode in (INIT, STARTUP):  # never to the sender (table 10-3)
            targets = [apic for apic in targets if apic is not sender]
        self._send(targets, mode, vector, False)

    def msi(self, address: int, data: int) -> bool:
        """A device writes ``data``, 32 bits, to 0xFEEx_xxxx."""
        destination = wide(address >> MSI_DESTINATION_SHIFT & 0xFF)
        logical, level = bool(address & MSI_LOGICAL), bool(data & MSI_LEVEL)
        return self.deliver(destination, logical, data >> 8 & 7, data & 0xFF, level)

    def eoi(self, vector: int) -> None:
        """A level-triggered interrupt was ended."""
        if self.on_eoi is not None:
            self.on_eoi(vector)

    def _send(self, targets: Sequence[LocalApic], mode: int, vector: int, level: bool) -> bool:
        if mode == LOWEST_PRIORITY and len(targets) > 1:
            targets = self._arbitrate(targets)
        accepted = False
        for apic in targets:
            accepted |= apic.accept(mode, vector, level)
        return accepted

    def _arbitrate(self, targets: Sequence[LocalApic]) -> Sequence[LocalApic]:
        """The APIC with the least to do; among equals, the next one after the last winner."""
        turn = self._last + 1
        able = [a for a in self._apics[turn:] + self._apics[:turn] if a in targets and a.enabled]
        if not able:
            return ()
        winner = min(able, key=lambda apic: apic.arbitration_priority)
        self._last = self._apics.index(winner)
        return (winner,)
