"""Multiboot 1: where a kernel goes, what it is told, and each way in which its header can be wrong."""

from __future__ import annotations

import random
import struct

import pytest
from boot_doubles import MIB, elf, loaded, place

from pykvm.errors import InputError

MAGIC = 0x1BADB002
CODE = b"\xf4" + b"code" * 400
HIGH = 0xC000_0000


def header(flags=3, *words):
    """A header with a right checksum; ``words`` follow it."""
    return struct.pack(f"<{3 + len(words)}I", MAGIC, flags, -(MAGIC + flags) % (1 << 32), *words)


def kernel(flags=3, *, bits=32, entry=MIB, vaddr=0):
    """An ELF file with a header at the start of its only segment."""
    return elf([(MIB, header(flags) + CODE, 0x3000, vaddr)], entry, bits=bits)


def flat(load=MIB, load_end=0, bss_end=0, entry=MIB, header_addr=None, *, before=0):
    """A file that only its address fields describe, with ``before`` bytes before the header."""
    at = load + before if header_addr is None else header_addr
    return bytes(before) + header(1 << 16, at, load, load_end, bss_end, entry) + CODE


def refused(image, **keys):
    with pytest.raises(InputError) as caught, loaded(image, **keys):
        pass
    assert caught.value.where
    return str(caught.value)


class Info:
    """The boot information in ``memory`` (Multiboot 0.6.96 §3.3)."""

    def __init__(self, memory, entry):
        self.memory = memory
        self.base = entry.state["regs"]["rbx"]
        self.flags = self.word(0)

    def word(self, offset):
        return self.memory.u32(self.base + offset)

    def text(self, gpa):
        return self.memory.read(gpa, 256).split(b"\0")[0]


@pytest.mark.parametrize("bits", [32, 64])
def test_an_elf_kernel_is_entered_in_protected_mode_with_the_magic_number(bits):
    with loaded(kernel(bits=bits)) as (memory, entry):
        assert (entry.format, entry.mode, entry.address) == ("multiboot", "protected", MIB)
        assert memory.read(MIB, 4) == MAGIC.to_bytes(4, "little")
        regs, sregs = entry.state["regs"], entry.state["sregs"]
        assert regs["rax"] == 0x2BADB002
        assert (sregs["cr0"] & 1, sregs["cr0"] >> 31, regs["rflags"] & (1 << 17 | 1 << 9)) == (1, 0, 0)
        for name in ("cs", "ds", "es", "fs", "gs", "ss"):
            assert (sregs[name]["base"], sregs[name]["limit"], sregs[name]["db"]) == (0, 0xFFFFFFFF, 1)


def test_a_virtual_entry_is_entered_where_it_lies_physically():
    with loaded(kernel(entry=HIGH + 0x40, vaddr=HIGH)) as (_, entry):
        assert entry.address == MIB + 0x40


def test_memory_and_its_map_are_told():
    with loaded(kernel(), memory=16 * MIB) as (memory, entry):
        info = Info(memory, entry)
        assert info.flags == 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9 | 1 << 12
        assert (info.word(4), info.word(8)) == (639, 15 * 1024)
        at, end = info.word(48), info.word(48) + info.word(44)
        ranges = []
        while at < end:
            size, start, length, kind = struct.unpack("<IQQI", memory.read(at, 24))
            ranges.append((start, length, kind))
            at += size + 4
        assert at == end
        assert ranges[0] == (0, 0x9FC00, 1)
        assert (MIB, 15 * MIB, 1) in ranges


def test_command_line_and_loader_are_named():
    with loaded(kernel(), cmdline="root=/dev/sda  quiet") as (memory, entry):
        info = Info(memory, entry)
        assert info.text(info.word(16)) == b"root=/dev/sda  quiet"
        assert info.text(info.word(64)) == b"pykvm"


