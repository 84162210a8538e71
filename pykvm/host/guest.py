"""A tiny guest for probes: a few instructions in a mode, run until they write to a port."""

from __future__ import annotations

import signal
import time

from pykvm.frozen import frozen
from pykvm.kvm import abi, run
from pykvm.kvm.errors import KvmError
from pykvm.kvm.system import cpuid_entries, cpuid_table
from pykvm.memory import GuestMemory
from pykvm.x86 import cpuid, entry
from pykvm.x86.registers import CR4_OSFXSR, CR4_OSXMMEXCPT, CR4_OSXSAVE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pykvm.kvm.system import Kvm

MEMORY = 0x4_0000
GDT = 0x1000
TABLES = 0x2000  # page tables: 24 KiB from here
STACK = 0xF000
CODE = 0x1_0000
DATA = 0x2_0000
HANDLER = 0x900  # where all vectors of real mode lead
VECTORS = (HANDLER.to_bytes(4, "little")) * 256
IRET, HLT = b"\xcf", b"\xf4"
END = bytes.fromhex("e6f4")  # out 0xf4, al
XCR0 = 7  # x87, SSE, AVX

LONGEST_NS = 250_000_000
"""After so long a guest of a few instructions hangs."""
NUDGE_SECONDS = 0.02

EMULATION = abi.CONSTANTS["KVM_INTERNAL_ERROR_EMULATION"]
HAS_BYTES = abi.CONSTANTS["KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES"]

WORKS, GIVEN_UP, FAILS, HANGS, RESETS, REFUSED = "works", "given-up", "fails", "hangs", "resets", "refused"
"""How a run ends: at its END; by an instruction that KVM's emulator gave up; by another error inside KVM;
not at all; by a triple fault; before it began."""


@frozen
class Ending:
    """How a guest ended, after how many nanoseconds, and the bytes of an instruction that was given up."""

    how: str
    ns: int
    code: bytes = b""


class ProbeGuest:
    """One VM with one vCPU; ``run`` starts it anew each time. Close it after use.

    ``run`` uses SIGALRM to leave a guest that hangs, and so is for the main thread.
    """

    def __init__(self, kvm: Kvm, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self._clock = clock
        self._memory = GuestMemory.pc(MEMORY)
        self._vm = kvm.create_vm()
        region = self._memory.regions[0]
        self._vm.set_memory(0, region.gpa, region.size, region.hva)
        self._vcpu = self._vm.create_vcpu(0)
        self._seen: list[dict[str, int]] = []

    def show(self, entries: list[dict[str, int]]) -> list[dict[str, int]]:
        """Set CPUID, before the first run; what the guest will see, after KVM has had its say."""
        self._vcpu.set_cpuid(cpuid_table(entries))
        self._seen = cpuid_entries(self._vcpu, "KVM_GET_CPUID2")
        return self._seen

    def tsc_khz(self) -> int:
        """The TSC's rate in kHz."""
        return self._vcpu.tsc_khz()

    def run(self, mode: str, code: bytes) -> Ending:
        """Run ``code`` in ``mode`` (real, protected, long) until its ``END``; RSI points to zeros at DATA."""
        self._memory.fill(0, MEMORY)
        self._memory.write(0, VECTORS)
        self._memory.write(HANDLER, IRET)
        self._memory.write(TABLES, entry.identity_map(TABLES))
        self._memory.write(CODE, code + END + HLT)
        self._settle()
        try:
            self._start(mode)
        except KvmError:
            return Ending(how=REFUSED, ns=0)
        before = signal.signal(signal.SIGALRM, lambda number, frame: None)
        # Again and again: a signal that comes before KVM_RUN is entered ends nothing.
        signal.setitimer(signal.ITIMER_REAL, LONGEST_NS / 1e9, NUDGE_SECONDS)
        try:
            return self._enter()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def _enter(self) -> Ending:
        started = self._clock()
        try:
            while self._vcpu.run():  # any signal ends KVM_RUN: that of a resized window too
                if self._clock() - started >= LONGEST_NS:
                    return Ending(how=HANGS, ns=self._clock() - started)
        except KvmError:
            return Ending(how=FAILS, ns=self._clock() - started)
        return self._ending(self._clock() - started)

    def _ending(self, ns: int) -> Ending:
        page = self._vcpu.page
        reason = page.u32[run.EXIT_REASON]
        if reason == abi.KVM_EXIT_IO:
            return Ending(how=WORKS, ns=ns)
        if reason == abi.KVM_EXIT_SHUTDOWN:
            return Ending(how=RESETS, ns=ns)
        if reason == abi.KVM_EXIT_FAIL_ENTRY:
            return Ending(how=REFUSED, ns=ns)
        if reason != abi.KVM_EXIT_INTERNAL_ERROR or page.u32[run.INTERNAL_SUBERROR] != EMULATION:
            return Ending(how=FAILS, ns=ns)
        code = b""
        if page.u32[run.INTERNAL_NDATA] >= 3 and page.u64[run.INTERNAL_DATA] & HAS_BYTES:
            size = min(page.u8[run.INSN_SIZE], 15)
            code = bytes(page.u8[run.INSN_BYTES : run.INSN_BYTES + size])
        return Ending(how=GIVEN_UP, ns=ns, code=code)

    def regs(self) -> dict[str, int]:
        """The registers as the run left them."""
        self._settle()
        return self._vcpu.regs()

    def finishes(self, code: bytes) -> bool:
        """Whether pykvm carries out the instruction ``code``, at which KVM has just given up."""
        from pykvm.x86.execute import Cpu, execute  # late: most hosts never need it

        cpu = Cpu(
            self._vcpu.regs(),
            self._vcpu.sregs(),
            xsave=self._vcpu.xsave,
            xcr0=self._xcr0(),
            features=cpuid.names(self._seen),
            components=cpuid.xsave_components(self._seen),
        )
        outcome = execute(cpu, self._memory, code) if code else None
        return outcome is not None and outcome.fault is None

    def _start(self, mode: str) -> None:
        state: Any
        if mode == "real":
            state = entry.real(CODE, stack=STACK)
        elif mode == "protected":
            state = entry.protected(CODE, stack=STACK, gdt=GDT, rsi=DATA)
        else:
            state = entry.long(CODE, stack=STACK, gdt=GDT, page_tables=TABLES, rsi=DATA)
        if mode != "real":
            self._memory.write(GDT, entry.descriptors(state))
        # The vectors of SSE and AVX are on, as an operating system has them.
        state["sregs"]["cr4"] |= CR4_OSFXSR | CR4_OSXMMEXCPT
        if cpuid.has(self._seen, "xsave"):
            state["sregs"]["cr4"] |= CR4_OSXSAVE
            self._vcpu.set_xcr0(self._xcr0())
        self._vcpu.set_sregs(state["sregs"])
        self._vcpu.set_regs(state["regs"])

    def _xcr0(self) -> int:
        return cpuid.xcr0_mask(self._seen) & XCR0 | 1

    def _settle(self) -> None:
        """An exit of the run before may be half done; KVM finishes it when it is entered again."""
        self._vcpu.page.u8[run.IMMEDIATE_EXIT] = 1
        try:
            self._vcpu.run()
        finally:
            self._vcpu.page.u8[run.IMMEDIATE_EXIT] = 0

    def close(self) -> None:
        self._vcpu.close()
        self._vm.close()
        self._memory.close()
