"""What holds for every instruction: modes, addresses, faults, features, prefixes, what is undone."""

from __future__ import annotations

import random

import pytest
from x86_machine import CODE_16, DATA_16, READ_ONLY, SMALL_DATA, TABLES, Machine

from pykvm.x86.exceptions import AC, GP, NM, PF, SS, UD
from pykvm.x86.execute import execute
from pykvm.x86.registers import (
    CR0_AM,
    CR0_EM,
    CR0_TS,
    CR4_OSFXSR,
    CR4_SMAP,
    RFLAGS_AC,
    RFLAGS_RF,
    RFLAGS_TF,
    RFLAGS_ZF,
)

MOVBE = "0f 38 f0 03"  # movbe eax, [rbx]
MOVBE_STORE = "0f 38 f1 03"
POPCNT = "f3 0f b8 c1"  # popcnt eax, ecx
CMPXCHG16B = "48 0f c7 0b"  # [rbx]
PXOR = "66 0f ef c0"  # xmm0, xmm0


# What is done, and what is undone


def test_a_done_instruction_moves_rip_past_itself():
    machine = Machine("long")
    machine.regs["rcx"] = 0xFF
    outcome = machine.run(POPCNT)
    assert (outcome.name, outcome.fault) == ("popcnt", None)
    assert (machine.regs["rip"], machine.regs["rax"]) == (0x1_0004, 8)


def test_an_unknown_instruction_is_none_and_changes_nothing():
    for code in ("d9 c0", "0f 6f c1", "c5 fd ef c0", "62 f1 7c 48 58 c0", "8f 68 78 a2 c0 0f", ""):
        machine = Machine("long")
        before = dict(machine.regs)
        assert execute(machine.cpu, machine.memory, bytes.fromhex(code)) is None
        assert machine.regs == before


def test_bytes_that_end_too_early_are_unknown_and_too_many_are_gp():
    machine = Machine("long")
    assert execute(machine.cpu, machine.memory, bytes.fromhex("f3 0f")) is None
    assert machine.fault("66 " * 12 + POPCNT) == (GP, 0)


class RandomPorts:
    def __init__(self, numbers: random.Random) -> None:
        self.numbers = numbers

    def read(self, port: int, size: int) -> int:
        return self.numbers.getrandbits(8 * size)

    def write(self, port: int, size: int, value: int) -> None:
        assert 0 <= port < 1 << 16
        assert 0 <= value < 1 << 8 * size


STRINGS = {"movs", "cmps", "scas", "lods", "stos", "ins", "outs"}
"""A fault in the middle of these keeps what was done."""


def test_no_bytes_raise_an_exception_in_any_mode():
    numbers = random.Random(3)
    starts = (
        "",
        "66",
        "f3",
        "f2",
        "0f",
        "0f01",
        "0fae",
        "0fc7",
        "0f38",
        "f30f",
        "c4e2",
        "cd",
        "cf",
        "8e",
        "0f22",
    )
    for mode in ("real", "protected", "v86", "long"):
        for _ in range(2500):
            if mode == "v86":
                machine = Machine("protected")
                machine.enter_v86(iopl=numbers.choice((0, 3)))
            else:
                machine = Machine(mode, cpl=numbers.choice((0, 0, 3)))
            machine.cpu.ports, machine.cpu.debug = RandomPorts(numbers), [0] * 8
            machine.cpu.cpuid = lambda leaf, subleaf: (leaf, subleaf, 0, 0)
            for name in machine.regs:
                if name not in ("rip", "rflags"):
                    machine.regs[name] = numbers.choice((numbers.getrandbits(64), numbers.getrandbits(16)))
            machine.sregs["cr4"] |= CR4_OSFXSR | numbers.getrandbits(25)
            machine.sregs["cr4"] |= 0x20 if mode == "long" else 0
            machine.cpu.xcr0 = numbers.choice((1, 3, 7, 0x207, 0xE7))
            machine.cpu.msrs = dict.fromkeys((0x10, 0xE7, 0xE8, 0xC000_0102, 0xC000_0103), 1)
            before = dict(machine.regs), dict(machine.sregs)
            code = bytes.fromhex(numbers.choice(starts)) + numbers.randbytes(13)
            outcome = execute(machine.cpu, machine.memory, code)
            if outcome is None or (outcome.fault is not None and outcome.name not in STRINGS):
                assert (machine.regs, machine.sregs) == before
            assert all(0 <= machine.regs[name] < 1 << 64 for name in machine.regs)


