"""Edges of an interrupt line that wait until the CPU can take an interrupt.

A serial port has sent a byte as soon as it is written: its interrupt comes while the handler of the last one
still writes. A moment later the handler reads IIR, or turns the interrupt off, and nothing is left to tell;
but the edge was sent, and brings a second interrupt for nothing. On a wire the byte would have taken longer.

So an edge of such a line stays here while RFLAGS.IF is clear, and is gone if the line falls meanwhile. It is
sent before the CPU takes an interrupt, and before anybody reads or changes what would show it: the PIC
pair, the IOAPIC's entries, a local APIC's IRR. This is for one CPU, to which the interrupt can only go.
"""

from __future__ import annotations

import threading

from pykvm.translate.context import SLOT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.devices.device import Line
    from pykvm.devices.ioapic import IoApic
    from pykvm.devices.pic import PicPair
    from pykvm.translate.cpu import TranslatedCpu

W_PENDING = SLOT["pending"] // 8
W_IF = SLOT["interrupt_flag"] // 8


class LateEdges:
    """Of one machine. ``connect`` says who takes its interrupts; without it nothing waits."""

    def __init__(self, pic: PicPair, ioapic: IoApic) -> None:
        self.waiting: list[LateLine] = []
        self._pic = pic
        self._ioapic = ioapic
        self._cpu: TranslatedCpu | None = None
        pic.before = ioapic.before = self.settle

    def connect(self, cpu: TranslatedCpu) -> None:
        """``cpu`` is the machine's only one, and has its local APIC."""
        self._cpu = cpu
        cpu.late = self
        assert cpu.core.apic is not None
        cpu.core.apic.before = self.settle

    def line(self, line: Line, irq: int) -> LateLine:
        """For ``line``, which goes into input ``irq`` of both chips."""
        return LateLine(self, line, irq)

    def may_wait(self, irq: int) -> bool:
        """Whether an edge goes to the CPU by message alone, which takes none now."""
        cpu = self._cpu
        if cpu is None or cpu.core.words[W_IF] or threading.get_ident() != cpu.thread:
            return False
        return self._pic.masks(irq) and self._ioapic.sends_edges_of(irq)

    def add(self, line: LateLine) -> None:
        self.waiting.append(line)
        if self._cpu is not None:
            self._cpu.core.words[W_PENDING] = 1  # whatever sets IF looks at that

    def drop(self, line: LateLine) -> None:
        self.waiting.remove(line)
        if self._cpu is not None:
            self._cpu.changed()

    def settle(self) -> None:
        """Send what waits. Under the device lock."""
        while self.waiting:
            self.waiting.pop().send()


class LateLine:
    """One of them; ``set`` is called under the device lock."""

    def __init__(self, edges: LateEdges, line: Line, irq: int) -> None:
        self._edges = edges
        self._line = line
        self._irq = irq
        self._level = False
        self._waits = False

    def set(self, level: bool) -> None:
        if level == self._level:
            return
        self._level = level
        if self._waits:
            self._waits = False
            self._edges.drop(self)
        elif level and self._edges.may_wait(self._irq):
            self._waits = True
            self._edges.add(self)
        else:
            self._line.set(level)

    def send(self) -> None:
        self._waits = False
        self._line.set(True)
