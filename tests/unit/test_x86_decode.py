"""The decoder, by hand-made instructions and against capstone."""

from __future__ import annotations

import random

import capstone
import pytest

from pykvm.x86.disasm import disassemble
from pykvm.x86.execute.decode import DecodeError, TooLong, Truncated, Undefined, decode

MODES = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}

# UD0 and UD1 have a ModRM byte (SDM), capstone takes none; SSE4a and VIA's instructions we leave out; and
# capstone takes 66 4x C2 for a near return with another immediate.
APART = {"ud0", "ud1", "extrq", "insertq", "xstore", "xcryptcfb", "xcryptecb", "xcryptctr", "ret"}


def one(text: str, bits: int = 64):
    return decode(bytes.fromhex(text), bits)


@pytest.mark.parametrize(
    ("text", "bits", "operand", "address"),
    [
        ("8b 00", 16, 2, 2),
        ("66 8b 00", 16, 4, 2),
        ("67 8b 00", 16, 2, 4),
        ("8b 00", 32, 4, 4),
        ("66 67 8b 07", 32, 2, 2),
        ("8b 00", 64, 4, 8),
        ("66 8b 00", 64, 2, 8),
        ("48 8b 00", 64, 8, 8),
        ("66 48 8b 00", 64, 8, 8),
        ("67 8b 00", 64, 4, 4),
        ("48 66 8b 00", 64, 2, 8),  # REX in front of a prefix is ignored
    ],
)
def test_sizes_follow_mode_and_prefixes(text: str, bits: int, operand: int, address: int):
    found = one(text, bits)
    assert (found.operand_size, found.address_size) == (operand, address)
    assert found.length == len(bytes.fromhex(text))


def test_rex_extends_reg_index_and_base():
    found = one("4f 8b 94 f5 78 56 34 12")  # mov r10, [r13 + r14*8 + 0x12345678]
    assert (found.reg, found.base, found.index, found.scale) == (10, 13, 14, 8)
    assert found.displacement == 0x12345678


def test_sib_without_base_and_without_index():
    found = one("8b 04 25 f0 ff ff ff")
    assert (found.base, found.index, found.displacement) == (-1, -1, -16)
    found = one("8b 04 24")
    assert (found.base, found.index) == (4, -1)


def test_rip_relative_exists_in_64_bit_mode_only():
    assert one("8b 05 10 00 00 00").rip_relative
    assert not one("8b 05 10 00 00 00", 32).rip_relative


def test_16_bit_addressing_forms():
    found = one("8b 42 fe", 16)  # mov ax, [bp + si - 2]
    assert (found.base, found.index, found.displacement) == (5, 6, -2)
    found = one("8b 0e 34 12", 16)
    assert (found.base, found.index, found.displacement) == (-1, -1, 0x1234)


def test_the_last_repeat_prefix_selects_and_beats_66():
    assert one("f2 f3 66 0f b8 c0").prefix == "F3"
    assert one("66 0f 6f c0").prefix == "66"
    assert one("0f 6f c0").prefix == ""


def test_segment_overrides_other_than_fs_and_gs_mean_nothing_in_64_bit_mode():
    assert one("2e 8b 00").segment == ""
    assert one("65 8b 00").segment == "gs"
    assert one("2e 8b 00", 32).segment == "cs"


def test_vex_carries_inverted_register_bits():
    found = one("c4 62 e0 f7 18")  # bextr r11, [rax], rbx
    assert found.vex
    assert (found.map, found.opcode, found.prefix, found.vector_length) == ("0F38", 0xF7, "", 16)
    assert (found.reg, found.vvvv, found.base, found.operand_size) == (11, 3, 0, 8)
    found = one("c5 f5 fe c2")  # vpaddd ymm0, ymm1, ymm2
    assert (found.map, found.prefix, found.vector_length, found.vvvv) == ("0F", "66", 32, 1)


def test_c4_and_c5_are_les_and_lds_outside_of_64_bit_mode_when_they_name_memory():
    assert not one("c4 06 34 12", 16).vex
    assert one("c4 e2 78 f2 c1", 32).vex


@pytest.mark.parametrize("text", ["66 c5 f5 fe c2", "f0 c5 f5 fe c2", "48 c5 f5 fe c2", "f3 c4 e2 78 f2 c1"])
def test_no_prefix_goes_before_vex(text: str):
    with pytest.raises(DecodeError):
        one(text)