def test_rip_wraps_at_32_bits_outside_of_64_bit_mode():
    machine = Machine("protected")
    machine.regs["rip"] = 0xFFFF_FFFE
    machine.run(POPCNT)
    assert machine.regs["rip"] == 2


def test_rf_ends_with_the_instruction():
    machine = Machine("long")
    machine.regs["rflags"] |= RFLAGS_RF
    machine.run(POPCNT)
    assert not machine.flag(RFLAGS_RF)


def test_tf_asks_for_a_single_step_trap_except_after_int_and_mov_ss():
    machine = Machine("long")
    machine.regs["rflags"] |= RFLAGS_TF
    assert machine.run(POPCNT).single_step
    machine.regs["rcx"] = 0x18
    assert not machine.run("8e d1").single_step
    machine.gate(3, 0x5_0000)
    assert not machine.run("cc").single_step
    assert not machine.run(POPCNT).single_step


def test_what_changed_beyond_the_general_registers_is_told():
    machine = Machine("long")
    machine.sregs["cr4"] |= CR4_OSFXSR
    machine.run(POPCNT)
    assert machine.cpu.changed == set()
    machine.run(PXOR)
    assert machine.cpu.changed == {"xsave"}
    machine.gate(3, 0x5_0000)
    machine.run("cc")
    assert machine.cpu.changed == {"xsave", "sregs"}


def test_the_xsave_area_is_asked_for_only_when_it_is_needed():
    machine = Machine("long")
    asked = []
    machine.cpu._load_xsave = lambda: asked.append(1) or bytes(832)
    machine.run(POPCNT)
    assert not asked
    machine.sregs["cr4"] |= CR4_OSFXSR
    machine.run(PXOR)
    machine.run(PXOR)
    assert asked == [1]


def test_without_rex_byte_registers_4_to_7_are_the_high_bytes():
    machine = Machine("long")
    machine.regs |= {"rax": 0x1100, "rcx": 0x2200, "rdx": 0x3300, "rbx": 0x4400}
    sums = []
    for modrm in ("f4", "f5", "f6", "f7"):  # crc32 esi, ah, ch, dh, bh
        machine.regs["rsi"] = 0
        machine.run("f2 0f 38 f0 " + modrm)
        sums.append(machine.regs["rsi"])
    for expected, number in zip(sums, (0x11, 0x22, 0x33, 0x44), strict=True):
        machine.regs |= {"rsi": 0, "rax": number}
        machine.run("f2 0f 38 f0 f0")
        assert machine.regs["rsi"] == expected
    machine.regs |= {"rsi": 0, "rsp": 0x2_0011}
    machine.run("f2 40 0f 38 f0 f4")  # with REX: spl
    assert machine.regs["rsi"] == sums[0]


# Features and prefixes


def test_an_instruction_that_cpuid_does_not_offer_is_ud():
    machine = Machine("long")
    machine.cpu.features = frozenset(("sse2", "pdpe1gb"))
    assert machine.fault(POPCNT) == (UD, None)
    assert machine.fault(CMPXCHG16B) == (UD, None)


