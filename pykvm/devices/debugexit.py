"""A port that ends the machine with a value: what a test guest's `outl` to it says is its result.

It is what QEMU has as ``isa-debug-exit``, without the detour that turns the value v into 2v + 1.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.devices.device import State

# offset, name, access, value after reset, source; the bus gives accesses of 1, 2 and 4 bytes whole
REGISTERS = ((0, "VALUE", "W", None, "QEMU, hw/misc/debugexit.c"),)
PORTS = WIDTH = 4


class DebugExit:
    """Four ports; ``on_exit`` is called with the value of the first write, and never again."""

    def __init__(self, on_exit: Callable[[int], None]) -> None:
        self._on_exit = on_exit
        self._done = False

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        if not self._done:
            self._done = True
            self._on_exit(value)

    def save(self) -> State:
        return {"version": 1, "done": self._done}

    def load(self, state: State) -> None:
        self._done = state["done"]