def test_modules_lie_on_pages_of_their_own_behind_the_kernel():
    with loaded(kernel(), initrds=[b"first", bytes(0x1001), b"x"]) as (memory, entry):
        info = Info(memory, entry)
        assert info.word(20) == 3
        rows = [struct.unpack("<IIII", memory.read(info.word(24) + 16 * n, 16)) for n in range(3)]
        assert [row[0] % 0x1000 for row in rows] == [0, 0, 0]
        assert [row[1] - row[0] for row in rows] == [5, 0x1001, 1]
        assert [info.text(row[2]) for row in rows] == [b"initrd0", b"initrd1", b"initrd2"]
        assert rows[0][0] >= MIB + 0x3000
        assert memory.read(rows[0][0], 5) == b"first"


def test_without_modules_their_count_is_0():
    with loaded(kernel()) as (memory, entry):
        assert Info(memory, entry).word(20) == 0


def test_no_disk_no_apm_and_no_vbe_are_told():
    with loaded(kernel()) as (memory, entry):
        assert Info(memory, entry).flags & (1 << 1 | 1 << 7 | 1 << 10 | 1 << 11) == 0


@pytest.mark.parametrize("asked", [0, 1 << 2])
def test_the_screen_is_text_whatever_mode_is_asked_for(asked):
    """§3.3: for EGA text (type 2), characters of 16 bits and the bytes of a line are counted."""
    with loaded(kernel(asked)) as (memory, entry):
        info = Info(memory, entry)
        assert info.flags & 1 << 12
        assert struct.unpack("<QIIIBB", memory.read(info.base + 88, 22)) == (0xB8000, 160, 80, 25, 16, 2)
        assert entry.asks == (("a video mode (the screen is text, 80x25)",) if asked else ())


def test_a_bios_data_area_says_how_far_low_memory_goes():
    with loaded(kernel()) as (memory, _):
        assert (memory.u16(0x40E), memory.u16(0x413), memory.u8(0x9FC00)) == (0x9FC0, 639, 1)


def test_a_kernel_that_lies_where_bios_data_would_be_has_the_memory_to_itself():
    image = flat(load=0x400, entry=0x400, bss_end=0x1000)
    with loaded(image) as (memory, _):
        assert memory.read(0x400, len(image)) == image
        assert memory.u8(0x9FC00) == 0


def test_address_fields_say_where_a_file_goes():
    with loaded(flat(before=8, entry=MIB + 40, bss_end=MIB + 0x9000)) as (memory, entry):
        assert memory.read(MIB, 8) == bytes(8)
        assert memory.read(MIB + 8, 4) == MAGIC.to_bytes(4, "little")
        assert entry.address == MIB + 40
        assert place(entry, "the kernel").size == 0x9000


def test_address_fields_count_more_than_elf():
    image = elf([(2 * MIB, header(1 << 16, MIB + 84, MIB, 0, 0, MIB) + CODE, 0x3000, 0)], 2 * MIB, bits=32)
    with loaded(image) as (memory, entry):
        assert (entry.format, entry.address) == ("multiboot", MIB)
        assert memory.read(MIB, 4) == b"\x7fELF"


def test_loading_ends_where_the_header_says():
    with loaded(flat(load_end=MIB + 64, bss_end=MIB + 64)) as (memory, entry):
        assert memory.read(MIB + 64, 64) == bytes(64)
        assert place(entry, "the kernel").size == 64


def test_the_boot_information_gives_way_to_a_kernel_in_low_memory():
    with loaded(flat(load=0x8000, bss_end=0x90800, entry=0x8000), memory=4 * MIB) as (memory, entry):
        assert place(entry, "the boot information").gpa >= MIB
        assert Info(memory, entry).word(4) == 639


def with_sections(*rows, names=0, **fields):
    """A kernel with ``rows`` of section headers behind a null one; each row 10 numbers."""
    image = bytearray(kernel())
    table = bytes(40) + b"".join(struct.pack("<10I", *row) for row in rows)
    struct.pack_into("<I", image, 32, fields.get("shoff", len(image)))
    struct.pack_into(
        "<HHH", image, 46, fields.get("shentsize", 40), fields.get("shnum", len(rows) + 1), names
    )
    return bytes(image) + table


SYMTAB = (0, 2, 0, 0, 84, 32, 0, 0, 4, 16)
TEXT = (0, 1, 6, MIB, 84, 64, 0, 0, 16, 0)


