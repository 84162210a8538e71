"""From the guest to a descriptor: bytes one by one on one side, few and large writes on the other.

A byte costs the vCPU's thread an append. The first one of a batch wakes the I/O thread, which
writes at once and then looks again after a pause, so that a guest that prints without end wakes it
some sixty times a second and not at every byte, and a guest that is silent wakes nobody. The pause
is short at first, as long as a few bytes take: an echo is not to be waited for.
"""

from __future__ import annotations

import os
import select

from pykvm.terminal.descriptor import PIPE_BUF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.terminal.faces import Action, Loop, Stream
    from pykvm.terminal.tap import Tap

LIMIT = 64 * 1024
"""Bytes that wait here at most; after that the guest waits."""

PAUSE, LONGEST = 2_000_000, 16_000_000
"""Nanoseconds from a look at what the guest printed to the next: at first, and doubled up to where an
eye begins to see it. A look takes a tenth of PAUSE from the vCPU on a slow host, where exits are dear too."""

SILENT = 4
"""Looks that find nothing until the guest is taken to be silent, where its bytes were kept back."""


class Output:
    """The sink of a guest's port. Without a descriptor, bytes pass the tap and are dropped.

    ``lossy``: bytes beyond ``LIMIT`` are dropped too, as on a line without flow control, where
    nobody can know whether someone reads.
    """

    def __init__(self, loop: Loop, tap: Tap, *, lossy: bool = False) -> None:
        self.on_room: Action | None = None
        self.on_lost: Callable[[OSError], None] | None = None
        """Called once with the error when the descriptor takes no more."""
        self.lost: OSError | None = None
        self.stream: Stream | None = None
        """What may keep bytes back while the guest prints without pause."""
        self._loop = loop
        self._tap = tap
        self._lossy = lossy
        self._fresh = bytearray()  # from the guest, not yet looked at
        self._pending = bytearray()  # on its way to the descriptor
        self._space = LIMIT  # how much _fresh may hold
        self._reserve = 0  # and how much more, for what the guest's port keeps back
        self._held: bytearray | None = None  # instead of there
        self._refused = False
        self._idle = True  # nobody is going to look at _fresh
        self._pause = 0  # from the last look to the next; 0 where none is to come
        self._silent = 0  # looks in a row that found nothing
        self._fd: int | None = None
        self._poll: select.poll | None = None  # where a write might wait
        self._chunk = LIMIT
        self._waiting = False

    def put(self, byte: int) -> bool:
        """Take a byte, or refuse it: then ``on_room`` is called when there is room again."""
        fresh = self._fresh
        if len(fresh) >= self._space and not self._open_reserve():
            if not self._refused:
                self._refused = True
                self._loop.post(self.flush)
            return False
        fresh.append(byte)
        if self._idle:
            self._idle = False
            self._loop.post(self._look)
        return True

    def connect(self, fd: int, never_waits: bool = True) -> None:
        """Write to ``fd``, and close it in the end. See ``descriptor.own`` for ``never_waits``."""
        self.disconnect()
        self._fd = fd
        self._chunk = LIMIT if never_waits else PIPE_BUF
        if not never_waits:
            self._poll = select.poll()
            self._poll.register(fd, select.POLLOUT)

    def disconnect(self) -> None:
        """Close the descriptor and drop what was on its way there."""
        if self._fd is not None:
            self._stop_waiting()
            os.close(self._fd)
            self._fd = self._poll = None
            self._pending.clear()
            self._make_room()

    def flush(self) -> None:
        """Write what goes without waiting of all that the guest printed so far."""
        self._take_fresh()
        if not self._waiting:
            self._write()
            if self._pending and self._fd is not None:
                self._waiting = True
                self._loop.add(self._fd, on_writable=self._writable)
        self._make_room()

    def show(self, data: bytes) -> None:
        """Write ``data``, which no port printed and no tap hears. On the I/O thread, or after its end."""
        self._take_fresh()
        if self._fd is not None:
            self._pending += data
        self.flush()

    def hold(self) -> None:
        """Keep what the guest prints from the descriptor, the last ``LIMIT`` bytes of it, for ``let_go``."""
        self._take_fresh()
        if self._held is None:
            self._held = bytearray()

    def let_go(self) -> None:
        """Write what was held; no more is."""
        self._take_fresh()
        held, self._held = self._held, None
        if held and self._fd is not None:
            self._pending += held
            self.flush()

    @property
    def waits(self) -> bool:
        """Whether the reader has not taken all yet."""
        return bool(self._pending)

    def drain(self, seconds: float | None, wake: int | None = None) -> bool:
        """Write all that waits, each time waiting up to ``seconds`` (None: for ever) for the reader.

        For the end of the machine, when the loop calls nobody any more. True when all is written,
        or when nobody is there who could read it. It waits no longer once descriptor ``wake`` is
        readable.
        """
        if self._lossy:
            seconds = 0
        self._stop_waiting()
        while True:
            self._take_fresh()
            self._write()
            self._make_room()
            if not self._pending and not self._fresh:
                return True
            if self._fd is not None:
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                if wake is not None:
                    poll.register(wake, select.POLLIN)
                ready = poll.poll(None if seconds is None else seconds * 1000)
                if self._fd not in (fd for fd, _ in ready):
                    return False

    def _look(self) -> None:
        """See to what the guest printed, and again after a pause, until it prints no more."""
        kept = self._bring()
        if self._fresh:
            self.flush()
            self._pause = min(2 * self._pause, LONGEST) or PAUSE
        elif not kept:
            self._idle = True
            self._pause = 0
            return
        self._loop.later(self._pause, self._look)

    def _bring(self) -> bool:
        """Have the guest's bytes kept back while it prints, and brought; whether some may be on their way."""
        stream = self.stream
        if stream is None:
            return False
        stream.deliver()
        if self._fresh:
            self._silent = 0
            if self._pause and len(self._pending) < LIMIT // 2:  # by far enough room for what may be kept
                stream.keep()
        else:
            self._silent += 1
            if self._silent >= SILENT:
                stream.end()
        return stream.is_kept

    def _open_reserve(self) -> bool:
        """Nothing is kept back any more; for what was, there is room. Whether there was a reserve."""
        reserve, self._reserve = self._reserve, 0
        if reserve and self.stream is not None:
            self._space += reserve
            self.stream.stop()
        return bool(reserve)

    def _take_fresh(self) -> None:
        batch = bytes(self._fresh)
        self._fresh.clear()
        if batch:
            self._tap.feed(batch)
            if self._held is not None:
                self._held += batch
                del self._held[:-LIMIT]
            elif self._fd is not None:
                self._pending += batch
                if self._lossy:
                    del self._pending[LIMIT:]

    def _writable(self) -> None:
        self._write()
        if not self._pending:
            self._stop_waiting()
        self._make_room()

    def _stop_waiting(self) -> None:
        if self._waiting and self._fd is not None:
            self._waiting = False
            self._loop.remove(self._fd)

    def _write(self) -> None:
        """Write as much as goes without waiting."""
        try:
            while self._pending and self._fd is not None and (self._poll is None or self._poll.poll(0)):
                del self._pending[: os.write(self._fd, self._pending[: self._chunk])]
        except BlockingIOError:
            pass
        except OSError as error:
            # EPIPE: the reader is gone; EIO: the terminal hung up; ENOSPC: the disk is full.
            self.lost = error
            self.disconnect()
            if self.on_lost is not None:
                self.on_lost(error)

    def _make_room(self) -> None:
        stream = self.stream
        self._reserve = stream.most if stream is not None and stream.is_kept else 0
        self._space = LIMIT - self._reserve - (0 if self._lossy else len(self._pending))
        if self._refused and len(self._fresh) < self._space:
            self._refused = False
            if self.on_room is not None:
                self.on_room()
