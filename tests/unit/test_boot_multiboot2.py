"""Multiboot 2: what a header may ask, what a kernel is told, and each way in which a header can be wrong."""

from __future__ import annotations

import random
import struct

import pytest
from boot_doubles import MIB, elf, loaded, place

from pykvm.boot.image import Image
from pykvm.boot.load import load
from pykvm.config.model import KernelConfig
from pykvm.errors import InputError
from pykvm.memory import GuestMemory

MAGIC = 0xE85250D6
CODE = b"\xf4" + b"code" * 400
TOP = 0xFFFF_FFFF
END = struct.pack("<HHI", 0, 0, 8)
OPTIONAL = 1


def tag(kind, *words, flags=0, size=None):
    """A header tag of 32-bit ``words``, padded to 8 bytes."""
    data = struct.pack(f"<{len(words)}I", *words)
    whole = struct.pack("<HHI", kind, flags, 8 + len(data) if size is None else size) + data
    return whole + bytes(-len(whole) % 8)


def header(*tags, end=END, length=None, architecture=0):
    """A header with a right checksum."""
    body = b"".join(tags) + end
    length = 16 + len(body) if length is None else length
    total = -(MAGIC + architecture + length) % (1 << 32)
    return struct.pack("<IIII", MAGIC, architecture, length, total) + body


def kernel(*tags, bits=32, entry=MIB, vaddr=0, address=MIB, **fields):
    """An ELF file with a header in its only segment, 8-byte aligned in the file."""
    start = {32: 4, 64: 0}[bits]  # behind 84 and 120 bytes of ELF headers
    data = bytes(start) + header(*tags, **fields) + CODE
    return elf([(address, data, 0x3000, vaddr)], entry, bits=bits)


def refused(image, **keys):
    with pytest.raises(InputError) as caught, loaded(image, **keys):
        pass
    assert caught.value.where
    return str(caught.value)


def tags_of(memory, entry):
    """The boot information's tags in order: (type, content behind type and size)."""
    base = entry.state["regs"]["rbx"]
    assert base % 8 == 0
    total, reserved = memory.u32(base), memory.u32(base + 4)
    assert reserved == 0
    found, at = [], base + 8
    while at < base + total:
        kind, size = memory.u32(at), memory.u32(at + 4)
        found.append((kind, memory.read(at + 8, size - 8)))
        at += (size + 7) // 8 * 8
    assert at == base + total
    assert found[-1] == (0, b"")
    return found


def told(image, **keys):
    with loaded(image, **keys) as (memory, entry):
        return dict(tags_of(memory, entry))


@pytest.mark.parametrize("bits", [32, 64])
def test_a_kernel_is_entered_in_protected_mode_with_the_magic_number(bits):
    with loaded(kernel(bits=bits)) as (_, entry):
        assert (entry.format, entry.mode, entry.address) == ("multiboot2", "protected", MIB)
        assert entry.state["regs"]["rax"] == 0x36D76289
        assert entry.state["sregs"]["cr0"] >> 31 == 0


def test_multiboot_2_counts_more_than_1():
    flags = 3
    one = struct.pack("<III", 0x1BADB002, flags, -(0x1BADB002 + flags) % (1 << 32))
    with loaded(kernel() + one) as (_, entry):
        assert entry.format == "multiboot2"
    with loaded(
        elf([(MIB, bytes(4) + header() + one + CODE, 0x3000, 0)], MIB, bits=32), format="multiboot"
    ) as (
        _,
        entry,
    ):
        assert entry.format == "multiboot"


def test_what_is_always_told_is_in_tags_of_its_own():
    found = told(kernel(), cmdline="a b=c", memory=16 * MIB)
    assert found[1] == b"a b=c\0"
    assert found[2] == b"pykvm\0"
    assert struct.unpack("<II", found[4]) == (639, 15 * 1024)
    assert struct.unpack_from("<II", found[6]) == (24, 0)
    ranges = list(struct.iter_unpack("<QQII", found[6][8:]))
    assert (0, 0x9FC00, 1, 0) in ranges
    assert (MIB, 15 * MIB, 1, 0) in ranges


def test_each_module_has_a_tag():
    with loaded(kernel(tag(6)), initrds=[b"first", bytes(5000)]) as (memory, entry):
        rows = [content for kind, content in tags_of(memory, entry) if kind == 3]
        starts = [struct.unpack_from("<II", row) for row in rows]
        assert [end - start for start, end in starts] == [5, 5000]
        assert [start % 4096 for start, _ in starts] == [0, 0]
        assert [row[8:] for row in rows] == [b"initrd0\0", b"initrd1\0"]
        assert memory.read(starts[0][0], 5) == b"first"


def test_what_isnt_there_has_no_tag_though_it_is_asked_for():
    found = told(kernel(tag(1, 5, 7, 8, 10, 11, 12, 13, 16, 17, 18, 19, 20), tag(5, 1024, 768, 32)))
    assert found.keys() == {0, 1, 2, 4, 6, 8}