def test_sections_that_no_segment_has_are_loaded_and_their_headers_tell_where():
    with loaded(with_sections(TEXT, SYMTAB, names=2)) as (memory, entry):
        info = Info(memory, entry)
        assert info.flags & (1 << 5)
        number, size, table, names = (info.word(28 + 4 * n) for n in range(4))
        assert (number, size, names) == (3, 40, 2)
        assert memory.u32(table + 40 + 12) == MIB
        symbols = memory.u32(table + 80 + 12)
        assert memory.read(symbols, 32) == (header() + CODE)[:32]
        assert symbols >= MIB + 0x3000


def test_sections_keep_their_alignment_and_those_without_bytes_stay_where_they_are():
    odd = (0, 1, 0, 0, 84, 3, 0, 0, 1, 0)
    aligned = (0, 1, 0, 0, 84, 5, 0, 0, 64, 0)
    nobits = (0, 8, 0, 0, 0, 0xFFFFFFFF, 0, 0, 1, 0)
    with loaded(with_sections(odd, aligned, nobits, (0, 1, 0, 0, 84, 2, 0, 0, 3, 0))) as (memory, entry):
        table = Info(memory, entry).word(36)
        first, second, third, fourth = (memory.u32(table + 40 * n + 12) for n in range(1, 5))
        assert (second - first, third, fourth - first) == (64, 0, 80)
        assert memory.read(second, 5) == header()[:5]


def test_many_sections_are_no_reason_to_wait():
    """A range for each would take time by the square of their number."""
    with loaded(with_sections(*[(0, 1, 0, 0, 84, 1, 0, 0, 1, 0)] * 0xFFFE)) as (memory, entry):
        assert Info(memory, entry).word(28) == 0xFFFF
        assert len(entry.placed) < 16


def test_sections_that_dont_fit_are_left_out():
    huge = (0, 2, 0, 0, 0, 2 * MIB, 0, 0, 1, 0)
    with loaded(with_sections(huge) + bytes(3 * MIB), memory=2 * MIB) as (memory, entry):
        assert Info(memory, entry).flags & (1 << 5) == 0


def test_the_header_must_lie_in_the_first_8_kib_and_be_aligned():
    where = 8192 - 12
    image = elf([(MIB, bytes(where - 84) + header() + CODE, 0x4000, 0)], MIB, bits=32)
    with loaded(image) as (_, entry):
        assert entry.format == "multiboot"
    image = elf([(MIB, bytes(where - 80) + header() + CODE, 0x4000, 0)], MIB, bits=32)
    with loaded(image) as (_, entry):
        assert entry.format == "elf"
    assert "the header at 0x1ff8 is cut off" in refused(image, format="multiboot")
    crooked = elf([(MIB, b"x" + header() + CODE, 0x4000, 0)], MIB, bits=32)
    assert "0x1badb002 at 0x55 is not 4-byte aligned" in refused(crooked, format="multiboot")


def test_a_false_header_before_the_right_one_is_passed_over():
    false = struct.pack("<III", MAGIC, 3, 5)
    with loaded(elf([(MIB, false + header() + CODE, 0x4000, 0)], MIB, bits=32)) as (_, entry):
        assert entry.format == "multiboot"
    wrong = elf([(MIB, false + CODE, 0x4000, 0)], MIB, bits=32)
    assert "the header at 0x54 adds up to 0x1badb00a, not 0" in refused(wrong, format="multiboot")


