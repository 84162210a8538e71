"""From a descriptor to the guest, no faster than the guest takes it."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.terminal.faces import Action, Loop, Port

CHUNK = 4096


class Input:
    """Reads a descriptor when the guest can take more, and stops when it can't."""

    def __init__(self, loop: Loop) -> None:
        self.on_end: Action | None = None
        """Called at the end of input or a hang-up, when the descriptor is closed."""
        self._loop = loop
        self._port: Port | None = None
        self._fd: int | None = None
        self._held = bytearray()
        self._reading = False
        self._always_ready = False

    def attach(self, port: Port) -> None:
        self._port = port
        port.on_rx_room = self.room
        self.room()

    def turn(self, port: Port, waiting: bytes = b"") -> bytes:
        """Lead to another port, for which ``waiting`` was typed before; what the one so far hasn't taken."""
        rest = bytes(self._held)
        self._held.clear()
        self.attach(port)
        self.feed(waiting)
        self._loop.post(self._go_on)
        return rest

    @property
    def port(self) -> Port | None:
        return self._port

    def connect(self, fd: int) -> None:
        """Feed the guest from ``fd``, and close it in the end."""
        self.disconnect()
        self._fd = fd
        self._held.clear()
        self._always_ready = False
        self.resume()

    def disconnect(self) -> None:
        """Close the descriptor. What was read of it still goes to the guest."""
        if self._fd is not None:
            self.pause()
            os.close(self._fd)
            self._fd = None

    def pause(self) -> None:
        """Read nothing until ``resume``.

        The descriptor leaves the loop for that time: epoll tells of a hang-up even when asked for
        nothing, over and over.
        """
        if self._reading:
            self._reading = False
            if not self._always_ready and self._fd is not None:
                self._loop.remove(self._fd)

    def resume(self) -> None:
        if self._fd is None or self._reading:
            return
        self._reading = True
        if not self._always_ready:
            try:
                self._loop.add(self._fd, on_readable=self._readable)
            except PermissionError:  # epoll's answer to a regular file or /dev/null: always ready
                self._always_ready = True
        if self._always_ready:
            self._loop.post(self._next)

    def feed(self, data: bytes) -> None:
        """Give ``data`` to the guest, after what it hasn't taken yet."""
        if not self._held and self._port is not None:
            data = data[self._port.receive(data) :]
        if data:
            self.hold(data)

    def hold(self, data: bytes) -> None:
        self._held += data
        self.pause()

    def room(self) -> None:
        """The guest takes more: called from its own access, so reading goes on elsewhere."""
        if self._held and self._port is not None:
            del self._held[: self._port.receive(bytes(self._held[:CHUNK]))]
            if not self._held:
                self._loop.post(self._go_on)

    def _go_on(self) -> None:
        if not self._held:
            self.resume()

    def _next(self) -> None:
        """A piece of a file. One at a time, so that the loop serves others in between."""
        if self._reading:
            self._readable()
            if self._reading:
                self._loop.post(self._next)

    def _readable(self) -> None:
        assert self._fd is not None
        try:
            data = os.read(self._fd, CHUNK)
        except BlockingIOError:  # another reader of the same terminal or pipe was quicker
            return
        except OSError:  # EIO: the terminal hung up
            data = b""
        if data:
            self.take(data)
        else:
            self.disconnect()
            if self.on_end is not None:
                self.on_end()

    def take(self, data: bytes) -> None:
        """What is done with what was read."""
        self.feed(data)
