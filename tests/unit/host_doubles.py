"""A KVM that is given each gap alone: which guests it runs, it knows from their bytes in guest memory."""

from __future__ import annotations

import errno
from ctypes import string_at

from pykvm.host.guest import CODE, END, LONGEST_NS
from pykvm.host.programs import INSTRUCTIONS, PAGING
from pykvm.host.speed import SHORT, loop
from pykvm.kvm import abi, run, structs
from pykvm.kvm.capabilities import CAPABILITIES
from pykvm.kvm.errors import KvmError
from pykvm.x86.cpuid import SIGNIFICANT_INDEX, baseline
from pykvm.x86.features import BITS

EXIT_NS = 50_000
DELAY_NS = 10_000_000
PROGRAMS = {row.name: row for row in (*INSTRUCTIONS, *PAGING)}
FEATURES = baseline("x86-64-v1") | {row.needs for row in PROGRAMS.values() if row.needs} | {"avx2"}
XSAVE_LEAVES = ((0, {"eax": 7, "ecx": 832}), (1, {}), (2, {"eax": 256, "ebx": 576}))


def entries_of(names: frozenset[str] | set[str]) -> list[dict[str, int]]:
    """CPUID with these features, and the state that XSAVE saves for AVX."""
    leaves: dict[tuple[int, int], dict[str, int]] = {(0, 0): {"eax": 0xD}, (0x8000_0000, 0): {}}
    for leaf, subleaf, register, _ in BITS.values():
        leaves.setdefault((leaf, subleaf), {})[register] = 0
    for subleaf, registers in XSAVE_LEAVES:
        leaves.setdefault((0xD, subleaf), {}).update(registers)
    for name in names:
        leaf, subleaf, register, bit = BITS[name]
        leaves[leaf, subleaf][register] |= 1 << bit
    return [
        {
            "function": leaf,
            "index": subleaf,
            "flags": SIGNIFICANT_INDEX if leaf in (7, 0xD) else 0,
            **{register: registers.get(register, 0) for register in ("eax", "ebx", "ecx", "edx")},
        }
        for (leaf, subleaf), registers in sorted(leaves.items())
    ]


class FakeKvm:
    """Flawless but for what it is told: ``gaps`` says by the name of a program how it ends."""

    def __init__(
        self,
        *,
        gaps: dict[str, str] | None = None,
        given_up: bytes = b"",
        mips: float = 3000.0,
        offers: set[str] | frozenset[str] = FEATURES,
        adds: set[str] | frozenset[str] = frozenset(),
        takes: set[str] | frozenset[str] = frozenset(),
        lacks: set[str] | frozenset[str] = frozenset(),
        signals: int = 0,
        delays: int = 0,
    ) -> None:
        self.gaps = dict(gaps or {})
        self.given_up = given_up
        self.mips = mips
        self.offers, self.adds, self.takes, self.lacks = offers, adds, takes, lacks
        self.signals = signals
        self.delays = delays  # so many of the loops that are measured find the host busy
        self.vms = 0
        self.still_open = 0
        self.tried: list[str] = []
        self.time = 0

    def clock(self) -> int:
        return self.time

    def capability(self, name: str) -> int:
        return 0 if name in self.lacks else CAPABILITIES[name][0] + 1

    def supported_cpuid(self) -> list[dict[str, int]]:
        return entries_of(self.offers)

    def create_vm(self) -> FakeVm:
        self.vms += 1
        self.still_open += 1
        return FakeVm(self)


class FakeVm:
    def __init__(self, kvm: FakeKvm) -> None:
        self.kvm = kvm
        self.hva = 0

    def set_memory(self, slot: int, gpa: int, size: int, hva: int) -> None:
        self.hva = hva - gpa

    def create_vcpu(self, index: int) -> FakeVcpu:
        self.kvm.still_open += 1
        return FakeVcpu(self)

    def close(self) -> None:
        self.kvm.still_open -= 1


class FakePage:
    def __init__(self) -> None:
        self.u8 = memoryview(bytearray(4096))
        self.u16, self.u32, self.u64 = (self.u8.cast(letter) for letter in "HIQ")


