"""Finishing an instruction that KVM's emulator gave up (KVM_EXIT_INTERNAL_ERROR, suberror 1).

The vCPU's registers become plain values, ``x86/execute`` carries the instruction out on them, on guest
memory and on the devices among its addresses, and what has changed goes back. Hosts whose KVM runs the
guest's kernel on the hardware come here never or seldom; hosts whose KVM interprets it come here for each
``iret`` of old kernels.
"""

from __future__ import annotations

from collections.abc import MutableMapping

from pykvm.kvm.system import cpuid_entries
from pykvm.machine import verdict
from pykvm.x86 import cpuid
from pykvm.x86.exceptions import DB, Fault
from pykvm.x86.execute import Cpu, execute
from pykvm.x86.execute.interrupts import raise_exception
from pykvm.x86.execute.linear import Linear

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pykvm.kvm.vcpu import Vcpu
    from pykvm.machine.verdict import Cause
    from pykvm.x86.execute.linear import Memory

LONGEST = 15
"""Bytes of the longest instruction (SDM vol. 2 §2.3.11)."""
DR6_BS = 1 << 14


class Msrs(MutableMapping[int, int]):
    """The vCPU's MSRs by number, read and written one by one."""

    def __init__(self, vcpu: Vcpu) -> None:
        self._vcpu = vcpu

    def __getitem__(self, index: int) -> int:
        return self._vcpu.msrs([index])[index]

    def __setitem__(self, index: int, value: int) -> None:
        self._vcpu.set_msrs({index: value})

    def __delitem__(self, index: int) -> None:
        raise KeyError(index)

    def __iter__(self) -> Iterator[int]:
        return iter(())

    def __len__(self) -> int:
        return 0


class Finisher:
    """Finishes instructions for one vCPU; ``memory`` is all that its operands can lie in."""

    def __init__(self, vcpu: Vcpu, memory: Memory) -> None:
        self._vcpu = vcpu
        self._memory = memory
        entries = cpuid_entries(vcpu, "KVM_GET_CPUID2")
        self._features = cpuid.names(entries)
        self._components = cpuid.xsave_components(entries)
        self._physical_bits = cpuid.physical_bits(entries)

    def finish(self, code: bytes) -> Cause | None:
        """Carry the instruction out, or say that the guest crashed by it.

        ``code`` is what KVM said lies at RIP, perhaps nothing.
        """
        vcpu = self._vcpu
        events = vcpu.events()
        cpu = Cpu(
            vcpu.regs(),
            vcpu.sregs(),
            xsave=vcpu.xsave,
            xcr0=vcpu.xcr0(),
            msrs=Msrs(vcpu),
            features=self._features,
            components=self._components,
            physical_bits=self._physical_bits,
        )
        cpu.nmi_masked = bool(events["nmi"]["masked"])
        linear = Linear(cpu, self._memory)
        if not code:
            code = _fetch(linear, cpu)
        outcome = execute(cpu, self._memory, code)
        if outcome is None:
            return _given_up(cpu, code)
        fault = outcome.fault
        if fault is None and outcome.single_step:
            debug = vcpu.debugregs()
            vcpu.set_debugregs({**debug, "dr6": debug["dr6"] | DR6_BS})
            fault = Fault(DB)
        if fault is not None and not raise_exception(cpu, linear, fault):
            return verdict.crash(
                "triple-fault",
                f"the guest crashed: triple fault, begun by {fault} in {outcome.name}",
                "often there is no valid IDT, or its stack isn't mapped",
            )
        self._put_back(cpu, events)
        return None

    def _put_back(self, cpu: Cpu, events: dict[str, dict[str, int]]) -> None:
        vcpu = self._vcpu
        if "sregs" in cpu.changed:
            vcpu.set_sregs(cpu.sregs)
        vcpu.set_regs(dict(cpu.regs))
        if "xcr0" in cpu.changed:
            vcpu.set_xcr0(cpu.xcr0)
        if "xsave" in cpu.changed:
            vcpu.set_xsave(cpu.area.image())
        shadow = int(cpu.interrupt_shadow)
        if events["interrupt"]["shadow"] != shadow or events["nmi"]["masked"] != cpu.nmi_masked:
            events["interrupt"]["shadow"] = shadow
            events["nmi"]["masked"] = int(cpu.nmi_masked)
            vcpu.set_delivery(events)


def _fetch(linear: Linear, cpu: Cpu) -> bytes:
    """The bytes at CS:RIP, as many as can be read."""
    start = cpu.regs["rip"] + (0 if cpu.bits == 64 else cpu.sregs["cs"]["base"])
    code = b""
    try:
        while len(code) < LONGEST:
            code += linear.read_linear(start + len(code), 1, user=cpu.cpl == 3)
    except Fault:  # the instruction ends before what is not mapped, or KVM would have raised it
        return code
    return code


def _given_up(cpu: Cpu, code: bytes) -> Cause:
    from pykvm.x86.disasm import disassemble  # late: capstone takes 60 ms, and only a crash needs it

    rip = cpu.regs["rip"]
    if code == b"\xff" * LONGEST:
        where = rip + (0 if cpu.bits == 64 else cpu.sregs["cs"]["base"])
        return verdict.crash(
            "internal-error",
            f"the guest ran to {where:#x}, where there is no memory (all reads give ff)",
            "a jump or a return went astray, or the guest believes in more memory than `memory` gives",
            rip=rip,
            code=code.hex(),
        )
    lines = disassemble(code, rip, cpu.bits, 1) if code else []
    shown = lines[0] if lines else f"{rip:#x}: (no memory there)"
    return verdict.crash(
        "internal-error",
        f"this host's KVM can't carry out an instruction of the guest, nor can pykvm: {shown}",
        "run the guest by translation (`--set backend=translate`)",
        rip=rip,
        code=code.hex(),
    )