def test_without_lzcnt_and_bmi1_their_bytes_are_bsr_and_bsf():
    machine = Machine("long")
    machine.cpu.features = frozenset()
    machine.regs |= {"rcx": 0x50, "rax": 7}
    assert machine.run("f3 0f bd c1").name == "bsr"
    assert machine.regs["rax"] == 6
    assert machine.run("f3 0f bc c1").name == "bsf"
    assert (machine.regs["rax"], machine.flag(RFLAGS_ZF)) == (4, False)
    machine.regs |= {"rcx": 0, "rax": 7}
    machine.run("f3 0f bc c1")
    assert (machine.regs["rax"], machine.flag(RFLAGS_ZF)) == (7, True)


@pytest.mark.parametrize("code", [POPCNT, MOVBE, "cc", "cf", "0f 01 ca"])
def test_lock_is_ud_where_it_has_no_place(code: str):
    assert Machine("long").fault("f0 " + code) == (UD, None)


def test_lock_cmpxchg16b():
    machine = Machine("long")
    machine.regs |= {"rbx": 0x8000, "rcx": 9, "rax": 1, "rdx": 2}
    machine.memory.put_u64(0x8000, 1)
    machine.memory.put_u64(0x8008, 2)
    machine.run("f0 " + CMPXCHG16B)
    assert (machine.memory.u64(0x8000), machine.memory.u64(0x8008)) == (0x8000, 9)
    assert machine.flag(RFLAGS_ZF)


def test_cmpxchg16b_wants_16_byte_alignment():
    machine = Machine("long")
    machine.regs["rbx"] = 0x8008
    assert machine.fault(CMPXCHG16B) == (GP, 0)


def test_vex_instructions_are_ud_in_real_and_v86_mode_and_with_l_set():
    andn = "c4 e2 78 f2 c1"
    assert Machine("real").fault(andn) == (UD, None)
    machine = Machine("protected")
    machine.enter_v86()
    assert machine.fault(andn) == (UD, None)
    assert Machine("protected").run(andn).fault is None
    assert Machine("protected").fault("c4 e2 7c f2 c1") == (UD, None)


def test_rorx_has_no_second_source():
    assert Machine("long").run("c4 e3 7b f0 c1 03").fault is None
    assert Machine("long").fault("c4 e3 73 f0 c1 03") == (UD, None)


# Addresses


def test_sixteen_bit_addresses_wrap_and_use_ss_with_bp():
    machine = Machine("real")
    machine.sregs["ss"] |= {"base": 0x3_0000}
    machine.sregs["ds"] = machine.sregs["ds"] | {"base": 0x4_0000}
    machine.regs |= {"rbp": 0xFFF0, "rsi": 0x20, "rbx": 0xFFF0}
    machine.memory.write(0x3_0011, b"\x12\x34")
    machine.memory.write(0x4_0011, b"\x56\x78")
    machine.run("0f 38 f0 42 01")  # movbe ax, [bp + si + 1]
    assert machine.regs["rax"] == 0x1234
    machine.run("0f 38 f0 40 01")  # movbe ax, [bx + si + 1]
    assert machine.regs["rax"] == 0x5678
    machine.run("36 0f 38 f0 40 01")
    assert machine.regs["rax"] == 0x1234


def test_sixteen_bit_protected_code():
    machine = Machine("protected")
    machine.load("cs", CODE_16)
    machine.regs |= {"rbx": 0xABCD_8000, "rax": 0xFFFF_FFFF, "rcx": 0x1_0003}
    machine.memory.put_u16(0x8000, 0x1122)
    machine.run("0f 38 f0 07")
    assert machine.regs["rax"] == 0xFFFF_2211
    machine.run(POPCNT)
    assert machine.regs["rax"] == 0xFFFF_0002
    machine.run("66 " + POPCNT)
    assert machine.regs["rax"] == 3


def test_rip_relative_counts_from_the_next_instruction():
    machine = Machine("long")
    machine.memory.put_u32(0x1_0108, 0x1122_3344)
    machine.run("0f 38 f0 05 00 01 00 00")
    assert machine.regs["rax"] == 0x4433_2211