def test_the_screen_is_text_whatever_mode_is_asked_for():
    """§3.6.12: for EGA text (type 2), characters of 16 bits and the bytes of a line are counted."""
    for tags in ([], [tag(5, 1024, 768, 32)], [tag(4, 3)]):
        assert struct.unpack("<QIIIBBH", told(kernel(*tags))[8]) == (0xB8000, 160, 80, 25, 16, 2, 0)


def test_both_rsdps_are_copied_from_acpis_own():
    guest = GuestMemory.pc(16 * MIB)
    rsdp = b"RSD PTR " + bytes(range(28))
    guest.write(0xE0000, rsdp)
    keys = {"format": "auto", "entry": "auto", "load": None, "start": None, "cmdline": "", "initrd": ()}
    try:
        entry = load(guest, Image.of(kernel(), "k"), [], KernelConfig(image="k", **keys), rsdp=0xE0000)
        found = dict(tags_of(guest, entry))
        assert (found[14], found[15]) == (rsdp[:20], rsdp)
    finally:
        guest.close()


def test_asks_are_told_in_words():
    with loaded(kernel(tag(1, 6, 15), tag(6), tag(5, 640, 480, 32))) as (_, entry):
        assert entry.asks == (
            "the memory map",
            "ACPI's new RSDP",
            "modules on page boundaries",
            "a screen of 640x480x32 (the screen is text, 80x25)",
        )


# Address and entry tags


def flat(*tags, load=MIB, load_end=0, bss_end=0, entry=MIB, header_addr=MIB, before=0):
    more = (tag(3, entry),) if entry is not None else ()
    return bytes(before) + header(tag(2, header_addr, load, load_end, bss_end), *more, *tags) + CODE


def test_an_address_tag_says_where_a_file_goes():
    with loaded(flat(before=8, header_addr=MIB + 8, bss_end=MIB + 0x8000)) as (memory, entry):
        assert memory.read(MIB, 12) == bytes(8) + MAGIC.to_bytes(4, "little")
        assert (entry.address, place(entry, "the kernel").size) == (MIB, 0x8000)


def test_a_load_address_of_minus_1_loads_the_file_from_its_beginning():
    with loaded(flat(before=64, header_addr=MIB + 64, load=TOP)) as (memory, _):
        assert memory.read(MIB, 68) == bytes(64) + MAGIC.to_bytes(4, "little")


def test_an_entry_tag_counts_more_than_elfs_entry():
    with loaded(kernel(tag(3, MIB + 0x100))) as (_, entry):
        assert entry.address == MIB + 0x100


# Relocation


def relocatable(least, most, align=0x1000, preference=0, **more):
    return kernel(tag(10, least, most, align, preference), **more)


@pytest.mark.parametrize(
    ("words", "base"),
    [
        ((0, TOP, 0x1000, 0), MIB),  # where it was linked for
        ((0, TOP, 0x20_0000, 0), 2 * MIB),  # not aligned there
        ((3 * MIB, TOP, 0x1000, 0), 3 * MIB),  # not allowed there
        ((2 * MIB + 1, TOP, 0x1000, 1), 2 * MIB + 0x1000),  # the lowest
        ((0, 8 * MIB - 1, 0x1000, 2), 8 * MIB - 0x3000),  # the highest
        ((0, TOP, 0x1000, 2), 64 * MIB - 0x3000),
        ((0, TOP, 0, 1), MIB),
    ],
)
def test_a_kernel_that_can_be_moved_goes_where_it_wants(words, base):
    with loaded(relocatable(*words, entry=MIB + 8), rsdp=0xE0000) as (memory, entry):
        assert place(entry, "segment 0 of the kernel").gpa == base
        assert entry.address == base + 8
        assert memory.read(base + 4, 4) == MAGIC.to_bytes(4, "little")
        assert struct.unpack("<I", dict(tags_of(memory, entry))[21]) == (base,)


def test_a_file_with_addresses_can_be_moved_too():
    with loaded(flat(tag(10, 4 * MIB, TOP, 0x1000, 1), entry=MIB + 4)) as (memory, entry):
        assert entry.address == 4 * MIB + 4
        assert memory.u32(4 * MIB) == MAGIC


def test_a_kernel_that_isnt_relocatable_has_no_load_base():
    assert 21 not in told(kernel())


