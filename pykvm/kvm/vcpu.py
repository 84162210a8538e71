"""A vCPU: KVM_RUN, and its registers as plain values."""

from __future__ import annotations

import errno
from ctypes import get_errno
from functools import partial

from pykvm.kvm import structs
from pykvm.kvm.abi import CONSTANTS, KVM_RUN
from pykvm.kvm.descriptor import Descriptor
from pykvm.kvm.errors import KvmError
from pykvm.kvm.run import RunPage
from pykvm.libc.calls import untyped_ioctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Plain = dict[str, Any]


class Vcpu(Descriptor):
    """One ioctl a method. All raise KvmError."""

    def __init__(self, fd: int, index: int, run_page_size: int) -> None:
        super().__init__(fd)
        self.index = index
        self.page = RunPage(fd, run_page_size)
        self._noted: tuple[Any, Any] | None = None
        self.enter: Callable[[], int] = partial(untyped_ioctl, fd, KVM_RUN, None)
        """KVM_RUN, without a frame of Python's around it: 0, or -1, and then ``left`` tells why."""

    def run(self) -> int:
        """KVM_RUN: 0, or what ``left`` says."""
        return self.left() if self.enter() else 0

    def left(self) -> int:
        """Why ``enter`` has just failed: EINTR (a kick, a signal) or EAGAIN (INIT while waiting for SIPI).

        They are never retried here: only the run loop knows whether a kick was meant. Raises KvmError
        for all else.
        """
        number = get_errno()
        if number in (errno.EINTR, errno.EAGAIN):
            return number
        raise KvmError("KVM_RUN", number)

    def close(self) -> None:
        if self.fd >= 0:
            self.page.close()
        super().close()

    def _get(self, name: str, struct: Any) -> Plain:
        self.struct(name, struct)
        return structs.to_dict(struct)

    def _set(self, name: str, struct: Any, values: Plain) -> None:
        self.struct(name, structs.from_dict(struct, values))

    def regs(self) -> Plain:
        """General registers, RIP and RFLAGS."""
        return self._get("KVM_GET_REGS", structs.kvm_regs())

    def set_regs(self, values: Plain) -> None:
        """All general registers: those that ``values`` lacks become 0."""
        self._set("KVM_SET_REGS", structs.kvm_regs(), values)

    def sregs(self) -> Plain:
        """Segments, descriptor tables, control registers, EFER, APIC base."""
        return self._get("KVM_GET_SREGS", structs.kvm_sregs())

    def set_sregs(self, values: Plain) -> None:
        """Change those system registers that ``values`` has."""
        current = structs.kvm_sregs()
        self.struct("KVM_GET_SREGS", current)
        self._set("KVM_SET_SREGS", current, values)

    def note(self) -> None:
        """Keep the registers as they are now, for ``noted``, at the price of two ioctls."""
        if self._noted is None:
            self._noted = structs.kvm_regs(), structs.kvm_sregs()
        self.struct("KVM_GET_REGS", self._noted[0])
        self.struct("KVM_GET_SREGS", self._noted[1])

    def noted(self) -> Plain | None:
        """``regs`` and ``sregs`` as the last ``note`` kept them."""
        if self._noted is None:
            return None
        return {"regs": structs.to_dict(self._noted[0]), "sregs": structs.to_dict(self._noted[1])}

    def set_cpuid(self, table: Any) -> None:
        """KVM_SET_CPUID2; before the first KVM_RUN."""
        self.struct("KVM_SET_CPUID2", table)

    def msrs(self, indices: list[int]) -> dict[int, int]:
        """Read MSRs; one that KVM refuses is left out, those behind it are read all the same."""
        values: dict[int, int] = {}
        rest = list(indices)
        while rest:
            table = structs.msrs(len(rest))
            for slot, index in zip(table.entries, rest, strict=True):
                slot.index = index
            done = self.struct("KVM_GET_MSRS", table)
            values.update((entry.index, entry.data) for entry in table.entries[:done])
            rest = rest[done + 1 :]
        return values

    def set_msrs(self, values: dict[int, int]) -> list[int]:
        """Write MSRs; returns those that KVM refused, having written all others."""
        refused = []
        rest = list(values)
        while rest:
            table = structs.msrs(len(rest))
            for slot, index in zip(table.entries, rest, strict=True):
                slot.index = index
                slot.data = values[index]
            done = self.struct("KVM_SET_MSRS", table)
            refused += rest[done : done + 1]
            rest = rest[done + 1 :]
        return refused

    def xsave(self) -> bytes:
        """The XSAVE area (4 KiB): x87, SSE, AVX and what else is in use."""
        area = structs.kvm_xsave()
        self.struct("KVM_GET_XSAVE", area)
        return bytes(area)

    def set_xsave(self, area: bytes) -> None:
        """Load what ``xsave`` gave."""
        self.struct("KVM_SET_XSAVE", structs.kvm_xsave.from_buffer_copy(area))

    def xcr0(self) -> int:
        """Extended control register 0."""
        return int(self._get("KVM_GET_XCRS", structs.kvm_xcrs())["xcrs"][0]["value"])

    def set_xcr0(self, value: int) -> None:
        """Set extended control register 0."""
        xcrs = structs.kvm_xcrs(nr_xcrs=1)
        xcrs.xcrs[0].value = value
        self.struct("KVM_SET_XCRS", xcrs)

    def debugregs(self) -> Plain:
        """DR0 to DR3, DR6, DR7."""
        return self._get("KVM_GET_DEBUGREGS", structs.kvm_debugregs())

    def set_debugregs(self, values: Plain) -> None:
        """Load what ``debugregs`` gave."""
        self._set("KVM_SET_DEBUGREGS", structs.kvm_debugregs(), values)

    def events(self) -> Plain:
        """Exceptions, interrupts and NMIs that are pending or being delivered."""
        return self._get("KVM_GET_VCPU_EVENTS", structs.kvm_vcpu_events())

    def set_events(self, values: Plain) -> None:
        """Load what ``events`` gave, perhaps changed."""
        self._set("KVM_SET_VCPU_EVENTS", structs.kvm_vcpu_events(), values)

    def set_delivery(self, values: Plain) -> None:
        """Of what ``events`` gave only what no other CPU can change meanwhile: what is being delivered, the
        interrupt shadow, the mask of NMIs.

        With the flags that KVM_GET_VCPU_EVENTS sets an NMI or an INIT that was sent since would be lost
        (kvm_vcpu_ioctl_x86_set_vcpu_events in arch/x86/kvm/x86.c clears both as pending).
        """
        self.set_events({**values, "flags": CONSTANTS["KVM_VCPUEVENT_VALID_SHADOW"]})

    def lapic(self) -> bytes:
        """The local APIC's registers (1 KiB), where it is in the kernel."""
        state = structs.kvm_lapic_state()
        self.struct("KVM_GET_LAPIC", state)
        return bytes(state)

    def set_lapic(self, registers: bytes) -> None:
        """Load what ``lapic`` gave."""
        self.struct("KVM_SET_LAPIC", structs.kvm_lapic_state.from_buffer_copy(registers))

    def mp_state(self) -> int:
        """KVM_MP_STATE_RUNNABLE, _HALTED, …"""
        return int(self._get("KVM_GET_MP_STATE", structs.kvm_mp_state())["mp_state"])

    def set_mp_state(self, value: int) -> None:
        """Set what ``mp_state`` reads."""
        self.struct("KVM_SET_MP_STATE", structs.kvm_mp_state(value))

    def interrupt(self, vector: int) -> None:
        """Queue an external interrupt, where no controller is in the kernel."""
        self.struct("KVM_INTERRUPT", structs.kvm_interrupt(vector))

    def nmi(self) -> None:
        """Queue a non-maskable interrupt, where no controller is in the kernel."""
        self.number("KVM_NMI")

    def debug(self, control: int) -> None:
        """KVM_SET_GUEST_DEBUG with KVM_GUESTDBG_ flags and no debug registers."""
        self.struct("KVM_SET_GUEST_DEBUG", structs.kvm_guest_debug(control))

    def tsc_khz(self) -> int:
        """The TSC's rate in kHz."""
        return self.number("KVM_GET_TSC_KHZ")
