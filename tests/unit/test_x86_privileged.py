"""HLT, CLI, STI, CPUID, MSRs, time, and the fast system calls, by the manuals' pseudo-code."""

from __future__ import annotations

import pytest
from x86_machine import STACK, USER_STACK, Machine

from pykvm.x86.exceptions import GP, UD
from pykvm.x86.execute import execute
from pykvm.x86.msr import (
    IA32_CSTAR,
    IA32_EFER,
    IA32_FMASK,
    IA32_FS_BASE,
    IA32_GS_BASE,
    IA32_KERNEL_GS_BASE,
    IA32_LSTAR,
    IA32_STAR,
    IA32_SYSENTER_CS,
    IA32_SYSENTER_EIP,
    IA32_SYSENTER_ESP,
    IA32_TSC,
)
from pykvm.x86.registers import (
    CR4_PVI,
    CR4_TSD,
    CR4_VME,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    EFER_SCE,
    RFLAGS_CF,
    RFLAGS_IF,
    RFLAGS_RF,
    RFLAGS_TF,
    RFLAGS_VIF,
    RFLAGS_VIP,
    RFLAGS_VM,
)

HLT, CLI, STI, CPUID, RDTSC, RDMSR, WRMSR, RDPMC = (
    "f4",
    "fa",
    "fb",
    "0f a2",
    "0f 31",
    "0f 32",
    "0f 30",
    "0f 33",
)
SYSCALL, SYSRET, SYSRETQ, SYSENTER, SYSEXIT = "0f 05", "0f 07", "48 0f 07", "0f 34", "0f 35"


def test_hlt_halts_ring_0_and_is_gp_elsewhere():
    machine = Machine("long")
    machine.run(HLT)
    assert machine.cpu.halted
    assert machine.regs["rip"] == 0x1_0001
    machine = Machine("long", cpl=3)
    assert machine.fault(HLT) == (GP, 0)
    assert not machine.cpu.halted


# Interrupts on and off


def test_sti_holds_interrupts_for_one_instruction_where_they_were_off():
    machine = Machine("long")
    machine.run(STI)
    assert machine.flag(RFLAGS_IF)
    assert machine.cpu.interrupt_shadow
    machine.run(STI)
    assert not machine.cpu.interrupt_shadow
    machine.run(CLI)
    assert not machine.flag(RFLAGS_IF)


def test_sti_does_not_hold_the_single_step_trap():
    machine = Machine("long")
    machine.regs["rflags"] |= RFLAGS_TF
    assert machine.run(STI).single_step


@pytest.mark.parametrize("code", [CLI, STI])
@pytest.mark.parametrize(
    ("cpl", "iopl", "allowed"), [(0, 0, True), (3, 3, True), (3, 2, False), (1, 0, False)]
)
def test_iopl_says_who_may(code: str, cpl: int, iopl: int, allowed: bool):
    machine = Machine("protected", cpl=cpl)
    machine.regs["rflags"] |= iopl << 12
    if allowed:
        assert machine.run(code).fault is None
    else:
        assert machine.fault(code) == (GP, 0)


@pytest.mark.parametrize(("bit", "v86"), [(CR4_PVI, False), (CR4_VME, True)])
def test_virtual_interrupts_change_vif(bit: int, v86: bool):
    machine = Machine("protected", cpl=3)
    if v86:
        machine.enter_v86(iopl=0)
    assert machine.fault(STI) == (GP, 0)
    machine.sregs["cr4"] |= bit
    machine.run(STI)
    assert machine.flag(RFLAGS_VIF)
    assert not machine.flag(RFLAGS_IF)
    machine.run(CLI)
    assert not machine.flag(RFLAGS_VIF)
    machine.regs["rflags"] |= RFLAGS_VIP
    assert machine.fault(STI) == (GP, 0)


# CPUID and time


