"""The panics of known kernels, by what they print, as a console hears it."""

from __future__ import annotations

from pykvm.frozen import frozen
from pykvm.terminal.tap import Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.terminal.tap import Tap

    Heard = Callable[[str], None]


@frozen
class Panic:
    """``begins`` is in the first of ``lines`` that say why, ``ends`` in the last that the kernel prints.

    One that is not ``sure`` may be some program's word: it counts only where the guest resets after it.
    """

    begins: bytes
    lines: int = 1
    ends: bytes = b""
    sure: bool = True


LINUX = Panic(begins=b"Kernel panic - not syncing", ends=b"---[ end Kernel panic")  # kernel/panic.c
XEN = Panic(begins=b"Panic on CPU ", lines=2)  # xen/drivers/char/console.c
XEN_DOM0 = Panic(begins=b"Hardware Dom0 crashed: ")  # xen/common/shutdown.c; then it resets the machine
BSD = Panic(begins=b"\npanic: ", sure=False)  # kern_shutdown.c, subr_prf.c
# GNU Mach, kern/debug.c: file, line and function follow. On a serial port, CR comes behind LF too.
MACH = Panic(begins=b"\npanic ", sure=False)
MACH_SERIAL = Panic(begins=b"\rpanic ", sure=False)

XEN_PREFIX = "(XEN) "


class PanicWatch:
    """Listens to ``tap`` during one run of a guest, whose kernel is Linux or another.

    ``panicked`` gets what the panic says, ``suspected`` that of one that isn't sure; ``ended`` is called
    when a kernel has printed the last of its panic.
    """

    def __init__(
        self, tap: Tap, *, linux: bool, panicked: Heard, suspected: Heard, ended: Callable[[], None]
    ) -> None:
        self._tap = tap
        self._watches: list[Watch] = []
        # Linux under Xen panics as Linux does. But what runs on Linux may print what it likes.
        for panic in (LINUX,) if linux else (LINUX, XEN, XEN_DOM0, BSD, MACH, MACH_SERIAL):
            self._listen(panic, panicked if panic.sure else suspected)
            if panic.ends:
                self._watches.append(Watch(panic.ends, lambda _: ended(), lines=1))
        tap.listeners[:0] = self._watches

    def _listen(self, panic: Panic, heard: Heard) -> None:
        self._watches.append(Watch(panic.begins, lambda text: heard(_words(text)), lines=panic.lines))

    def close(self) -> None:
        """Listen no more."""
        for watch in self._watches:
            self._tap.listeners.remove(watch)
        self._watches.clear()


def _words(text: bytes) -> str:
    lines = text.decode("utf-8", "replace").split("\n")
    return " ".join(line.removeprefix(XEN_PREFIX).strip() for line in lines)
