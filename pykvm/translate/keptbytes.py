"""Bytes for a serial port that emitted code keeps in the context's ring (ports.py), and LSR, that it answers.

Whoever prints byte by byte reads LSR and writes THR. While a guest prints without pause neither comes to
Python: the bytes are brought whenever emitted code leaves, and by the I/O thread every few milliseconds. It
is machine/coalesced.py's ``Stream`` that begins and ends this, and its rules are those of KVM's ring: never
while the transmitter's interrupt is enabled, and not for a silent guest, who may be waiting for a key.

LSR is answered only while it says that nothing was received and all is sent.
"""

from __future__ import annotations

from pykvm.devices.serial import LSR, NOTHING_NEW
from pykvm.translate.context import KEPT, KEPT_SIZE, SLOT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.devices.bus import PortBus, Writer
    from pykvm.translate.core import Core

BYTE = 1 << 16  # of a number as the slot ``port`` has it

W_ATTENTION = SLOT["attention"] // 8
W_ANSWER = SLOT["answer"] // 8
W_PORT = SLOT["kept_port"] // 8
W_FIRST = SLOT["kept_first"] // 8
W_LAST = SLOT["kept_last"] // 8


class KeptBytes:
    """Of one machine, and of the first port that asks. All is called under the device lock."""

    most = KEPT_SIZE
    """Bytes that may wait, of which the guest has not seen whether there was room for them."""

    def __init__(self, ports: PortBus) -> None:
        self.writers: dict[int, tuple[Writer, int]] = {}
        """Who takes what is written, by the port whose bytes are kept."""
        self._ports = ports
        self._cores: list[Core] = []
        self._port = 0  # of whose bytes a ring may have
        self._write: Writer | None = None
        self._place = 0
        self._lsr: dict[int, int] = {}

    def add(self, core: Core) -> None:
        """A CPU of the machine, before its first run."""
        self._cores.append(core)
        core.kept = self

    def deliver(self) -> None:
        """Bring what is in the rings."""
        write, place = self._write, self._place
        if write is None:
            return
        for core in self._cores:
            words, raw = core.words, core.raw
            first = words[W_FIRST]
            while first != words[W_LAST]:
                value = raw[KEPT + first]
                words[W_FIRST] = first = (first + 1) % KEPT_SIZE
                write(place, 1, value)

    def begin(self, port: int) -> None:
        """Keep what is written to ``port``, a byte at a time; not where another's was ever kept."""
        if self._port not in (0, port):
            return
        self._port = port
        self._write, self._place = self.writers[port] = self._ports.writer(port, 1)
        self._follow()

    def stop(self, port: int) -> None:
        """Keep no more. What is in the rings is still to be brought."""
        if self.writers.pop(port, None) is not None:
            self._follow()

    def end(self, port: int) -> None:
        """Keep no more, and bring what is in the rings; what is just on its way there comes soon after."""
        self.stop(port)
        self.deliver()
        for core in self._cores:
            core.words[W_ATTENTION] = 1

    def status(self, port: int, lsr: int) -> None:
        """The serial port whose first is ``port`` has another LSR; 0: bytes for THR go elsewhere now."""
        self._lsr[port] = lsr
        if port in self.writers:
            self._follow()

    def _follow(self) -> None:
        """Tell emitted code."""
        port = self._port if self.writers else 0
        answered = port and self._lsr.get(port, NOTHING_NEW) == NOTHING_NEW
        for core in self._cores:
            core.words[W_PORT] = BYTE | port if port else 0
            core.words[W_ANSWER] = (BYTE | port + LSR | NOTHING_NEW << 32) if answered else 0
