"""System instructions and hints, by the manual's pseudo-code."""

from __future__ import annotations

import pytest
from x86_machine import KERNEL_DATA, Machine

from pykvm.x86.exceptions import GP, MF, NM, PF, UD
from pykvm.x86.execute import execute
from pykvm.x86.msr import (
    IA32_APERF,
    IA32_KERNEL_GS_BASE,
    IA32_MPERF,
    IA32_TSC,
    IA32_TSC_AUX,
)
from pykvm.x86.registers import (
    CR0_EM,
    CR0_MP,
    CR0_NE,
    CR0_TS,
    CR4_CET,
    CR4_FSGSBASE,
    CR4_OSXSAVE,
    CR4_PCIDE,
    CR4_PKE,
    CR4_TSD,
    RFLAGS_AC,
    RFLAGS_CF,
)

CLAC, STAC, XGETBV, XSETBV = "0f 01 ca", "0f 01 cb", "0f 01 d0", "0f 01 d1"
SWAPGS, RDTSCP, CLZERO, RDPRU = "0f 01 f8", "0f 01 f9", "0f 01 fc", "0f 01 fd"
INVPCID = "66 0f 38 82 03"  # invpcid rax, [rbx]


def edx_eax(machine: Machine) -> int:
    return machine.regs["rdx"] << 32 | machine.regs["rax"]


def set_edx_eax(machine: Machine, value: int) -> None:
    machine.regs |= {"rax": value & 0xFFFF_FFFF, "rdx": value >> 32}


# RDPKRU, WRPKRU


def test_pkru_is_the_component_of_the_xsave_area_and_its_change_is_told():
    machine = Machine("long", cpl=3)
    told = []
    machine.cpu.flush = told.append
    assert machine.fault("0f 01 ee") == (UD, None)
    machine.sregs["cr4"] |= CR4_PKE
    machine.regs |= {"rax": 0x5555_5554, "rcx": 0, "rdx": 0}
    machine.run("0f 01 ef")
    assert machine.cpu.area.pkru() == 0x5555_5554
    assert (told, machine.cpu.changed) == ([None], {"xsave"})
    machine.regs |= {"rax": 1 << 40, "rdx": 1}
    machine.run("0f 01 ee")
    assert edx_eax(machine) == 0x5555_5554
    machine.regs["rdx"] = 1
    assert machine.fault("0f 01 ef") == (GP, 0)
    machine.regs["rcx"] = 1
    assert machine.fault("0f 01 ee") == (GP, 0)


# FWAIT


def test_fwait_raises_nm_only_with_mp_and_ts():
    for cr0, fault in ((CR0_MP, False), (CR0_TS, False), (CR0_MP | CR0_TS, True)):
        machine = Machine("long")
        machine.sregs["cr0"] |= cr0
        assert machine.fault("9b") == (NM, None) if fault else machine.run("9b").fault is None


def test_fwait_raises_a_pending_x87_exception_with_ne():
    machine = Machine("long")
    machine.cpu.area.set_component(0, (0x37E).to_bytes(2, "little") + b"\x81\x80".ljust(150, b"\0"))
    assert machine.run("9b").fault is None
    machine.sregs["cr0"] |= CR0_NE
    assert machine.fault("9b") == (MF, None)


# FNSTSW


def test_fnstsw_gives_the_status_word_in_ax_whatever_is_pending():
    machine = Machine("long")
    machine.sregs["cr0"] |= CR0_NE
    machine.regs["rax"] = 0x1234_5678_9ABC_DEF0
    machine.cpu.area.set_component(0, (0x37E).to_bytes(2, "little") + b"\x81\x80".ljust(150, b"\0"))
    assert machine.run("df e0").fault is None
    assert machine.regs["rax"] == 0x1234_5678_9ABC_8081


@pytest.mark.parametrize("bit", [CR0_EM, CR0_TS])
def test_fnstsw_raises_nm_where_there_is_no_fpu_or_it_is_anothers(bit):
    machine = Machine("protected")
    machine.sregs["cr0"] |= bit
    assert machine.fault("df e0") == (NM, None)


# CLAC, STAC


def test_stac_and_clac_set_and_clear_ac():
    machine = Machine("long")
    machine.run(STAC)
    assert machine.flag(RFLAGS_AC)
    machine.run(CLAC)
    assert not machine.flag(RFLAGS_AC)


@pytest.mark.parametrize("code", [CLAC, STAC])
def test_outside_of_ring_0_stac_and_clac_are_ud(code: str):
    assert Machine("long", cpl=3).fault(code) == (UD, None)


# XGETBV, XSETBV


