"""The port by which a guest's kernel says that it has panicked: QEMU's docs/specs/pvpanic.rst."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.devices.device import State

# offset, name, access, value after reset, source
REGISTERS = ((0, "EVENTS", "RW", 0x03, "pvpanic.rst, port 0x505: read what is known, write what happened"),)
PORT = 0x505
PANICKED = 0x01  # the guest has panicked, and the host should handle it
CRASH_LOADED = 0x02  # it has panicked, and its own crash kernel will handle it
EVENTS = PANICKED | CRASH_LOADED


class Pvpanic:
    """One port; ``on_event`` is called with the bits of a write that are known, if any."""

    def __init__(self, on_event: Callable[[int], None]) -> None:
        self._on_event = on_event

    def read(self, offset: int, size: int) -> int:
        return EVENTS

    def write(self, offset: int, size: int, value: int) -> None:
        if value & EVENTS:
            self._on_event(value & EVENTS)

    def save(self) -> State:
        return {"version": 1}

    def load(self, state: State) -> None:
        """There is nothing to take back: an event is told when it happens."""