WRONG = {
    "architecture": (kernel(architecture=4), "at 0x5c of the file: architecture 4 is not i386"),
    "length 0": (kernel(length=0), "at 0x60 of the file: a length of 0 bytes"),
    "length 1": (kernel(length=1), "a length of 1 bytes"),
    "length top": (kernel(length=TOP), "a length of 4294967295 bytes"),
    "length beyond": (kernel(length=0x3000), "a length of 12288 bytes, from 0x58 in a file of"),
    "no end": (kernel(end=b""), "a length of 16 bytes"),
    "end is missing": (kernel(tag(6), end=b""), "the tags have no end tag"),
    "tag size 0": (kernel(tag(6, size=0)), "at 0x68 of the file: tag 6 of 0 bytes"),
    "tag size 7": (kernel(tag(6, size=7)), "tag 6 of 7 bytes"),
    "tag size top": (kernel(tag(6, size=TOP)), "tag 6 of 4294967295 bytes, with 16 left"),
    "tag size beyond": (kernel(tag(6, size=17)), "tag 6 of 17 bytes, with 16 left"),
    "end size": (kernel(end=struct.pack("<HHI", 0, 0, 9)), "tag 0 of 9 bytes, with 8 left"),
    "short address tag": (kernel(tag(2, 1, 2, 3)), "the address tag has 20 bytes, not 24"),
    "short entry tag": (kernel(tag(3)), "the entry address tag has 8 bytes, not 12"),
    "short relocation": (kernel(tag(10, 1, 2)), "the relocatable header tag has 16 bytes, not 24"),
    "odd request": (kernel(tag(1, 1, size=11)), "the information request has 3 bytes of 4-byte types"),
    "unknown tag": (kernel(tag(11)), "at 0x68 of the file: it requires tag 11, which pykvm doesn't know"),
    "unknown request": (kernel(tag(1, 6, 22)), "it requires information of type 22"),
    "console": (kernel(tag(4, 1)), "it requires a console (flags tag, bit 0) and knows no EGA text (bit 1)"),
    "no entry tag": (flat(entry=None), "an address tag (type 2) and no entry address tag (type 3)"),
    "entry outside": (flat(entry=MIB - 1), "entry_addr 0xfffff is outside the kernel"),
    "elf entry outside": (kernel(tag(3, 5)), "entry_addr 0x5 is outside the kernel"),
    "no elf": (header() + CODE, "without an address tag (type 2), and is no ELF file"),
    "load": (flat(load=MIB + 1), "load_addr 0x100001 is above header_addr 0x100000"),
    "load before": (flat(load=MIB - 1), "load_addr 0xfffff is 0x1 bytes before the file"),
    "header low": (flat(load=TOP, header_addr=4, before=8), "header_addr 0x4 is below its place in the file"),
    "load end": (flat(load_end=MIB), "load_end_addr 0x100000 is not above load_addr"),
    "bss end": (flat(bss_end=MIB), "bss_end_addr 0x100000 is below"),
    "relocation": (relocatable(2, 1), "min_addr 0x2 is above max_addr 0x1"),
    "alignment": (relocatable(0, TOP, 0x1800), "an alignment of 0x1800 is no power of two"),
    "preference": (relocatable(0, TOP, 0x1000, 3), "preference 3 is none of"),
    "too low": (relocatable(0, MIB - 1), "doesn't fit from min_addr 0x0 to max_addr 0xfffff"),
    "too small": (relocatable(0, MIB + 0x2FFE), "doesn't fit from min_addr"),
    "too high": (relocatable(TOP, TOP, 0x1000, 2), "doesn't fit from min_addr 0xffffffff"),
    "align top": (relocatable(0, TOP, 1 << 31, 1), "at multiples of 0x80000000"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_header_is_told_by_place_and_value(case):
    image, text = WRONG[case]
    assert text in refused(image, format="multiboot2")


@pytest.mark.parametrize(
    "one", [tag(11, flags=OPTIONAL), tag(1, 22, flags=OPTIONAL), tag(4, 1, flags=OPTIONAL), tag(4, 2)]
)
def test_what_is_optional_may_be_unknown_or_lacking(one):
    with loaded(kernel(one)) as (_, entry):
        assert entry.format == "multiboot2"


def test_where_a_header_may_be():
    at = 32768 - 16 - 8
    image = elf([(MIB, bytes(at - 84) + header() + CODE, 0x10000, 0)], MIB, bits=32)
    with loaded(image) as (_, entry):
        assert entry.format == "multiboot2"
    beyond = elf([(MIB, bytes(at - 84 + 8) + header() + CODE, 0x10000, 0)], MIB, bits=32)
    assert "and in the first 32768 would be right" in refused(beyond)
    crooked = elf([(MIB, header() + CODE, 0x10000, 0)], MIB, bits=32)
    assert "0xe85250d6 at 0x54 is not 8-byte aligned" in refused(crooked, format="multiboot2")


EDGES = (0, 1, 7, 8, 0x7FFFFFFF, 0x80000000, TOP - 1, TOP, MIB, MIB - 1, 0x90000)
SEEDS = [
    kernel(tag(1, 1, 2, 3), tag(6), tag(5, 1, 2, 3)),
    kernel(bits=64),
    flat(tag(10, 2 * MIB, TOP, 0x1000, 2), bss_end=2 * MIB),
    relocatable(0, TOP, 0x1000, 1),
]


@pytest.mark.parametrize("seed", range(6))
def test_headers_with_changed_fields_load_or_are_refused(seed):
    chance = random.Random(seed)
    outcomes = set()
    for _ in range(150):
        image = bytearray(chance.choice(SEEDS))
        start = image.find(MAGIC.to_bytes(4, "little"))
        at = start + 4 * chance.randrange(1, 22)
        struct.pack_into("<I", image, at, chance.choice(EDGES))
        words = struct.unpack_from("<III", image, start)
        struct.pack_into("<I", image, start + 12, -sum(words) % (1 << 32))
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
