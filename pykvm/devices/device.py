"""What a device is, what it is given, and what it must be able to do.

A device knows nothing of KVM. It is given its interrupt line, its clock and its memory as objects,
answers reads and writes of its registers as ``(offset, size, value)``, and can save and load what
a guest could notice of its state.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    State = dict[str, Any]

    class Device(Protocol):
        """Registers at offsets 0, 1, … of the place where the bus put the device."""

        def read(self, offset: int, size: int) -> int:
            """The value of ``size`` bytes at ``offset``; the bus cuts it to size."""
            ...

        def write(self, offset: int, size: int, value: int) -> None:
            """Write ``value`` of ``size`` bytes at ``offset``."""
            ...

        def save(self) -> State:
            """What a guest could notice, as ints, bytes, strings, lists and dicts, with a ``version``."""
            ...

        def load(self, state: State) -> None:
            """Take back what ``save`` gave, and set the interrupt line to match."""
            ...

    class Line(Protocol):
        """An interrupt line. It has a level: an edge is two calls."""

        def set(self, level: bool) -> None: ...

    class Timer(Protocol):
        """A call that the clock will make once."""

        def cancel(self) -> None: ...

    class Clock(Protocol):
        """The machine's time: it stands still while the machine is paused."""

        def now(self) -> int:
            """Nanoseconds since the machine first ran."""
            ...

        def wall(self) -> int:
            """Nanoseconds since 1970-01-01 00:00 UTC."""
            ...

        def call_at(self, when: int, action: Callable[[], None]) -> Timer:
            """Call ``action`` once when ``now()`` has reached ``when``, under the device lock."""
            ...