def test_cpuid_asks_for_leaf_and_subleaf():
    machine = Machine("long", cpl=3)
    asked = []

    def answer(leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        asked.append((leaf, subleaf))
        return 1, 2, 3, 0xFFFF_FFFF

    assert execute(machine.cpu, machine.memory, bytes.fromhex(CPUID)) is None
    machine.cpu.cpuid = answer
    machine.regs |= {"rax": 0x5_0000_000D, "rcx": 0x7_0000_0001, "rdx": 1 << 40}
    machine.run(CPUID)
    assert asked == [(0xD, 1)]
    assert [machine.regs[name] for name in ("rax", "rbx", "rcx", "rdx")] == [1, 2, 3, 0xFFFF_FFFF]


def test_rdtsc_reads_the_clock_unless_tsd_forbids():
    machine = Machine("long", cpl=3)
    machine.cpu.msrs = {IA32_TSC: 5}
    machine.run(RDTSC)
    assert (machine.regs["rdx"], machine.regs["rax"]) == (0, 5)
    machine.cpu.tsc = lambda: 0x1122_3344_5566_7788
    machine.run(RDTSC)
    assert (machine.regs["rdx"], machine.regs["rax"]) == (0x1122_3344, 0x5566_7788)
    machine.sregs["cr4"] |= CR4_TSD
    assert machine.fault(RDTSC) == (GP, 0)


def test_there_are_no_performance_counters():
    assert Machine("long").fault(RDPMC) == (GP, 0)


# MSRs


def wrmsr(machine: Machine, number: int, value: int) -> tuple[int, int | None] | None:
    machine.regs |= {"rcx": number, "rax": value & 0xFFFF_FFFF, "rdx": value >> 32}
    fault = machine.run(WRMSR).fault
    return None if fault is None else (fault.vector, fault.error)


def rdmsr(machine: Machine, number: int) -> int:
    machine.regs["rcx"] = number
    machine.run(RDMSR)
    return machine.regs["rdx"] << 32 | machine.regs["rax"]


class Msrs(dict):
    def __setitem__(self, number: int, value: int) -> None:
        if number not in self:
            raise KeyError(number)
        super().__setitem__(number, value)


def test_msrs_are_the_mappings_and_what_it_lacks_is_gp():
    machine = Machine("long")
    machine.cpu.msrs = Msrs({0x10: 7})
    assert rdmsr(machine, 0x10) == 7
    assert wrmsr(machine, 0x10, 0x1122_3344_5566_7788) is None
    assert rdmsr(machine, 0x10) == 0x1122_3344_5566_7788
    assert wrmsr(machine, 0x11, 1) == (GP, 0)
    machine.regs["rcx"] = 0x11
    assert machine.fault(RDMSR) == (GP, 0)
    machine = Machine("long", cpl=3)
    assert machine.fault(RDMSR) == machine.fault(WRMSR) == (GP, 0)


@pytest.mark.parametrize(("number", "name"), [(IA32_FS_BASE, "fs"), (IA32_GS_BASE, "gs")])
def test_the_bases_of_fs_and_gs_are_those_of_the_segments(number: int, name: str):
    machine = Machine("long")
    assert wrmsr(machine, number, 0xFFFF_8000_0000_1000) is None
    assert machine.sregs[name]["base"] == rdmsr(machine, number) == 0xFFFF_8000_0000_1000
    assert machine.cpu.msrs == {}


@pytest.mark.parametrize(
    "number", [IA32_FS_BASE, IA32_KERNEL_GS_BASE, IA32_LSTAR, IA32_CSTAR, IA32_SYSENTER_EIP]
)
def test_msrs_that_hold_addresses_want_canonical_ones(number: int):
    assert wrmsr(Machine("long"), number, 1 << 47) == (GP, 0)
    assert wrmsr(Machine("long"), number, (1 << 64) - (1 << 47)) is None


def test_efer_is_kept_with_its_features_and_its_rules():
    machine = Machine("long")
    told = []
    machine.cpu.flush = told.append
    old = machine.sregs["efer"]
    assert wrmsr(machine, IA32_EFER, old & ~EFER_LMA | EFER_NXE | EFER_SCE) is None
    assert machine.sregs["efer"] == old | EFER_NXE | EFER_SCE
    assert rdmsr(machine, IA32_EFER) == machine.sregs["efer"]
    assert told == [None]
    assert wrmsr(machine, IA32_EFER, EFER_SCE) == (GP, 0)  # LME, with paging on
    assert wrmsr(machine, IA32_EFER, old | 1 << 20) == (GP, 0)
    machine.cpu.features = frozenset(("lm", "syscall"))
    assert wrmsr(machine, IA32_EFER, old | EFER_NXE) == (GP, 0)


def test_legacy_code_may_set_lme_and_not_lma():
    machine = Machine("protected")
    assert wrmsr(machine, IA32_EFER, EFER_LME | EFER_LMA) is None
    assert machine.sregs["efer"] == EFER_LME


# MONITOR and MWAIT


@pytest.mark.parametrize("code", ["0f 01 c8", "0f 01 c9"])
def test_monitor_and_mwait_exist_where_cpuid_says_so(code: str):
    machine = Machine("long")
    machine.regs["rax"] = 0x4_0000
    assert machine.run(code).fault is None
    machine.cpu.features = frozenset()
    assert machine.fault(code) == (UD, None)
    assert Machine("long", cpl=3).fault(code) == (UD, None)


@pytest.mark.parametrize("code", ["0f 0b", "0f b9 00", "0f ff 00"])
def test_ud_is_ud(code: str):
    assert Machine("protected").fault(code) == (UD, None)


# Fast system calls


def with_star(mode: str, cpl: int = 0) -> Machine:
    machine = Machine(mode, cpl=cpl)
    machine.sregs["efer"] |= EFER_SCE
    machine.cpu.msrs = {
        IA32_STAR: 0x0023_0010_0000_7777,
        IA32_LSTAR: 0xFFFF_8000_0000_1000,
        IA32_CSTAR: 0xFFFF_8000_0000_2000,
        IA32_FMASK: RFLAGS_IF | RFLAGS_TF,
        IA32_SYSENTER_CS: 0x50,
        IA32_SYSENTER_ESP: 0xFFFF_8000_0000_3000,
        IA32_SYSENTER_EIP: 0xFFFF_8000_0000_4000,
    }
    return machine


def test_syscall_goes_to_lstar_in_ring_0():
    machine = with_star("long", cpl=3)
    machine.regs["rflags"] = 2 | RFLAGS_IF | RFLAGS_CF | RFLAGS_RF
    machine.run(SYSCALL)
    assert (machine.regs["rip"], machine.regs["rcx"]) == (0xFFFF_8000_0000_1000, 0x1_0002)
    assert (machine.regs["r11"], machine.regs["rflags"]) == (2 | RFLAGS_IF | RFLAGS_CF, 2 | RFLAGS_CF)
    assert (machine.cpu.cpl, machine.cpu.bits) == (0, 64)
    assert (machine.sregs["cs"]["selector"], machine.sregs["ss"]["selector"]) == (0x10, 0x18)
    assert machine.regs["rsp"] == USER_STACK


def test_syscall_that_masks_tf_takes_no_trap():
    machine = with_star("long", cpl=3)
    machine.regs["rflags"] |= RFLAGS_TF
    assert not machine.run(SYSCALL).single_step
    machine = with_star("long", cpl=3)
    machine.cpu.msrs[IA32_FMASK] = 0
    machine.regs["rflags"] |= RFLAGS_TF
    assert machine.run(SYSCALL).single_step


def test_syscall_of_compatibility_mode_goes_to_cstar():
    machine = with_star("long", cpl=3)
    machine.sregs["cs"] |= {"l": 0, "db": 1}
    machine.run(SYSCALL)
    assert machine.regs["rip"] == 0xFFFF_8000_0000_2000
    assert machine.cpu.bits == 64


def test_syscall_of_legacy_mode_takes_its_target_from_star():
    machine = with_star("protected", cpl=3)
    machine.regs["rflags"] |= RFLAGS_IF
    machine.run(SYSCALL)
    assert (machine.regs["rip"], machine.regs["rcx"]) == (0x7777, 0x1_0002)
    assert (machine.cpu.cpl, machine.cpu.bits) == (0, 32)
    assert not machine.flag(RFLAGS_IF)
    machine.run(SYSRET)
    assert (machine.regs["rip"], machine.cpu.cpl) == (0x1_0002, 3)
    assert machine.flag(RFLAGS_IF)


def test_sysret_returns_to_64_bit_or_compatibility_mode():
    for code, bits, selector in ((SYSRETQ, 64, 0x33), (SYSRET, 32, 0x23)):
        machine = with_star("long")
        machine.regs |= {"rcx": 0x1234, "r11": 2 | RFLAGS_IF | RFLAGS_RF | RFLAGS_VM}
        machine.run(code)
        assert (machine.regs["rip"], machine.regs["rflags"]) == (0x1234, 2 | RFLAGS_IF)
        assert (machine.cpu.cpl, machine.cpu.bits) == (3, bits)
        assert (machine.sregs["cs"]["selector"], machine.sregs["ss"]["selector"]) == (selector, 0x2B)


def test_sysret_faults_before_it_leaves_ring_0():
    machine = with_star("long")
    machine.regs["rcx"] = 1 << 47
    assert machine.fault(SYSRETQ) == (GP, 0)
    assert with_star("long", cpl=3).fault(SYSRETQ) == (GP, 0)


@pytest.mark.parametrize("code", [SYSCALL, SYSRETQ])
def test_without_sce_they_are_ud(code: str):
    machine = with_star("long")
    machine.sregs["efer"] &= ~EFER_SCE
    assert machine.fault(code) == (UD, None)


@pytest.mark.parametrize(
    ("mode", "mask", "bits"), [("long", (1 << 64) - 1, 64), ("protected", 0xFFFF_FFFF, 32)]
)
def test_sysenter_and_sysexit(mode: str, mask: int, bits: int):
    machine = with_star(mode, cpl=3)
    machine.regs["rflags"] |= RFLAGS_IF
    machine.run(SYSENTER)
    assert machine.regs["rip"] == 0xFFFF_8000_0000_4000 & mask
    assert machine.regs["rsp"] == 0xFFFF_8000_0000_3000 & mask
    assert (machine.cpu.cpl, machine.cpu.bits) == (0, bits)
    assert (machine.sregs["cs"]["selector"], machine.sregs["ss"]["selector"]) == (0x50, 0x58)
    assert not machine.flag(RFLAGS_IF)
    machine.regs |= {"rdx": 0x1234, "rcx": STACK}
    machine.run(SYSEXIT)
    assert (machine.regs["rip"], machine.regs["rsp"]) == (0x1234, STACK)
    assert (machine.cpu.cpl, machine.cpu.bits) == (3, 32)
    assert (machine.sregs["cs"]["selector"], machine.sregs["ss"]["selector"]) == (0x63, 0x6B)


def test_sysexit_to_64_bit_mode():
    machine = with_star("long")
    machine.regs |= {"rdx": 0x7FFF_0000_1234, "rcx": 0x7FFF_0000_5678}
    machine.run("48 0f 35")
    assert (machine.regs["rip"], machine.regs["rsp"]) == (0x7FFF_0000_1234, 0x7FFF_0000_5678)
    assert (machine.sregs["cs"]["selector"], machine.cpu.bits) == (0x73, 64)
    machine = with_star("long")
    machine.regs["rdx"] = 1 << 50
    assert machine.fault("48 0f 35") == (GP, 0)


def test_sysenter_without_a_selector_is_gp():
    machine = with_star("long", cpl=3)
    machine.cpu.msrs[IA32_SYSENTER_CS] = 3
    assert machine.fault(SYSENTER) == (GP, 0)
    assert Machine("real").fault(SYSENTER) == (GP, None)
    assert with_star("protected", cpl=3).fault(SYSEXIT) == (GP, 0)