def test_a_32_bit_address_in_64_bit_mode_is_cut():
    machine = Machine("long")
    machine.regs["rbx"] = 0xFFFF_FFFF_0000_8000
    machine.memory.put_u32(0x8000, 1)
    machine.run("67 " + MOVBE)
    assert machine.regs["rax"] == 0x0100_0000


def test_fs_and_gs_have_a_base_in_64_bit_mode_and_others_have_not():
    machine = Machine("long")
    machine.sregs["gs"] = machine.sregs["gs"] | {"base": 0x9000}
    machine.sregs["ds"] = machine.sregs["ds"] | {"base": 0x7777, "limit": 0}
    machine.memory.put_u32(0x9010, 1)
    machine.regs["rbx"] = 0x10
    machine.run("65 " + MOVBE)
    assert machine.regs["rax"] == 0x0100_0000
    assert machine.run(MOVBE).fault is None


@pytest.mark.parametrize(
    ("code", "base", "fault"),
    [(MOVBE, "rbx", GP), ("0f 38 f0 45 00", "rbp", SS), ("0f 38 f0 04 24", "rsp", SS)],
)
def test_a_non_canonical_address_is_gp_or_ss(code: str, base: str, fault: int):
    machine = Machine("long")
    machine.regs[base] = 0x7FFF_FFFF_FFFD  # the last byte is not canonical
    assert machine.fault(code) == (fault, 0)


def test_segment_limits_and_types():
    machine = Machine("protected")
    machine.load("ds", SMALL_DATA)
    machine.regs["rbx"] = 0xFFD
    assert machine.fault(MOVBE) == (GP, 0)
    machine.regs["rbx"] = 0xFFC
    assert machine.run(MOVBE).fault is None
    machine.load("ds", READ_ONLY)
    assert machine.run(MOVBE).fault is None
    assert machine.fault(MOVBE_STORE) == (GP, 0)
    machine.load("ss", DATA_16)
    machine.regs["rbp"] = 0xFFFE
    assert machine.fault("0f 38 f0 45 00") == (SS, 0)


def test_an_expand_down_segment_allows_what_lies_above_its_limit():
    machine = Machine("protected")
    machine.load("ds", SMALL_DATA)
    machine.sregs["ds"] |= {"type": 7, "db": 0}
    for offset, allowed in ((0xFFF, False), (0x1000, True), (0xFFFC, True), (0xFFFD, False)):
        machine.regs["rbx"] = offset
        assert machine.fault(MOVBE) == (GP, 0) if not allowed else machine.run(MOVBE).fault is None


def test_code_may_be_read_through_cs_but_never_written():
    machine = Machine("protected")
    machine.regs["rbx"] = 0x8000
    assert machine.run("2e " + MOVBE).fault is None
    assert machine.fault("2e " + MOVBE_STORE) == (GP, 0)
    machine.sregs["cs"] |= {"type": 9}
    assert machine.fault("2e " + MOVBE) == (GP, 0)


# Paging


def test_a_page_fault_tells_its_address_and_undoes_all():
    machine = Machine("long")
    machine.regs |= {"rbx": 0x4000_0000 - 8, "rax": 5}  # the second half is not mapped
    fault = machine.run("0f 28 03").fault  # movaps: no OSFXSR yet
    assert fault.vector == UD
    machine.sregs["cr4"] |= CR4_OSFXSR
    fault = machine.run("0f 10 03").fault  # movups xmm0, [rbx]
    assert (fault.vector, fault.error, fault.cr2) == (PF, 0, 0x4000_0000)


def test_a_write_over_two_pages_that_faults_in_the_second_leaves_the_first():
    machine = Machine("long")
    machine.regs |= {"rbx": 0x4000_0000 - 2, "rax": 0x1122_3344}
    fault = machine.run(MOVBE_STORE).fault
    assert (fault.vector, fault.error, fault.cr2) == (PF, 2, 0x4000_0000)
    assert machine.memory.read(0x4000_0000 - 2, 2) == b"\0\0"


