"""A whole vCPU and VM as plain values, and the order in which they must be put back.

Snapshots, migration, the debugger and the post-mortem all use these two tables.
"""

from __future__ import annotations

from pykvm.kvm.errors import KvmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pykvm.kvm.vcpu import Vcpu
    from pykvm.kvm.vm import Vm

# MSRs that a guest can write and notice, in the order in which they are put back (SDM vol. 4, APM
# vol. 2 app. A; KVM's own from Documentation/virt/kvm/x86/msr.rst). A host refuses some: those are
# left out. The TSC comes late and its deadline last, as it is relative to the TSC.
MSRS = (
    (0x174, "IA32_SYSENTER_CS"),
    (0x175, "IA32_SYSENTER_ESP"),
    (0x176, "IA32_SYSENTER_EIP"),
    (0xC0000081, "STAR"),
    (0xC0000082, "LSTAR"),
    (0xC0000083, "CSTAR"),
    (0xC0000084, "SFMASK"),
    (0xC0000102, "KERNEL_GS_BASE"),
    (0xC0000103, "TSC_AUX"),
    (0x277, "IA32_PAT"),
    (0x2FF, "IA32_MTRR_DEF_TYPE"),
    *((0x200 + i, f"IA32_MTRR_PHYS{'MASK' if i & 1 else 'BASE'}{i >> 1}") for i in range(16)),
    (0x250, "IA32_MTRR_FIX64K_00000"),
    (0x258, "IA32_MTRR_FIX16K_80000"),
    (0x259, "IA32_MTRR_FIX16K_A0000"),
    *((0x268 + i, f"IA32_MTRR_FIX4K_{0xC0000 + 0x8000 * i:05X}") for i in range(8)),
    (0x1A0, "IA32_MISC_ENABLE"),
    (0x1D9, "IA32_DEBUGCTL"),
    (0x48, "IA32_SPEC_CTRL"),
    (0xDA0, "IA32_XSS"),
    (0x4B564D00, "KVM_WALL_CLOCK_NEW"),
    (0x4B564D01, "KVM_SYSTEM_TIME_NEW"),
    (0x4B564D02, "KVM_ASYNC_PF_EN"),
    (0x4B564D03, "KVM_STEAL_TIME"),
    (0x4B564D04, "KVM_PV_EOI_EN"),
    (0x4B564D05, "KVM_POLL_CONTROL"),
    (0x10, "IA32_TSC"),
    (0x3B, "IA32_TSC_ADJUST"),
    (0x6E0, "IA32_TSC_DEADLINE"),
)

# What a vCPU is made of, in the order of putting it back: sregs before regs, as KVM on hardware
# checks RIP and the flags against the mode; XCR0 before the FPU area that it describes; the APIC
# after sregs (which hold its base) and before MSRs (the TSC deadline arms its timer); events last.
PARTS: tuple[tuple[str, Callable[[Vcpu], Any], Callable[[Vcpu, Any], object]], ...] = (
    ("sregs", lambda vcpu: vcpu.sregs(), lambda vcpu, value: vcpu.set_sregs(value)),
    ("regs", lambda vcpu: vcpu.regs(), lambda vcpu, value: vcpu.set_regs(value)),
    ("xcr0", lambda vcpu: vcpu.xcr0(), lambda vcpu, value: vcpu.set_xcr0(value)),
    ("xsave", lambda vcpu: vcpu.xsave(), lambda vcpu, value: vcpu.set_xsave(value)),
    ("lapic", lambda vcpu: vcpu.lapic(), lambda vcpu, value: vcpu.set_lapic(value)),
    (
        "msrs",
        lambda vcpu: vcpu.msrs([index for index, _ in MSRS]),
        lambda vcpu, value: vcpu.set_msrs(value),
    ),
    ("debugregs", lambda vcpu: vcpu.debugregs(), lambda vcpu, value: vcpu.set_debugregs(value)),
    ("mp_state", lambda vcpu: vcpu.mp_state(), lambda vcpu, value: vcpu.set_mp_state(value)),
    ("events", lambda vcpu: vcpu.events(), lambda vcpu, value: vcpu.set_events(value)),
)

# What a VM is made of beyond memory and vCPUs: the controllers before the PIT that drives them.
VM_PARTS: tuple[tuple[str, Callable[[Vm], Any], Callable[[Vm, Any], object]], ...] = (
    ("irqchips", lambda vm: vm.irqchips(), lambda vm, value: vm.set_irqchips(value)),
    ("pit", lambda vm: vm.pit(), lambda vm, value: vm.set_pit(value)),
    ("clock", lambda vm: vm.clock(), lambda vm, value: vm.set_clock(value)),
)


def save_vm(vm: Vm) -> dict[str, Any]:
    """The in-kernel chips and clock; parts that this VM hasn't got are left out."""
    return _save(vm, VM_PARTS)


def load_vm(vm: Vm, state: dict[str, Any]) -> None:
    """Put back what ``save_vm`` gave, before the vCPUs. Raises KvmError."""
    _load(vm, VM_PARTS, state)


def save_vcpu(vcpu: Vcpu) -> dict[str, Any]:
    """Everything of a vCPU that a guest could notice; parts that this host can't give are left out."""
    return _save(vcpu, PARTS)


def load_vcpu(vcpu: Vcpu, state: dict[str, Any]) -> None:
    """Put back what ``save_vcpu`` gave, or those parts of it that ``state`` has. Raises KvmError."""
    _load(vcpu, PARTS, state)


def _save(whole: Any, parts: Any) -> dict[str, Any]:
    state = {}
    for name, get, _ in parts:
        try:
            state[name] = get(whole)
        except KvmError:  # no local APIC in the kernel, no XCR0, no PIT
            continue
    return state


def _load(whole: Any, parts: Any, state: dict[str, Any]) -> None:
    for name, _, put in parts:
        if name in state:
            put(whole, state[name])