def test_xgetbv_gives_xcr0():
    machine = Machine("long", cpl=3)
    machine.sregs["cr4"] |= CR4_OSXSAVE
    machine.cpu.xcr0 = 0x2_0000_0007
    machine.regs |= {"rax": (1 << 64) - 1, "rdx": (1 << 64) - 1, "rcx": 1 << 32}
    machine.run(XGETBV)
    assert edx_eax(machine) == 0x2_0000_0007


def test_xgetbv_1_gives_what_is_in_use():
    machine = Machine("long")
    machine.sregs["cr4"] |= CR4_OSXSAVE
    machine.cpu.xcr0 = 7
    machine.cpu.area.set_xmm(0, 1)
    machine.regs["rcx"] = 1
    machine.run(XGETBV)
    assert edx_eax(machine) == 2


@pytest.mark.parametrize("code", [XGETBV, XSETBV])
def test_without_osxsave_there_is_no_xcr0(code: str):
    assert Machine("long").fault(code) == (UD, None)


def test_another_xcr_is_gp():
    machine = Machine("long")
    machine.sregs["cr4"] |= CR4_OSXSAVE
    machine.regs |= {"rcx": 2, "rax": 1}
    assert machine.fault(XGETBV) == (GP, 0)
    assert machine.fault(XSETBV) == (GP, 0)


def with_components(*numbers: int) -> Machine:
    machine = Machine("long")
    machine.sregs["cr4"] |= CR4_OSXSAVE
    machine.cpu.components = dict.fromkeys(numbers, (1024, 64, False))
    return machine


@pytest.mark.parametrize("value", [1, 3, 7, 0x1F, 0xE7, 0x201, 0x6_0007, 0x2_0000_0001])
def test_xsetbv_takes_valid_combinations(value: int):
    machine = with_components(2, 3, 4, 5, 6, 7, 9, 17, 18, 33)
    set_edx_eax(machine, value)
    machine.run(XSETBV)
    assert machine.cpu.xcr0 == value
    assert "xcr0" in machine.cpu.changed


@pytest.mark.parametrize(
    "value",
    [0, 2, 5, 0xB, 0x13, 0xE3, 0x27, 0x67, 0x2_0001, 1 << 10 | 1, 1 << 63 | 1],
)
def test_xsetbv_refuses_the_others(value: int):
    machine = with_components(2, 3, 4, 5, 6, 7, 9, 17, 18)
    set_edx_eax(machine, value)
    assert machine.fault(XSETBV) == (GP, 0)


def test_xsetbv_refuses_what_the_cpu_lacks():
    machine = with_components()
    set_edx_eax(machine, 7)
    assert machine.fault(XSETBV) == (GP, 0)


def test_xsetbv_is_for_ring_0():
    machine = Machine("long", cpl=3)
    machine.sregs["cr4"] |= CR4_OSXSAVE
    set_edx_eax(machine, 1)
    assert machine.fault(XSETBV) == (GP, 0)


# SWAPGS and the bases of FS and GS


def test_swapgs_exchanges_the_bases():
    machine = Machine("long")
    machine.cpu.msrs[IA32_KERNEL_GS_BASE] = 0xFFFF_8800_0000_0000
    machine.sregs["gs"]["base"] = 0x7000
    machine.run(SWAPGS)
    assert machine.sregs["gs"]["base"] == 0xFFFF_8800_0000_0000
    assert machine.cpu.msrs[IA32_KERNEL_GS_BASE] == 0x7000


def test_swapgs_is_for_ring_0_and_64_bit_mode():
    assert Machine("long", cpl=3).fault(SWAPGS) == (GP, 0)
    assert Machine("protected").fault(SWAPGS) == (UD, None)


def test_fsgsbase_instructions_move_the_bases():
    machine = Machine("long", cpl=3)
    machine.sregs["cr4"] |= CR4_FSGSBASE
    machine.regs["rcx"] = 0x7FFF_1234_5678
    machine.run("f3 48 0f ae d1")  # wrfsbase rcx
    machine.run("f3 0f ae d9")  # wrgsbase ecx
    assert (machine.sregs["fs"]["base"], machine.sregs["gs"]["base"]) == (0x7FFF_1234_5678, 0x1234_5678)
    machine.run("f3 48 0f ae c0")  # rdfsbase rax
    machine.run("f3 0f ae ca")  # rdgsbase edx
    assert (machine.regs["rax"], machine.regs["rdx"]) == (0x7FFF_1234_5678, 0x1234_5678)


