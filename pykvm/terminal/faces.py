"""What a console is given: the I/O loop that calls it, and the port of the guest that it serves."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    Action = Callable[[], None]

    class Loop(Protocol):
        """The machine's I/O thread. Whatever it calls, it calls there, under the device lock.

        A descriptor that has hung up or failed is reported to whichever of the two callbacks was
        given, so that the read or the write meets the error.
        """

        def add(self, fd: int, on_readable: Action | None = None, on_writable: Action | None = None) -> None:
            """Call when ``fd`` is ready; PermissionError where it is always ready (a regular file)."""
            ...

        def remove(self, fd: int) -> None: ...

        def post(self, action: Action) -> None:
            """Call ``action`` soon. Cheap, and allowed from every thread."""
            ...

        def later(self, delay: int, action: Action) -> None:
            """Call ``action`` once, about ``delay`` nanoseconds from now. For the I/O thread only."""
            ...

    class Stream(Protocol):
        """Where a port's bytes come from, and may be kept back while there are many."""

        most: int
        """Bytes that may wait, of which the guest has not seen whether there was room for them."""

        @property
        def is_kept(self) -> bool:
            """Whether bytes may wait until ``deliver`` is called."""
            ...

        def keep(self) -> None:
            """Begin with that, where it is possible."""
            ...

        def deliver(self) -> None:
            """Bring those that wait."""
            ...

        def stop(self) -> None:
            """Keep no more back; those that wait are still to be brought."""
            ...

        def end(self) -> None:
            """Keep no more back, and bring those that wait."""
            ...

    class Port(Protocol):
        """A serial port of the guest, or what else prints and listens. Called under the device lock."""

        on_rx_room: Action | None

        def receive(self, data: bytes) -> int:
            """Take what fits of ``data`` and return how much that was; ``on_rx_room`` follows a lack."""
            ...

        def break_in(self) -> None:
            """A break: the line is low for longer than a character."""
            ...

        def room(self) -> None:
            """The sink, which had refused a byte, takes bytes again."""
            ...