def test_an_access_marks_pages_as_the_cpu_does():
    machine = Machine("long")
    machine.regs["rbx"] = 0x8000
    machine.run(MOVBE)
    assert machine.memory.u64(TABLES + 0x1000) & 0x60 == 0x20
    machine.run(MOVBE_STORE)
    assert machine.memory.u64(TABLES + 0x1000) & 0x60 == 0x60


def test_smap_keeps_ring_0_from_user_pages_but_for_ac():
    machine = Machine("long")
    machine.sregs["cr4"] |= CR4_SMAP
    machine.regs["rbx"] = 0x8000
    assert machine.fault(MOVBE) == (PF, 1)
    machine.regs["rflags"] |= RFLAGS_AC
    assert machine.run(MOVBE).fault is None


def test_descriptor_tables_are_read_without_the_help_of_ac():
    machine = Machine("long")
    machine.regs |= {"rcx": 0x18, "rflags": 2 | RFLAGS_AC}
    machine.sregs["cr4"] |= CR4_SMAP
    assert machine.fault("8e d1") == (PF, 1)  # all pages here are user pages


def test_alignment_check_is_for_ring_3_with_am_and_ac():
    for cpl, am, ac, offset, fault in (
        (3, True, True, 1, True),
        (3, True, True, 0, False),
        (3, True, False, 1, False),
        (3, False, True, 1, False),
        (0, True, True, 1, False),
    ):
        machine = Machine("long", cpl=cpl)
        machine.sregs["cr0"] |= CR0_AM * am
        machine.regs |= {"rbx": 0x8000 + offset, "rflags": 2 | RFLAGS_AC * ac}
        assert machine.fault(MOVBE) == (AC, 0) if fault else machine.run(MOVBE).fault is None


def test_where_no_memory_is_reads_give_ones_and_writes_are_dropped():
    machine = Machine("protected")
    machine.memory.size = 0x10_0000
    machine.regs["rbx"] = 0xFEE0_0000
    machine.run(MOVBE)
    assert machine.regs["rax"] == 0xFFFF_FFFF
    assert machine.run(MOVBE_STORE).fault is None


# SSE must have been turned on


@pytest.mark.parametrize(
    ("cr0", "cr4", "fault"),
    [(0, 0, UD), (CR0_EM, CR4_OSFXSR, UD), (CR0_TS, CR4_OSFXSR, NM), (CR0_TS, 0, UD)],
)
def test_sse_needs_osfxsr_and_neither_em_nor_ts(cr0: int, cr4: int, fault: int):
    machine = Machine("long")
    machine.sregs["cr0"] |= cr0
    machine.sregs["cr4"] |= cr4
    for code in (PXOR, "0f 28 c1", "66 0f 6e c1", "66 0f 73 f8 04", "0f ae 13", "66 0f d7 c1"):
        assert machine.fault(code) == (fault, None)


@pytest.mark.parametrize("code", ["66 0f ef 03", "0f 28 03", "0f 29 03", "66 0f e7 03", "66 0f 70 03 1b"])
def test_sse_memory_operands_want_16_byte_alignment(code: str):
    machine = Machine("long")
    machine.sregs["cr4"] |= CR4_OSFXSR
    machine.regs["rbx"] = 0x8008
    assert machine.fault(code) == (GP, 0)


@pytest.mark.parametrize("code", ["0f 10 03", "f3 0f 6f 03", "f3 0f 7f 03", "f2 0f f0 03", "f3 0f 7e 03"])
def test_unaligned_moves_take_any_address(code: str):
    machine = Machine("long")
    machine.sregs["cr4"] |= CR4_OSFXSR
    machine.regs["rbx"] = 0x8007
    assert machine.run(code).fault is None