def test_fsgsbase_instructions_check_cr4_mode_and_address():
    assert Machine("long").fault("f3 48 0f ae c0") == (UD, None)
    machine = Machine("long")
    machine.sregs["cr4"] |= CR4_FSGSBASE
    machine.regs["rcx"] = 1 << 47
    assert machine.fault("f3 48 0f ae d1") == (GP, 0)
    machine = Machine("protected")
    machine.sregs["cr4"] |= CR4_FSGSBASE
    assert machine.fault("f3 0f ae c0") == (UD, None)


# INVPCID


def invpcid(kind: int, pcid: int, gva: int, cr4: int = 0) -> Machine:
    machine = Machine("long")
    machine.sregs["cr4"] |= cr4
    machine.regs |= {"rax": kind, "rbx": 0x8000}
    machine.memory.put_u64(0x8000, pcid)
    machine.memory.put_u64(0x8008, gva)
    return machine


@pytest.mark.parametrize(
    ("kind", "pcid", "gva", "cr4"),
    [
        (0, 0, 0, 0),
        (0, 5, 0x1000, CR4_PCIDE),
        (1, 0, 1 << 63, 0),
        (1, 0xFFF, 0, CR4_PCIDE),
        (2, 7, 1 << 63, 0),
        (3, 0, 0, 0),
    ],
)
def test_invpcid_of_a_valid_descriptor_changes_nothing(kind: int, pcid: int, gva: int, cr4: int):
    machine = invpcid(kind, pcid, gva, cr4)
    regs = dict(machine.regs)
    assert machine.run(INVPCID).fault is None
    assert machine.regs == regs | {"rip": regs["rip"] + 5}


@pytest.mark.parametrize(
    ("kind", "pcid", "gva", "cr4"),
    [
        (4, 0, 0, 0),
        (1 << 32, 0, 0, 0),
        (0, 0x1000, 0, CR4_PCIDE),
        (2, 1 << 63, 0, 0),
        (1, 1, 0, 0),  # a PCID without CR4.PCIDE
        (0, 0, 1 << 47, 0),  # not canonical
    ],
)
def test_invpcid_checks_its_descriptor(kind: int, pcid: int, gva: int, cr4: int):
    assert invpcid(kind, pcid, gva, cr4).fault(INVPCID) == (GP, 0)


def test_invpcid_is_for_ring_0():
    assert Machine("long", cpl=3).fault(INVPCID) == (GP, 0)


# Random numbers, time


@pytest.mark.parametrize(
    ("code", "mode", "expected"),
    [
        ("0f c7 f0", "long", 0x4433_2211),
        ("48 0f c7 f0", "long", 0x8877_6655_4433_2211),
        ("66 0f c7 f0", "long", 0xFFFF_FFFF_FFFF_2211),
        ("48 0f c7 f8", "long", 0x8877_6655_4433_2211),
        ("0f c7 f0", "protected", 0x4433_2211),
        ("0f c7 f0", "real", 0xFFFF_FFFF_FFFF_2211),
    ],
)
def test_rdrand_and_rdseed_fill_the_register_and_set_cf(code: str, mode: str, expected: int):
    machine = Machine(mode)
    machine.cpu.random = lambda size: bytes.fromhex("1122334455667788")[:size]
    machine.regs |= {"rax": (1 << 64) - 1, "rflags": 0x8D6}
    machine.run(code)
    assert machine.regs["rax"] == expected
    assert machine.regs["rflags"] == 2 | RFLAGS_CF


def test_random_numbers_differ():
    machine = Machine("long")
    numbers = set()
    for _ in range(8):
        machine.run("48 0f c7 f0")
        numbers.add(machine.regs["rax"])
    assert len(numbers) == 8


def test_rdtscp_and_rdpid():
    machine = Machine("long")
    machine.cpu.msrs.update({IA32_TSC: 0x1_2345_6789_ABCD, IA32_TSC_AUX: 0x3004})
    machine.regs["rcx"] = (1 << 64) - 1
    machine.run(RDTSCP)
    assert (edx_eax(machine), machine.regs["rcx"]) == (0x1_2345_6789_ABCD, 0x3004)
    machine.run("f3 0f c7 fb")  # rdpid rbx
    assert machine.regs["rbx"] == 0x3004


def test_an_msr_that_kvm_does_not_have_reads_as_zero():
    machine = Machine("long")
    machine.regs["rax"] = 5
    for code in (RDPRU, RDTSCP, "f3 0f c7 fb", SWAPGS):
        assert machine.run(code).fault is None
    assert edx_eax(machine) == 0


def test_ring_0_reads_the_counters_in_spite_of_tsd():
    machine = Machine("long")
    machine.sregs["cr4"] |= CR4_TSD
    assert machine.run(RDTSCP).fault is None
    assert machine.run(RDPRU).fault is None


