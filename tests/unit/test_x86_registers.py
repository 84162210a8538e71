"""Names of registers, MSRs and descriptors."""

from __future__ import annotations

import random

import pytest

from pykvm.x86 import exceptions, msr, registers
from pykvm.x86.segments import (
    decode_gate,
    decode_segment,
    encode_gate,
    encode_segment,
    encode_system_segment,
    null_segment,
    real_segment,
    segment_text,
    type_text,
)


def test_flags_are_told_by_name_and_iopl_as_a_number():
    assert registers.flags_text(0x2) == ""
    assert registers.flags_text(0x246) == "PF ZF IF"
    assert registers.flags_text(0x3202) == "IF IOPL=3"


def test_control_registers_are_told_by_name():
    assert registers.bits_text(0x80000011, registers.CR0) == "PE ET PG"
    assert registers.bits_text(0x620, registers.CR4) == "PAE OSFXSR OSXMMEXCPT"
    assert registers.bits_text(0xD01, registers.EFER) == "SCE LME LMA NXE"
    assert registers.bits_text(0x207, registers.XCR0) == "X87 SSE AVX PKRU"


def test_a_bit_without_a_name_is_told_as_a_number():
    assert registers.bits_text(1 << 31 | 1 << 40, registers.CR0) == "PG 0x10000000000"


def test_general_registers_have_their_encoded_numbers():
    assert registers.GPRS[4] == "rsp"
    assert registers.GPRS[12] == "r12"
    assert registers.SEGMENTS.index("ss") == 2


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (0x10, "IA32_TSC"),
        (0xC0000080, "IA32_EFER"),
        (0x4B564D00, "KVM_WALL_CLOCK_NEW"),
        (0x203, "IA32_MTRR_PHYSMASK1"),
        (0x401, "IA32_MC0_STATUS"),
        (0x408, "IA32_MC2_CTL"),
        (0x80B, "x2APIC register 11"),
        (0xDEAD, "MSR 0xdead"),
    ],
)
def test_msrs_have_names(number: int, name: str):
    assert msr.name(number) == name


def test_a_flat_64_bit_code_descriptor():
    segment = decode_segment(0x10, 0x00AF_9B00_0000_FFFF)
    place = {"base": 0, "limit": 0xFFFF_FFFF, "selector": 0x10, "type": 11, "present": 1, "dpl": 0}
    assert segment == place | {"db": 0, "s": 1, "l": 1, "g": 1, "avl": 0, "unusable": 0}
    assert type_text(segment) == "64-bit code, readable"


def test_a_descriptor_with_every_field_scattered():
    # base 0x12345678, limit 0xABCDE in bytes, type 6, dpl 2, avl
    segment = decode_segment(0x1B, 0x121A_D634_5678_BCDE)
    assert (segment["base"], segment["limit"]) == (0x12345678, 0xABCDE)
    assert (segment["type"], segment["s"], segment["dpl"], segment["present"]) == (6, 1, 2, 1)
    assert (segment["avl"], segment["l"], segment["db"], segment["g"]) == (1, 0, 0, 0)
    assert type_text(segment) == "data, expand-down, writable"


def test_any_descriptor_survives_decoding_and_encoding():
    numbers = random.Random(1)
    for _ in range(500):
        low = numbers.getrandbits(64)
        assert encode_segment(decode_segment(0, low)) == low


def test_a_system_descriptor_of_ia32e_mode_carries_a_64_bit_base():
    segment = decode_segment(0x40, 0x0000_8900_0000_0067) | {"base": 0xFFFF_FE00_1234_5000}
    raw = encode_system_segment(segment)
    assert len(raw) == 16
    low, high = (int.from_bytes(raw[at : at + 8], "little") for at in (0, 8))
    assert decode_segment(0x40, low, high) == segment
    assert type_text(segment) == "TSS (available)"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (1, "16-bit TSS (available)"),
        (2, "LDT"),
        (3, "16-bit TSS (busy)"),
        (4, "16-bit call gate"),
        (5, "task gate"),
        (6, "16-bit interrupt gate"),
        (7, "16-bit trap gate"),
        (8, "reserved type 8"),
        (9, "TSS (available)"),
        (11, "TSS (busy)"),
        (12, "call gate"),
        (14, "interrupt gate"),
        (15, "trap gate"),
    ],
)
def test_system_descriptors_are_told_by_kind(kind: int, text: str):
    assert type_text(decode_segment(0x40, 1 << 47 | kind << 40)) == text


def test_gates_keep_offset_selector_and_ist():
    gate = {"offset": 0xFFFF_8123_4567_89AB, "selector": 0x10, "type": 14, "present": 1, "dpl": 3}
    gate["ist"] = 2
    raw = encode_gate(gate)
    low, high = (int.from_bytes(raw[at : at + 8], "little") for at in (0, 8))
    assert low == 0x4567_EE02_0010_89AB
    assert decode_gate(low, high) == gate | {"params": 2}


@pytest.mark.parametrize(
    ("vector", "text"),
    [
        (0, "#DE divide error"),
        (1, "#DB debug exception"),
        (3, "#BP breakpoint"),
        (4, "#OF overflow"),
        (5, "#BR BOUND range exceeded"),
        (6, "#UD invalid opcode"),
        (7, "#NM no math coprocessor"),
        (8, "#DF double fault"),
        (10, "#TS invalid TSS"),
        (11, "#NP segment not present"),
        (12, "#SS stack segment fault"),
        (13, "#GP general protection"),
        (14, "#PF page fault"),
        (16, "#MF x87 floating-point error"),
        (17, "#AC alignment check"),
        (18, "#MC machine check"),
        (19, "#XM SIMD floating-point error"),
        (21, "#CP control protection"),
        (0x80, "interrupt 0x80"),
    ],
)
def test_vectors_have_names(vector: int, text: str):
    assert exceptions.name(vector) == text


def test_which_exceptions_push_an_error_code():
    assert sorted(exceptions.WITH_ERROR_CODE) == [8, 10, 11, 12, 13, 14, 17, 21]


def test_a_fault_is_told_with_error_code_and_address():
    assert str(exceptions.Fault(14, 2, 0xB8000)) == "#PF page fault, error code 0x2, at 0xb8000"
    assert str(exceptions.Fault(6)) == "#UD invalid opcode"


def test_a_real_mode_segment_starts_at_16_times_its_selector():
    segment = real_segment(0xF000)
    assert (segment["base"], segment["limit"]) == (0xF0000, 0xFFFF)
    assert segment_text("cs", segment) == "cs  f000  data, writable; base 0xf0000 limit 0xffff dpl 0"


def test_a_null_segment_is_told_as_null():
    assert segment_text("gs", null_segment(3)) == "gs  0003  null"