TOP = 0xFFFF_FFFF
WRONG = {
    "unknown flag": (kernel(1 << 3), "flags 0x8 at 0x58"),
    "no addresses": (header(0) + CODE, "address fields (flag bit 16), and is no ELF file"),
    "cut addresses": (header(1 << 16, 1, 2), "of 32 bytes at 0x0 goes beyond the file"),
    "cut video": (header(1 << 2), "of 48 bytes at 0x0 goes beyond the file"),
    "addresses beyond 8K": (
        bytes(8192 - 12) + header(1 << 16, MIB, MIB, 0, 0, MIB) + CODE,
        "of 32 bytes at 0x1ff4 goes beyond the first 8192 bytes",
    ),
    "load above header": (flat(load=MIB + 4, header_addr=MIB), "load_addr 0x100004 is above header_addr"),
    "load before file": (flat(load=MIB, header_addr=MIB + 4), "is 0x4 bytes before the file"),
    "load 0, header top": (flat(load=0, header_addr=TOP), "load_addr 0x0 is 0xffffffff bytes before"),
    "end at load": (flat(load_end=MIB), "load_end_addr 0x100000 is not above load_addr"),
    "end 1": (flat(load_end=1), "load_end_addr 0x1 is not above load_addr"),
    "end top": (flat(load_end=TOP), "load_end_addr 0xffffffff is 0x"),
    "bss low": (flat(bss_end=MIB + 1), "bss_end_addr 0x100001 is below the loaded part's end"),
    "bss top": (flat(bss_end=TOP), "0x100000–0xfffffffe lies where a PC has its devices"),
    "entry 0": (flat(entry=0), "entry_addr 0x0 is outside the kernel at 0x100000"),
    "entry top": (flat(entry=TOP), "entry_addr 0xffffffff is outside"),
    "over our tables": (flat(load=0x91000, entry=0x91000), "overlap"),
    "over the tables of ACPI": (flat(load=0xE0000, entry=0xE0000), "the ACPI tables"),
    "wraps": (flat(load=TOP - 15, entry=TOP - 15), "lies where a PC has its devices"),
    "elf entry": (
        kernel(entry=0x55, vaddr=HIGH),
        "starts at 0x55, where none of its segments lies below 4 GiB",
    ),
    "section size": (with_sections(TEXT, shentsize=64), "section headers of 64 bytes, not 40"),
    "section names": (with_sections(TEXT, names=2), "its section 2 is to hold names, and it has 2"),
    "section table": (with_sections(TEXT, shoff=TOP), "its section headers go to 0x10000004f"),
    "section count": (with_sections(TEXT, shnum=0xFFFF), "its section headers go to"),
    "section": (with_sections((0, 2, 0, 0, TOP, TOP, 0, 0, 1, 0)), "section 1 goes to 0x1fffffffe"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_header_is_told_by_place_and_value(case):
    image, text = WRONG[case]
    assert text in refused(image, format="multiboot", rsdp=0xE0000)


def test_what_doesnt_fit_is_told():
    assert "module of 4M doesn't fit beside the kernel into 4M" in refused(
        kernel(), memory=4 * MIB, initrds=[bytes(4 * MIB)]
    )
    assert refused(kernel(), initrds=[b""]).startswith("initrd0: is empty")
    assert "in protected mode by its boot protocol, not in long mode" in refused(kernel(), entry="long")
    assert refused(kernel(), cmdline="a\0b").startswith("kernel.cmdline: holds a NUL")


SEEDS = [kernel(), kernel(bits=64), flat(before=16, bss_end=2 * MIB), with_sections(TEXT, SYMTAB, names=2)]
EDGES = (0, 1, 0x7FFFFFFF, 0x80000000, TOP - 1, TOP, MIB, MIB - 1, 0x90000)


@pytest.mark.parametrize("seed", range(6))
def test_headers_with_changed_fields_load_or_are_refused(seed):
    chance = random.Random(seed)
    outcomes = set()
    for _ in range(150):
        image = bytearray(chance.choice(SEEDS))
        at = chance.choice([n for n in range(0, len(image), 4) if n < 128 or n > len(image) - 120])
        at = min(at, len(image) - 4)
        struct.pack_into("<I", image, at, chance.choice(EDGES))
        found = image.find(MAGIC.to_bytes(4, "little"))
        if 0 <= found < len(image) - 12:  # the sum is right again, so that the fields themselves are judged
            flags = struct.unpack_from("<I", image, found + 4)[0]
            struct.pack_into("<I", image, found + 8, -(MAGIC + flags) % (1 << 32))
        try:
            with loaded(bytes(image), initrds=[b"module"], memory=chance.choice((MIB, 8 * MIB))) as (
                _,
                entry,
            ):
                outcomes.add("loaded")
                for one, next_one in zip(entry.placed, entry.placed[1:]):
                    assert one.end <= next_one.gpa
        except InputError as error:
            outcomes.add("refused")
            assert error.where
    assert outcomes == {"loaded", "refused"}