def test_tsd_keeps_the_counters_from_ring_3():
    machine = Machine("long", cpl=3)
    machine.cpu.msrs.update({IA32_TSC: 1, IA32_TSC_AUX: 0})
    machine.sregs["cr4"] |= CR4_TSD
    assert machine.fault(RDTSCP) == (GP, 0)
    assert machine.fault(RDPRU) == (UD, None)


@pytest.mark.parametrize(("which", "expected"), [(0, 0x1_0000_0011), (1, 0x22), (2, 0)])
def test_rdpru_gives_mperf_and_aperf_and_else_zero(which: int, expected: int):
    machine = Machine("long", cpl=3)
    machine.cpu.msrs.update({IA32_MPERF: 0x1_0000_0011, IA32_APERF: 0x22})
    machine.regs |= {"rcx": which, "rax": 5, "rdx": 5}
    machine.run(RDPRU)
    assert edx_eax(machine) == expected


# Caches and hints


@pytest.mark.parametrize("code", ["0f ae 3b", "66 0f ae 3b", "66 0f ae 33"])
def test_flushing_a_line_that_is_not_mapped_is_a_page_fault(code: str):
    machine = Machine("long")
    machine.regs["rbx"] = 0x1_0000_0000
    fault = machine.run(code).fault
    assert (fault.vector, fault.error, fault.cr2) == (PF, 0, 0x1_0000_0000)
    machine.regs["rbx"] = 0x8000
    assert machine.run(code).fault is None


@pytest.mark.parametrize("code", ["0f 08", "0f 09", "f3 0f 09"])
def test_emptying_the_caches_is_for_ring_0(code: str):
    assert Machine("long").run(code).fault is None
    assert Machine("long", cpl=3).fault(code) == (GP, 0)


def test_wbnoinvd_has_its_own_name():
    assert Machine("long").run("f3 0f 09").name == "wbnoinvd"


@pytest.mark.parametrize("code", ["0f 0d 0b", "0f 18 03", "0f 1f 03", "0f 1e 03", "0f 1c 03"])
def test_hints_touch_no_memory(code: str):
    machine = Machine("long")
    machine.regs["rbx"] = 0x1_0000_0000
    assert machine.run(code).fault is None


@pytest.mark.parametrize("code", ["f3 48 0f 1e c8", "f3 0f 1e fa", "f3 0f 1e fb"])
def test_rdssp_and_endbr_do_nothing_while_cet_is_off(code: str):
    machine = Machine("long")
    machine.regs["rax"] = 0x1234
    machine.run(code)
    assert machine.regs["rax"] == 0x1234
    machine.sregs["cr4"] |= CR4_CET
    assert execute(machine.cpu, machine.memory, bytes.fromhex(code)) is None


def test_clzero_empties_the_line_that_rax_is_in():
    machine = Machine("long")
    machine.memory.write(0x8000, b"\xff" * 256)
    machine.regs["rax"] = 0x8055
    machine.run(CLZERO)
    assert machine.memory.read(0x8000, 256) == b"\xff" * 64 + bytes(64) + b"\xff" * 128


def test_movdir64b_copies_a_line_to_a_multiple_of_64():
    machine = Machine("long")
    line = bytes(range(64))
    machine.memory.write(0x8003, line)
    machine.regs |= {"rbx": 0x8003, "rax": 0x9040}
    machine.run("66 0f 38 f8 03")
    assert machine.memory.read(0x9040, 64) == line
    machine.regs["rax"] = 0x9050
    assert machine.fault("66 0f 38 f8 03") == (GP, 0)


def test_movdiri_and_movnti_store_a_register():
    machine = Machine("long")
    machine.regs |= {"rbx": 0x8001, "rax": 0x1122_3344_5566_7788}
    machine.run("48 0f 38 f9 03")
    assert machine.memory.u64(0x8001) == 0x1122_3344_5566_7788
    machine.run("0f c3 43 10")
    assert machine.memory.read(0x8011, 8) == bytes.fromhex("8877665500000000")


def test_the_data_segment_is_the_one_that_the_manual_names():
    machine = Machine("protected")
    machine.sregs["es"] = machine.sregs["es"] | {"base": 0x10_0000, "selector": KERNEL_DATA}
    machine.memory.write(0x8000, bytes(range(64)))
    machine.regs |= {"rbx": 0x8000, "rax": 0x40}
    machine.run("66 0f 38 f8 03")
    assert machine.memory.read(0x10_0040, 64) == bytes(range(64))
