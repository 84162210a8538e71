"""Which interrupt comes next: the three 256-bit registers of a local APIC, and its priorities.

A vector that arrives waits in IRR. The CPU takes the highest whose class, its upper four bits, is
above that of the processor priority, PPR: the higher of the task priority, which software sets, and of
what is in service. What was taken is in ISR until the EOI. TMR tells of each whether it came by level.

Source: Intel SDM vol. 3A §10.8.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.devices.device import State

CLASS = 0xF0  # the part of a vector, of TPR or of PPR that is its priority (§10.8.3)


class Vectors:
    """IRR, ISR, TMR and TPR. ``asks`` and ``ppr`` follow every change."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._irr = self._isr = self._tmr = 0
        self._tpr = 0
        self._weigh()

    def _weigh(self) -> None:
        """PPR (§10.8.3.1), and whether anything that waits is above it."""
        serving = _class(self._isr)
        self.ppr = self._tpr if self._tpr & CLASS >= serving else serving
        self.asks = _class(self._irr) > self.ppr & CLASS

    @property
    def tpr(self) -> int:
        return self._tpr

    @tpr.setter
    def tpr(self, value: int) -> None:
        self._tpr = value
        self._weigh()

    @property
    def apr(self) -> int:
        """The arbitration priority: who has the lowest gets an interrupt that any could take."""
        tpr, waiting, serving = self._tpr, _class(self._irr), _class(self._isr)
        if tpr & CLASS >= waiting and tpr & CLASS > serving:
            return tpr
        return max(tpr & serving & CLASS, waiting)

    def add(self, vector: int, level: bool) -> None:
        """``vector`` arrives, by level or by edge."""
        bit = 1 << vector
        self._irr |= bit
        self._tmr = self._tmr | bit if level else self._tmr & ~bit
        self._weigh()

    def take(self) -> int:
        """The CPU takes the highest; only where something ``asks``."""
        vector = self._irr.bit_length() - 1
        self._irr ^= 1 << vector
        self._isr |= 1 << vector
        self._weigh()
        return vector

    def end(self) -> int | None:
        """EOI: the vector that was in service and is no more, if any was."""
        if not self._isr:
            return None
        vector = self._isr.bit_length() - 1
        self._isr ^= 1 << vector
        self._weigh()
        return vector

    def by_level(self, vector: int) -> bool:
        return bool(self._tmr >> vector & 1)

    def row(self, number: int) -> int:
        """32 bits, as the registers show them: eight rows of ISR, then of TMR, then of IRR."""
        which, row = divmod(number, 8)
        return (self._isr, self._tmr, self._irr)[which] >> 32 * row & 0xFFFF_FFFF

    def save(self) -> State:
        return {"irr": self._irr, "isr": self._isr, "tmr": self._tmr, "tpr": self._tpr}

    def load(self, state: State) -> None:
        self._irr, self._isr, self._tmr = state["irr"], state["isr"], state["tmr"]
        self.tpr = state["tpr"]


def _class(vectors: int) -> int:
    """The class of the highest of ``vectors``, a mask; 0 of none."""
    return vectors.bit_length() - 1 & CLASS if vectors else 0
