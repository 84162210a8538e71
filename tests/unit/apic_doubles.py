"""A board of APICs, with CPUs that take what they are offered and keep what they are told."""

from __future__ import annotations

from doubles import Clock

from pykvm.devices import lapicregisters as reg
from pykvm.devices.apicbus import ApicBus
from pykvm.devices.ioapic import IOREGSEL, IOWIN, IoApic
from pykvm.devices.lapic import LocalApic
from pykvm.devices.pic import PicPair

TSC_HZ = 2_500_000_000


class CountingClock(Clock):
    """A clock that knows how often it was asked for a call."""

    calls = 0

    def call_at(self, when, action):
        self.calls += 1
        return super().call_at(when, action)


class Cpu:
    """A CPU with its APIC: ``events`` are what it was told besides interrupts."""

    def __init__(self, board, number, **options):
        self.events = []
        self.told = None  # the last answer of has_interrupt that it knows of
        self.apic = LocalApic(
            number,
            self,
            board.bus,
            board.clock,
            board.tsc,
            TSC_HZ,
            board.pic.acknowledge,
            bootstrap=number == 0,
            **options,
        )
        self.told = self.apic.has_interrupt()

    def changed(self):
        self.told = self.apic.has_interrupt()

    def nmi(self):
        self.events.append("nmi")

    def init(self):
        self.events.append("init")

    def start(self, vector):
        self.events.append(f"start {vector:#x}")

    # As a kernel drives it

    def read(self, offset):
        return self.apic.read(offset, 4)

    def write(self, offset, value):
        self.apic.write(offset, 4, value)

    def rdmsr(self, number):
        value = self.apic.read_msr(number)
        assert value is not None, f"rdmsr {number:#x}: #GP"
        return value

    def wrmsr(self, number, value):
        assert self.apic.write_msr(number, value), f"wrmsr {number:#x}, {value:#x}: #GP"

    def enable(self, logical=None):
        """Enabled by software, spurious vector 0xFF, in flat mode with a bit for each CPU."""
        self.write(reg.SVR, 0x1FF)
        if logical is not None:
            self.write(reg.LDR, logical << 24)

    def enter_x2apic(self):
        self.wrmsr(0x1B, self.rdmsr(0x1B) | 0x400)

    def eoi(self):
        self.write(reg.EOI, 0)

    def take(self):
        """The vector that the CPU takes now, or None."""
        assert self.told == self.apic.has_interrupt(), "the CPU was not told"
        return self.apic.acknowledge() if self.told else None

    def take_all(self):
        """What the CPU takes that ends each at once."""
        vectors = []
        while (vector := self.take()) is not None:
            vectors.append(vector)
            self.eoi()
            assert len(vectors) <= 256
        return vectors

    def vectors(self, first):
        """A 256-bit register as the vectors whose bits are set."""
        return [n for n in range(256) if self.read(first + (n >> 5) * 16) >> (n & 31) & 1]


class Board:
    """CPUs, an IOAPIC and a PIC pair, wired as on a PC."""

    def __init__(self, cpus=1, *, enabled=True, **options):
        self.clock = CountingClock()
        self.tsc_offset = 0
        self.bus = ApicBus()
        self.ioapic = IoApic(self.bus.deliver)
        self.bus.on_eoi = self.ioapic.eoi
        self.pic = PicPair(self)
        self.cpus = [Cpu(self, number, **options) for number in range(cpus)]
        for number, cpu in enumerate(self.cpus):
            self.bus.attach(cpu.apic)
            if enabled:
                cpu.enable(logical=1 << number)

    def set(self, level):
        """INTR of the PIC pair goes to all LINT0."""
        for cpu in self.cpus:
            cpu.apic.lint0.set(level)

    def tsc(self):
        return self.clock.now() * TSC_HZ // 10**9 + self.tsc_offset

    def io_read(self, register):
        self.ioapic.write(IOREGSEL, 4, register)
        return self.ioapic.read(IOWIN, 4)

    def io_write(self, register, value):
        self.ioapic.write(IOREGSEL, 4, register)
        self.ioapic.write(IOWIN, 4, value)

    def route(self, pin, low, destination=0):
        """Write a redirection entry, high half first, as kernels do."""
        self.io_write(0x11 + 2 * pin, destination << 24)
        self.io_write(0x10 + 2 * pin, low)

    def entry(self, pin):
        return self.io_read(0x10 + 2 * pin)
