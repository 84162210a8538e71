"""System control port A of the PS/2: port 0x92, the quick way to reset and to the A20 gate.

Source: IBM PS/2 Hardware Interface Technical Reference, "System Control Port A".
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.devices.device import State

# offset, name, access, value after reset, source
REGISTERS = ((0, "CONTROL_A", "RW", 0x02, "port 0x92"),)
RESET = 0x01  # from 0 to 1 resets
A20 = 0x02


class FastA20:
    """One port; ``on_reset`` is called when the guest resets the machine by it.

    The gate's bit reads back and does nothing: with KVM address line 20 is always there.
    """

    def __init__(self, on_reset: Callable[[], None]) -> None:
        self._on_reset = on_reset
        self._value = A20

    def read(self, offset: int, size: int) -> int:
        return self._value

    def write(self, offset: int, size: int, value: int) -> None:
        was, self._value = self._value, value & (RESET | A20)
        if value & ~was & RESET:
            self._on_reset()

    def save(self) -> State:
        return {"version": 1, "value": self._value}

    def load(self, state: State) -> None:
        self._value = state["value"]