def test_immediates_by_operand_size():
    assert one("b8 44 33 22 11").immediate == 0x11223344
    assert one("48 b8 88 77 66 55 44 33 22 11").immediate == 0x1122334455667788
    assert one("66 b8 22 11").immediate == 0x1122
    assert one("f7 c0 44 33 22 11").immediate == 0x11223344
    assert one("f7 d0").immediate_size == 0
    found = one("ea 78 56 34 12 cd ab", 32)
    assert (found.immediate, found.selector) == (0x12345678, 0xABCD)
    found = one("c8 34 12 02")
    assert (found.immediate, found.selector) == (0x1234, 2)


def test_near_branches_of_64_bit_code_have_32_bits_whatever_the_prefix():
    assert one("66 e8 11 22 33 44").immediate == 0x44332211
    assert one("66 e8 11 22 33 44", 32).immediate == 0x2211
    assert one("66 0f 84 11 22 33 44").length == 7


def test_control_register_moves_ignore_the_mod_field():
    found = one("0f 22 04")
    assert (found.length, found.is_memory) == (3, False)


def test_fifteen_bytes_are_the_limit():
    assert one("66 " * 14 + "90").length == 15
    with pytest.raises(TooLong):
        one("66 " * 15 + "90")


def test_missing_bytes_are_told_apart_from_bad_ones():
    with pytest.raises(Truncated):
        one("48 b8 11 22")
    with pytest.raises(DecodeError) as caught:
        one("0f 04")
    assert type(caught.value) is Undefined


@pytest.mark.parametrize("text", ["06", "62 f1 7c 48 28 c1", "d5 0a", "8f e9 78 80 c1"])
def test_what_the_decoder_does_not_know_is_an_error(text: str):
    with pytest.raises(DecodeError):
        one(text)


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_lengths_agree_with_capstone_on_random_bytes(bits: int):
    engine = capstone.Cs(capstone.CS_ARCH_X86, MODES[bits])
    numbers = random.Random(bits)
    agreed = 0
    prefixes = [b"", b"\x66", b"\x67", b"\xf2", b"\xf3", b"\x66\x67"]
    escapes = [b"", b"", b"\x0f", b"\x0f\x38", b"\x0f\x3a", b"\xc4", b"\xc5"]
    for _ in range(20000):
        prefix, escape = numbers.choice(prefixes), numbers.choice(escapes)
        rex = bytes((0x40 + numbers.randrange(16),)) if bits == 64 and numbers.random() < 0.4 else b""
        code = (prefix + rex + escape + numbers.randbytes(15))[:15]
        theirs = next(iter(engine.disasm_lite(code, 0, 1)), None)
        if theirs is None or theirs[2] in APART or differs_on_purpose(code, bits):
            continue
        try:
            mine = decode(code, bits)
        except DecodeError:
            assert outside(code, bits), f"{code.hex(' ')} is {theirs[2]} {theirs[3]}"
            continue
        assert mine.length == theirs[1], f"{code.hex(' ')} is {theirs[2]} {theirs[3]}"
        agreed += 1
    assert agreed > 5000


def strip(code: bytes, bits: int) -> bytes:
    """Without prefixes."""
    prefixes = {0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3}
    if bits == 64:
        prefixes |= set(range(0x40, 0x50))
    while code and code[0] in prefixes:
        code = code[1:]
    return code


def outside(code: bytes, bits: int) -> bool:
    """EVEX, XOP, a prefix before VEX: what the decoder leaves out."""
    return strip(code, bits)[0] in (0x62, 0x8F, 0xC4, 0xC5)


def differs_on_purpose(code: bytes, bits: int) -> bool:
    """Where capstone follows AMD (66 before a near branch), or takes a prefix for an instruction."""
    plain = strip(code, bits)
    if not plain or plain[0] == 0x9B:
        return True
    branch = plain[0] in (0xE8, 0xE9) or (plain[0] == 0x0F and plain[1] & 0xF0 == 0x80)
    return bits == 64 and branch and 0x66 in code[: len(code) - len(plain)]


def test_disassembly_is_a_line_an_instruction():
    lines = disassemble(bytes.fromhex("0f01ca f30fb8c1 90"), 0xFFFFFFFF81000000, 64)
    assert lines == [
        "0xffffffff81000000: 0f 01 ca                       clac",
        "0xffffffff81000003: f3 0f b8 c1                    popcnt eax, ecx",
        "0xffffffff81000007: 90                             nop",
    ]


def test_disassembly_stops_at_count_and_says_where_bytes_are_bad():
    assert len(disassemble(b"\x90" * 5, 0, 16, count=2)) == 2
    assert disassemble(bytes.fromhex("90 0f04"), 0x10, 64)[-1].endswith("(bad)")
    assert disassemble(b"\xea\x00\x00\x00\x00\x08\x00", 0, 32)[0].endswith("ljmp 8:0")