class FakeVcpu:
    def __init__(self, vm: FakeVm) -> None:
        self.kvm, self._vm = vm.kvm, vm
        self.page = FakePage()
        self._cpuid: list[dict[str, int]] = []
        self._regs: dict[str, int] = {}
        self._sregs: dict[str, object] = {}

    # CPUID: what is asked for, but for what this KVM adds and takes.

    def set_cpuid(self, table) -> None:
        self._cpuid = [structs.to_dict(one) for one in table.entries[: table.nent]]
        for names, state in ((self.kvm.adds, 1), (self.kvm.takes, 0)):
            for name in names:
                leaf, subleaf, register, bit = BITS[name]
                for one in self._cpuid:
                    if (one["function"], one["index"]) == (leaf, subleaf):
                        one[register] = one[register] & ~(1 << bit) | state << bit

    def struct(self, name: str, table) -> int:
        assert name == "KVM_GET_CPUID2"
        table.nent = len(self._cpuid)
        for slot, one in zip(table.entries, self._cpuid, strict=False):
            structs.from_dict(slot, one)
        return 0

    # Registers.

    def set_regs(self, values) -> None:
        self._regs = dict(values)

    def set_sregs(self, values) -> None:
        self._sregs = dict(values)

    def set_xcr0(self, value: int) -> None:
        assert value & 1

    def regs(self):
        return dict(self._regs)

    def sregs(self):
        return dict(self._sregs)

    def xsave(self) -> bytes:
        return bytes(4096)

    def tsc_khz(self) -> int:
        return 2_000_000

    # KVM_RUN.

    def run(self) -> int:
        if self.page.u8[run.IMMEDIATE_EXIT]:
            return errno.EINTR
        if self.kvm.signals:
            self.kvm.signals -= 1
            return errno.EINTR
        self.kvm.time += EXIT_NS
        code = string_at(self._vm.hva + CODE, 128)
        rounds = int.from_bytes(code[1:5], "little")
        if code.startswith(loop(rounds)):
            if self.kvm.delays and rounds > SHORT:
                self.kvm.delays -= 1
                self.kvm.time += DELAY_NS
            self.kvm.time += int(2 * rounds * 1000 / self.kvm.mips)
            return self._exit(abi.KVM_EXIT_IO)
        (row,) = (row for row in PROGRAMS.values() if code.startswith(row.code + END))
        self.kvm.tried.append(row.name)
        return self._end(self.kvm.gaps.get(row.name, "works"), row.expect)

    def _end(self, how: str, expect) -> int:
        if how == "works":
            self._regs.update(expect)
        elif how == "wrong":
            self._regs.update((name, value ^ 1) for name, value in expect.items())
        elif how == "hangs once":
            self.kvm.gaps.clear()
            how = "hangs"
        if how == "hangs":
            self.kvm.time += LONGEST_NS
            return errno.EINTR
        if how == "fails":
            raise KvmError("KVM_RUN", errno.EFAULT)
        if how == "given-up":
            self._tell_of(self.kvm.given_up)
        return self._exit(
            {
                "given-up": abi.KVM_EXIT_INTERNAL_ERROR,
                "resets": abi.KVM_EXIT_SHUTDOWN,
                "refused": abi.KVM_EXIT_FAIL_ENTRY,
            }.get(how, abi.KVM_EXIT_IO)
        )

    def _exit(self, reason: int) -> int:
        self.page.u32[run.EXIT_REASON] = reason
        return 0

    def _tell_of(self, code: bytes) -> None:
        page = self.page
        page.u32[run.INTERNAL_SUBERROR] = abi.CONSTANTS["KVM_INTERNAL_ERROR_EMULATION"]
        page.u32[run.INTERNAL_NDATA] = 4 if code else 0
        page.u64[run.INTERNAL_DATA] = abi.CONSTANTS["KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES"]
        page.u8[run.INSN_SIZE] = len(code)
        page.u8[run.INSN_BYTES : run.INSN_BYTES + len(code)] = code

    def close(self) -> None:
        self.kvm.still_open -= 1
