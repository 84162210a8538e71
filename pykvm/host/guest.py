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
    from typing import Any

    from pykvm.kvm.system import Kvm

MEMORY = 1 << 20
GDT = 0x1000
TABLES = 0x2000  # page tables: 24 KiB from here
STACK = 0xF000
CODE = 0x1_0000
DATA = 0x2_0000
HANDLER = 0x900  # where all vectors of real mode lead
VECTORS = (HANDLER.to_bytes(4, "little")) * 256
IRET, HLT = b"\xcf", b"\xf4"
END = bytes.fromhex("e6f4")  # out 0xf4, al
LONGEST = 0.25
"""Seconds after which a guest hangs."""

# How a run ends.
DONE, GIVEN_UP, HANGS, SHUTDOWN, REFUSED = "done", "given-up", "hangs", "shutdown", "refused"


@frozen
class Ending:
    """How a guest ended, after how many nanoseconds, and of an instruction given up its bytes."""

    how: str
    ns: int
    code: bytes = b""
    al: int = 0


class ProbeGuest:
    """One VM with one vCPU; ``run`` starts it anew each time. Close it after use.

    ``run`` uses SIGALRM to leave a guest that hangs, and so is for the main thread.
    """

    def __init__(self, kvm: Kvm, entries: list[dict[str, int]]) -> None:
        self._memory = GuestMemory.pc(MEMORY)
        self._vm = kvm.create_vm()
        region = self._memory.regions[0]
        self._vm.set_memory(0, region.gpa, region.size, region.hva)
        self._vcpu = self._vm.create_vcpu(0)
        self._vcpu.set_cpuid(cpuid_table(entries))
        self._xsave = CR4_OSXSAVE if cpuid.has(self.cpuid(), "xsave") else 0

    def cpuid(self) -> list[dict[str, int]]:
        """What the guest sees, after KVM has had its say."""
        return cpuid_entries(self._vcpu, "KVM_GET_CPUID2")

    def run(self, mode: str, code: bytes, **regs: int) -> Ending:
        """Run ``code`` in ``mode`` (real, protected, long) until its ``END``."""
        self._memory.fill(0, MEMORY)
        self._memory.write(0, VECTORS)
        self._memory.write(HANDLER, IRET)
        self._memory.write(TABLES, entry.identity_map(TABLES))
        self._memory.write(CODE, code + END + HLT)
        self._start(mode, regs)
        before = signal.signal(signal.SIGALRM, lambda number, frame: None)
        signal.setitimer(signal.ITIMER_REAL, LONGEST)
        started = time.perf_counter_ns()
        try:
            interrupted = self._vcpu.run()
        except KvmError:
            return Ending(how=REFUSED, ns=time.perf_counter_ns() - started)
        finally:
            elapsed = time.perf_counter_ns() - started
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        return self._ending(interrupted, elapsed)

    def _ending(self, interrupted: int, elapsed: int) -> Ending:
        page = self._vcpu.page
        if interrupted:
            return Ending(how=HANGS, ns=elapsed)
        reason = page.u32[run.EXIT_REASON]
        if reason == abi.KVM_EXIT_IO:
            return Ending(how=DONE, ns=elapsed, al=page.u8[page.u64[run.IO_DATA_OFFSET]])
        if reason == abi.KVM_EXIT_INTERNAL_ERROR:
            size = min(page.u8[run.INSN_SIZE], 15)
            return Ending(
                how=GIVEN_UP, ns=elapsed, code=bytes(page.u8[run.INSN_BYTES : run.INSN_BYTES + size])
            )
        if reason == abi.KVM_EXIT_FAIL_ENTRY:
            return Ending(how=REFUSED, ns=elapsed)
        return Ending(how=SHUTDOWN, ns=elapsed)

    def _start(self, mode: str, regs: dict[str, int]) -> None:
        state: Any
        if mode == "real":
            state = entry.real(CODE, stack=STACK)
        elif mode == "protected":
            state = entry.protected(CODE, stack=STACK, gdt=GDT)
        else:
            state = entry.long(CODE, stack=STACK, gdt=GDT, page_tables=TABLES)
        if mode != "real":
            self._memory.write(GDT, entry.descriptors(state))
        state["sregs"]["cr4"] |= CR4_OSFXSR | CR4_OSXMMEXCPT | self._xsave  # as an operating system has them
        self._finish_exit()
        self._vcpu.set_sregs(state["sregs"])
        self._vcpu.set_regs({**state["regs"], **regs})

    def _finish_exit(self) -> None:
        """An exit of the run before may be half done; KVM finishes it when it is entered again."""
        self._vcpu.page.u8[run.IMMEDIATE_EXIT] = 1
        self._vcpu.run()
        self._vcpu.page.u8[run.IMMEDIATE_EXIT] = 0

    def close(self) -> None:
        self._vcpu.close()
        self._vm.close()
        self._memory.close()
