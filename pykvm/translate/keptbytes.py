"""Bytes for a serial port that emitted code keeps in the context's ring (ports.py), and what it answers.

Whoever prints byte by byte reads LSR and writes THR. While a guest prints without pause neither comes to
Python: the bytes are brought whenever emitted code leaves, and by the I/O thread every few milliseconds. It
is machine/coalesced.py's ``Stream`` that begins and ends this, and its rules are those of KVM's ring: never
for a silent guest, who may be waiting for a key, and not while each byte brings an interrupt.

A driver that was interrupted for the transmitter fills its FIFO. The first byte comes to Python, and brings
the next interrupt; the others change nothing more (devices/serial.py, ``_load``), and are kept, too.

Of several CPUs none keeps any: each has a ring of its own, and a driver that goes on on another CPU would
have its bytes brought out of their order.

LSR, IIR and MSR are answered while reading them changes nothing, and LSR while nothing was received and all
is sent; but where somebody may be waiting for a key only while bytes are kept.
"""

from __future__ import annotations

import threading

from pykvm.devices.serial import HEARD, LOAD_SHIFT, MANY
from pykvm.devices.serialregisters import IIR, LSR, MSR, NOTHING_NEW
from pykvm.translate.context import KEPT, KEPT_SIZE, SLOT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.devices.bus import PortBus, Writer
    from pykvm.translate.cpu import TranslatedCpu

BYTE = 1 << 16  # of a number as the slot ``port`` has it
AT_RESET = NOTHING_NEW | MANY << LOAD_SHIFT

W_ATTENTION = SLOT["attention"] // 8
W_LSR, W_IIR, W_MSR = (SLOT[f"answer_{register}"] // 8 for register in (LSR, IIR, MSR))
W_PORT = SLOT["kept_port"] // 8
W_ROOM = SLOT["kept_room"] // 8
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
        self._cpus: list[TranslatedCpu] = []
        self._port = 0  # of whose bytes a ring may have
        self._write: Writer | None = None
        self._place = 0
        self._status: dict[int, int] = {}
        self._words: dict[tuple[bool, int], tuple[tuple[int, int, int], int]] = {}
        self._busy = False

    def add(self, cpu: TranslatedCpu) -> None:
        """A CPU of the machine, before its first run."""
        self._cpus.append(cpu)
        cpu.core.kept = self

    def deliver(self) -> None:
        """Bring what is in the rings."""
        write, place = self._write, self._place
        if write is None:
            return
        self._busy = True
        delivered = False
        for cpu in self._cpus:
            words, raw = cpu.core.words, cpu.core.raw
            first = words[W_FIRST]
            while first != words[W_LAST]:
                value = raw[KEPT + first]
                words[W_FIRST] = first = (first + 1) % KEPT_SIZE
                write(place, 1, value)
                delivered = True
        self._busy = False
        if delivered:
            self._follow()

    def begin(self, port: int) -> None:
        """Keep what is written to ``port``, a byte at a time; not where another's was ever kept."""
        if self._take(port):
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
        for cpu in self._cpus:
            if cpu.thread != threading.get_ident():  # it may be in emitted code
                cpu.core.words[W_ATTENTION] = 1

    def status(self, port: int, status: int) -> None:
        """The serial port whose first is ``port`` tells what holds from now on (devices/serial.py)."""
        self._status[port] = status
        if self._port != port and not (status & HEARD and self._take(port)):
            return
        if 0 < status >> LOAD_SHIFT < MANY and port not in self.writers and not self._busy:
            self.begin(port)
        elif not self._busy:
            self._follow()

    def _take(self, port: int) -> bool:
        """Whether ``port`` is the one that is kept and answered for; the first that asks is."""
        self._port = self._port or port
        return self._port == port

    def _follow(self) -> None:
        """Tell emitted code."""
        port = self._port
        kept, status = port in self.writers, self._status.get(port, AT_RESET)
        known = self._words.get((kept, status))
        if known is None:
            known = self._words[kept, status] = _words(port, kept, status)
        answers, load = known
        for cpu in self._cpus:
            words = cpu.core.words
            words[W_LSR], words[W_IIR], words[W_MSR] = answers
            if load and len(self._cpus) == 1:
                waiting = (words[W_LAST] - words[W_FIRST]) % KEPT_SIZE
                words[W_ROOM] = KEPT_SIZE if load == MANY else max(0, load - waiting)
                words[W_PORT] = BYTE | port
            else:
                words[W_PORT] = 0


def _words(port: int, kept: bool, status: int) -> tuple[tuple[int, int, int], int]:
    """The answers of LSR, IIR and MSR, and how many bytes may be kept, of serial port ``port``."""
    lsr, iir, msr = status & 0xFF, status >> 8 & 0xFF, status >> 16 & 0xFF
    told = kept or bool(status & HEARD)
    return (
        (BYTE | port + LSR | lsr << 32) if told and lsr == NOTHING_NEW else 0,
        (BYTE | port + IIR | iir << 32) if told and iir else 0,
        (BYTE | port + MSR | msr << 32) if told and msr else 0,
    ), status >> LOAD_SHIFT if kept else 0
