"""One CPU as plain values, and the views of them that instructions take."""

from __future__ import annotations

import os

from pykvm.x86.execute.area import AVX_ONLY, XsaveArea
from pykvm.x86.registers import CR0_PE, EFER_LMA, GPRS, RFLAGS_IOPL, RFLAGS_VM, XCR0_SSE, XCR0_X87

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping, MutableSequence
    from typing import Any, Protocol

    from pykvm.x86.execute.area import Components
    from pykvm.x86.segments import Segment

    Saved = tuple[dict[str, int], dict[str, Any], int, set[str], bool, bool]

    class Ports(Protocol):
        """The I/O address space; sizes are 1, 2 and 4."""

        def read(self, port: int, size: int) -> int: ...
        def write(self, port: int, size: int, value: int) -> None: ...

    Cpuid = Callable[[int, int], tuple[int, int, int, int]]


DEBUG_AT_RESET = (0, 0, 0, 0, 0, 0, 0xFFFF_0FF0, 0x400)
"""DR0 to DR7 after a reset (SDM vol. 3 table 9-1)."""


class Unsupported(Exception):
    """An instruction, or a corner of one, that is not carried out here."""


class Cpu:
    """What an instruction may read and change.

    ``regs`` and ``sregs`` are named like the fields of kvm_regs and kvm_sregs. The segment dicts in ``sregs``
    are replaced and never changed in place. ``xsave`` gives the XSAVE area in the standard form; it is called
    when an instruction first touches that state. ``msrs`` is read and written by MSR number. ``features``
    are the CPUID features by name (None: all); instructions of others raise #UD. ``components`` are the
    XSAVE components (``cpuid.xsave_components``), ``physical_bits`` MAXPHYADDR, ``random`` what RDRAND takes.
    ``ports``, ``cpuid`` (of leaf and subleaf: EAX, EBX, ECX, EDX) and ``debug`` (DR0 to DR7) are what I/O
    instructions, CPUID and MOV DR reach; where one is None these are not carried out. ``tsc`` is the
    time-stamp counter (None: the MSR). A KeyError from ``msrs`` is #GP to RDMSR and WRMSR; EFER, FS_BASE and
    GS_BASE are those of ``sregs`` and not asked of ``msrs``.

    After an instruction ``changed`` holds the names of what it changed beyond ``regs``: "sregs", "xsave",
    "xcr0", "debug". ``interrupt_shadow`` is whether interrupts wait for one more instruction (MOV SS, POP
    SS, STI), ``nmi_masked`` whether an NMI is being handled (IRET ends that), ``halted`` whether HLT was
    executed. ``iterations`` is how many a repeated string instruction makes in one call.
    """

    def __init__(
        self,
        regs: MutableMapping[str, int],
        sregs: dict[str, Any],
        *,
        xsave: Callable[[], bytes | bytearray] | None = None,
        xcr0: int = XCR0_X87 | XCR0_SSE,
        msrs: MutableMapping[int, int] | None = None,
        features: frozenset[str] | None = None,
        components: Components = AVX_ONLY,
        physical_bits: int = 52,
        random: Callable[[int], bytes] = os.urandom,
        ports: Ports | None = None,
        cpuid: Cpuid | None = None,
        tsc: Callable[[], int] | None = None,
        debug: MutableSequence[int] | None = None,
        iterations: int = 4096,
    ) -> None:
        self.regs = regs
        self.sregs = sregs
        self.xcr0 = xcr0
        self.msrs: MutableMapping[int, int] = {} if msrs is None else msrs
        self.features = features
        self.components = components
        self.physical_bits = physical_bits
        self.random = random
        self.ports = ports
        self.cpuid = cpuid
        self.tsc = tsc
        self.debug = debug
        self.iterations = iterations
        self.halted = False
        self.interrupt_shadow = False
        self.nmi_masked = False
        self.changed: set[str] = set()
        self._load_xsave = xsave
        self._area: XsaveArea | None = None

    @property
    def area(self) -> XsaveArea:
        """The x87, SSE and further state."""
        if self._area is None:
            if self._load_xsave is None:
                self._area = XsaveArea.initial(self.components)
            else:
                self._area = XsaveArea(self._load_xsave(), self.components)
        return self._area

    def has(self, feature: str) -> bool:
        """Whether CPUID offers ``feature``."""
        return self.features is None or feature in self.features

    def msr(self, number: int) -> int:
        """An MSR; 0 for one that ``msrs`` doesn't have, as KVM has none of some that CPUID tells of."""
        return self.msrs.get(number, 0)

    # What a caller may do in its own way

    @property
    def cr8(self) -> int:
        """The task priority: bits 7:4 of the local APIC's TPR."""
        return int(self.sregs["cr8"])

    @cr8.setter
    def cr8(self, value: int) -> None:
        self.sregs["cr8"] = value
        self.changed.add("sregs")

    def flush(self, gva: int | None) -> None:
        """Translations that were kept of the page at ``gva``, or of all (None), are no longer good."""

    def flush_non_global(self) -> None:
        """Translations that were kept are no longer good, but for global pages' (MOV to CR3)."""
        self.flush(None)

    # Modes

    @property
    def protected(self) -> bool:
        """Whether CR0.PE is set: not real mode. Virtual-8086 mode is protected too."""
        return bool(self.sregs["cr0"] & CR0_PE)

    @property
    def long(self) -> bool:
        """IA-32e mode: 64-bit or compatibility mode."""
        return bool(self.sregs["efer"] & EFER_LMA)

    @property
    def v86(self) -> bool:
        return self.protected and bool(self.regs["rflags"] & RFLAGS_VM)

    @property
    def bits(self) -> int:
        """The width of the code that runs: 16, 32 or 64."""
        cs = self.sregs["cs"]
        if self.long and cs["l"]:
            return 64
        return 32 if cs["db"] else 16

    @property
    def cpl(self) -> int:
        if not self.protected:
            return 0
        return 3 if self.v86 else int(self.sregs["ss"]["dpl"])

    @property
    def iopl(self) -> int:
        return (self.regs["rflags"] & RFLAGS_IOPL) >> 12

    # Registers

    def reg(self, number: int, size: int) -> int:
        """The low ``size`` bytes (2, 4 or 8) of general register ``number``."""
        return self.regs[GPRS[number]] & (1 << 8 * size) - 1

    def set_reg(self, number: int, size: int, value: int) -> None:
        """Set ``size`` bytes: 2 leave those above as they are, 4 clear them."""
        name = GPRS[number]
        if size == 2:
            value = self.regs[name] & ~0xFFFF | value & 0xFFFF
        self.regs[name] = value & (0xFFFF_FFFF if size == 4 else 0xFFFF_FFFF_FFFF_FFFF)

    def byte(self, number: int, rex: int) -> int:
        """A byte register: without a REX prefix 4 to 7 are AH, CH, DH, BH."""
        if number in (4, 5, 6, 7) and not rex:
            return self.regs[GPRS[number - 4]] >> 8 & 0xFF
        return self.regs[GPRS[number]] & 0xFF

    def set_byte(self, number: int, rex: int, value: int) -> None:
        if number in (4, 5, 6, 7) and not rex:
            name = GPRS[number - 4]
            self.regs[name] = self.regs[name] & ~0xFF00 | (value & 0xFF) << 8
        else:
            name = GPRS[number]
            self.regs[name] = self.regs[name] & ~0xFF | value & 0xFF

    def set_flags(self, values: int, mask: int) -> None:
        """Set the flags in ``mask`` to those in ``values``."""
        self.regs["rflags"] = self.regs["rflags"] & ~mask | values & mask

    def set_segment(self, name: str, segment: Segment) -> None:
        self.sregs[name] = segment
        self.changed.add("sregs")

    def set_xmm(self, number: int, value: int) -> None:
        self.area.set_xmm(number, value)
        self.changed.add("xsave")

    # All or nothing

    def save(self) -> Saved:
        """What ``restore`` takes to undo an instruction that faulted."""
        return (
            dict(self.regs),
            dict(self.sregs),
            self.xcr0,
            set(self.changed),
            self.interrupt_shadow,
            self.nmi_masked,
        )

    def restore(self, saved: Saved) -> None:
        regs, sregs, self.xcr0, self.changed, self.interrupt_shadow, self.nmi_masked = saved
        self.regs.update(regs)
        self.sregs.update(sregs)
