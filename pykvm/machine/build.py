"""A machine from its plan: memory, interrupt controllers, the board (board.py), CPUs, in this order.

There is a way for each back end. They differ in who has the guest's memory mapped, where the interrupt
controllers are, and what runs the CPUs; the board is the same.
"""

from __future__ import annotations

from pykvm.config.backend import on_backend
from pykvm.devices.bus import MemoryBus, PortBus
from pykvm.errors import HostError
from pykvm.host.cpuid import guest_cpuid
from pykvm.kvm.system import Kvm, cpuid_entries, cpuid_table
from pykvm.machine import board, verdict
from pykvm.machine.coalesced import CoalescedWrites
from pykvm.machine.interrupts import COM_IRQS, ROUTES, IsaLines, KvmLine
from pykvm.machine.kvmcpu import KvmCpu
from pykvm.machine.machine import Machine
from pykvm.memory import layout
from pykvm.x86 import cpuid

FEWEST_VCPUS = 4
"""What KVM allows where it doesn't tell (Documentation/virt/kvm/api.rst, KVM_CREATE_VCPU)."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.machine.plan import Plan


def build(plan: Plan, kvm: Kvm, cleared: Machine | None = None) -> Machine:
    """The machine of ``plan`` on ``kvm``, ready to ``start``: a new one, or ``cleared`` built again.

    Raises HostError where the host can't.
    """
    machine = cleared or Machine(on_backend(plan.config, "kvm"))
    try:
        _on_kvm(machine, plan, kvm)
    except BaseException:
        machine.close()
        raise
    return machine


def build_translated(plan: Plan, tsc_hz: int, cleared: Machine | None = None) -> Machine:
    """``build`` without KVM; the guest's TSC runs at ``tsc_hz``, as the host's does."""
    machine = cleared or Machine(on_backend(plan.config, "translate"))
    try:
        _on_translator(machine, plan, tsc_hz)
    except BaseException:
        machine.close()
        raise
    return machine


def _on_kvm(machine: Machine, plan: Plan, kvm: Kvm) -> None:
    config, memory = machine.config, plan.memory
    vm = machine.own(kvm.create_vm())
    ports, mmio = PortBus(), MemoryBus()

    # Memory.
    if vm.capability("KVM_CAP_SET_TSS_ADDR"):
        vm.set_identity_map_address(layout.KVM_IDENTITY_MAP)
        vm.set_tss_address(layout.KVM_TSS)
    for slot, region in enumerate(memory.regions):
        vm.set_memory(slot, region.gpa, region.size, region.hva, readonly=region.readonly)

    # Interrupt controllers and the timer chip.
    own = split = None
    kind: type[KvmCpu] = KvmCpu
    if config.interrupts == "user":
        # Late: where KVM has them nobody needs ours.
        from pykvm.devices.lapictimer import TIMER_HZ
        from pykvm.machine.controllers import Controllers
        from pykvm.machine.usercpu import UserInterruptCpu

        kind = UserInterruptCpu
        own = Controllers(machine.clock, ports, mmio, machine.devices)
        lines = IsaLines(own.input)
    elif config.interrupts == "split":
        from pykvm.machine.splitcpu import SplitControllers, SplitInterruptCpu

        kind = SplitInterruptCpu
        split = SplitControllers(vm, ports, mmio, machine.devices)
        lines = IsaLines(split.input)
    else:
        vm.create_irqchip()
        vm.set_routes(ROUTES)
        lines = IsaLines(lambda irq: KvmLine(vm, irq))
    if config.pit == "kernel":
        vm.create_pit()

    coalesced = CoalescedWrites(vm, ports)
    board.fit(machine, ports, mmio, lines, memory, own_pit=config.pit == "user", coalesced=coalesced)

    # CPUs.
    cpus = config.cpus
    allowed = vm.capability("KVM_CAP_MAX_VCPUS") or FEWEST_VCPUS
    if cpus.count > allowed:
        raise HostError(
            f"{cpus.count} CPUs are more than the {allowed} that this host's KVM gives a machine",
            where="cpus",
            remedy="give the machine fewer CPUs",
        )
    entries = guest_cpuid(kvm, cpus, own_apic=own is not None)
    for index in range(cpus.count):
        vcpu = vm.create_vcpu(index)
        asked = cpuid.for_vcpu(entries, index, cpus.max or cpus.count)
        cpu = kind(vcpu, ports, mmio, memory, machine.lock)
        thread = machine.add_cpu(cpu)
        cpu.coalesced = coalesced
        vcpu.set_cpuid(cpuid_table(asked))
        cpu.forgets = cpuid.is_amd(entries)
        if own is not None and isinstance(cpu, UserInterruptCpu):
            cpu.kick = thread.kick
            # The APIC's timer has no TSC to look at: CPUID offers no deadline.
            cpu.connect(own.add_apic(index, cpu, asked, lambda: 0, TIMER_HZ))
        elif split is not None and isinstance(cpu, SplitInterruptCpu):
            cpu.kick = thread.kick
            cpu.connect(split)
        if index == 0:
            coalesced.page = vcpu.page
            machine.cpuid_asked, machine.cpuid_seen = asked, cpuid_entries(vcpu, "KVM_GET_CPUID2")
            cpu.load(plan.entry.state)


def _on_translator(machine: Machine, plan: Plan, tsc_hz: int) -> None:
    # Late: where KVM is quick nobody needs the translator.
    from pykvm.devices.lapictimer import TIMER_HZ
    from pykvm.machine.controllers import Controllers
    from pykvm.translate import features
    from pykvm.translate.cpu import TranslatedCpu
    from pykvm.translate.keptbytes import KeptBytes
    from pykvm.translate.lateedge import LateEdges
    from pykvm.translate.shared import Shared

    config, memory = machine.config, plan.memory
    ports, mmio = PortBus(), MemoryBus()
    controllers = Controllers(machine.clock, ports, mmio, machine.devices)

    late = LateEdges(controllers.chips.pic, controllers.chips.ioapic)
    serial = COM_IRQS.values()
    lines = IsaLines(
        lambda irq: late.line(controllers.input(irq), irq) if irq in serial else controllers.input(irq)
    )
    kept = KeptBytes(ports)
    board.fit(machine, ports, mmio, lines, memory, own_pit=config.pit != "none", coalesced=kept)

    # CPUs.
    entries = cpuid.with_clocks(features.cpuid(config.cpus), TIMER_HZ, tsc_hz)
    shared = machine.own(Shared(memory, config.cpus.count))
    for index in range(config.cpus.count):
        asked = cpuid.for_vcpu(entries, index, config.cpus.max or config.cpus.count)
        cpu = TranslatedCpu(
            index, memory, ports, mmio, machine.lock, asked,
            tsc_hz=tsc_hz, cause=verdict.crash, shared=shared,
        )  # fmt: skip
        machine.add_cpu(cpu)
        cpu.connect(controllers.add_apic(index, cpu, asked, cpu.tsc, tsc_hz))
        kept.add(cpu)
        if config.cpus.count == 1:
            late.connect(cpu)
        if index == 0:
            machine.cpuid_asked = machine.cpuid_seen = asked
            cpu.load(plan.entry.state)
