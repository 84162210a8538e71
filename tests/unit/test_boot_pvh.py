"""PVH: the note that names the entry, hvm_start_info, and the ways in which they can be wrong."""

from __future__ import annotations

import random
import struct

import pytest
from boot_doubles import COMPRESS, MIB, bzimage, elf, loaded, vmlinux

from pykvm.errors import InputError

CODE = b"\xf4" + b"code" * 400
PT_NOTE = 4


ENTRY = struct.pack("<I", MIB + 16)


def note(desc=ENTRY, *, kind=18, name=b"Xen\0", descsz=None, namesz=None):
    """An ELF note, its parts padded to 4 bytes."""
    head = struct.pack(
        "<III", len(name) if namesz is None else namesz, len(desc) if descsz is None else descsz, kind
    )
    return head + name + bytes(-len(name) % 4) + desc + bytes(-len(desc) % 4)


def kernel(*notes, bits=64, entry=0xFFFF_0000):
    """A kernel whose own entry leads nowhere."""
    data = b"".join(notes) or note()
    return elf([(MIB, CODE, 0x2000, 0)], entry, bits=bits, others=[(PT_NOTE, data)])


def refused(image, **keys):
    with pytest.raises(InputError) as caught, loaded(image, **keys):
        pass
    assert caught.value.where
    return str(caught.value)


def info(memory, entry):
    """hvm_start_info as a dict (public/arch-x86/hvm/start_info.h)."""
    names = (
        "magic",
        "version",
        "flags",
        "modules",
        "modlist",
        "cmdline",
        "rsdp",
        "memmap",
        "entries",
        "zero",
    )
    return dict(zip(names, struct.unpack("<IIIIQQQQII", memory.read(entry.state["regs"]["rbx"], 56))))


@pytest.mark.parametrize("bits", [32, 64])
def test_a_kernel_is_entered_where_its_note_says(bits):
    with loaded(kernel(bits=bits)) as (memory, entry):
        assert (entry.format, entry.mode, entry.address) == ("pvh", "protected", MIB + 16)
        assert memory.read(MIB, len(CODE)) == CODE
        sregs, regs = entry.state["sregs"], entry.state["regs"]
        assert (sregs["cr0"] & ~0x10, sregs["cr4"], regs["rflags"] & 0x20300) == (1, 0, 0)
        assert (sregs["tr"]["base"], sregs["tr"]["limit"], sregs["tr"]["type"]) == (0, 0x67, 11)


def test_the_gdt_in_memory_has_the_tss_at_0():
    with loaded(kernel()) as (memory, entry):
        sregs = entry.state["sregs"]
        descriptor = memory.u64(sregs["gdt"]["base"] + sregs["tr"]["selector"])
        assert descriptor == 0x0000_8B00_0000_0067


@pytest.mark.parametrize(
    "notes",
    [
        (note(struct.pack("<Q", MIB + 16)),),
        (note(b"x" * 5, kind=1, name=b"Linuxish\0"), note()),
        (note(name=b"GNU\0"), note()),
        (note(kind=17), note()),
    ],
    ids=["8 bytes", "behind another", "of another's name", "of another type"],
)
def test_the_note_is_found(notes):
    with loaded(kernel(*notes)) as (_, entry):
        assert entry.address == MIB + 16


def test_what_the_start_info_says():
    with loaded(kernel(), cmdline="a b", rsdp=0xE0000, memory=16 * MIB) as (memory, entry):
        found = info(memory, entry)
        assert (found["magic"], found["version"], found["flags"]) == (0x336EC578, 1, 0)
        assert (found["modules"], found["modlist"], found["rsdp"], found["zero"]) == (0, 0, 0xE0000, 0)
        assert memory.read(found["cmdline"], 4) == b"a b\0"
        rows = struct.iter_unpack("<QQII", memory.read(found["memmap"], 24 * found["entries"]))
        rows = list(rows)
        assert (0, 0x9FC00, 1, 0) in rows
        assert (0xE0000, 0x20000, 2, 0) in rows
        assert (MIB, 15 * MIB, 1, 0) in rows


def test_modules_are_listed():
    with loaded(kernel(), initrds=[b"first", bytes(5000)]) as (memory, entry):
        found = info(memory, entry)
        rows = list(struct.iter_unpack("<QQQQ", memory.read(found["modlist"], 64)))
        assert found["modules"] == 2
        assert [row[1] for row in rows] == [5, 5000]
        assert memory.read(rows[0][0], 5) == b"first"
        assert memory.read(rows[1][2], 8) == b"initrd1\0"


def linux():
    """A vmlinux, by its note of Linux's, that has the entry of PVH too."""
    notes = note(b"\0" * 4, kind=0x101, name=b"Linux\0") + note()
    return elf([(MIB, CODE, 0x2000, 0)], MIB, others=[(PT_NOTE, notes)])


def test_linux_is_started_by_its_own_entry_unless_pvh_is_asked_for():
    with loaded(linux()) as (_, entry):
        assert (entry.format, entry.mode, entry.address) == ("elf", "long", MIB)
    with loaded(linux(), format="pvh") as (_, entry):
        assert (entry.format, entry.mode, entry.address, entry.linux) == ("pvh", "protected", MIB + 16, True)


def test_the_note_of_a_bzimage_is_in_its_vmlinux():
    with loaded(bzimage(COMPRESS["gzip"](linux())), format="pvh") as (memory, entry):
        assert (entry.format, entry.mode, entry.address, entry.linux) == ("pvh", "protected", MIB + 16, True)
        assert memory.read(MIB, len(CODE)) == CODE


def test_linux_gets_all_parts_of_its_initrd_as_one_module():
    with loaded(linux(), format="pvh", initrds=[b"first", b"second"]) as (memory, entry):
        found = info(memory, entry)
        gpa, size, _, _ = struct.unpack("<QQQQ", memory.read(found["modlist"], 32))
        assert found["modules"] == 1
        assert memory.read(gpa, size) == b"first\0\0\0second\0\0"


WRONG = {
    "no note": (vmlinux(), "no note of Xen's, type 18"),
    "entry 0": (kernel(note(bytes(4))), "its PVH entry 0x0 lies in none of its segments"),
    "entry at the end": (kernel(note(struct.pack("<I", MIB + 0x2000))), "entry 0x102000 lies in none"),
    "entry top": (kernel(note(b"\xff" * 8)), "entry 0xffffffffffffffff lies in none"),
    "empty": (kernel(note(b"")), "has 0 bytes, neither 4 nor 8"),
    "of 5 bytes": (kernel(note(b"12345")), "has 5 bytes, neither 4 nor 8"),
    "size top": (kernel(note(descsz=0xFFFFFFFF)), "has 4294967295 bytes, neither 4 nor 8"),
    "cut off": (kernel(note()[:-2]), "has 4 bytes, neither 4 nor 8"),
    "name wraps": (kernel(note(namesz=0xFFFFFFFF)), "no note of Xen's, type 18"),
    "no elf": (b"x" * 1000, "is no ELF file"),
    "another machine": (elf([(MIB, CODE, 0x2000, 0)], MIB, machine=183), "is for AArch64"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told(case):
    image, text = WRONG[case]
    assert text in refused(image, format="pvh")


def test_pvh_has_one_mode():
    assert "in protected mode by its boot protocol, not in real mode" in refused(kernel(), entry="real")


@pytest.mark.parametrize("seed", range(4))
def test_mutated_notes_load_or_are_refused(seed):
    chance = random.Random(seed)
    outcomes = set()
    for _ in range(100):
        bits = chance.choice((32, 64))
        head = (52 + 2 * 32) if bits == 32 else (64 + 2 * 56)
        image = bytearray(kernel(note(b"abcd", kind=1), note(), bits=bits))
        for _ in range(chance.randint(1, 3)):
            at = chance.choice((chance.randrange(head), chance.randrange(len(image) - 48, len(image))))
            image[at] = chance.choice((0, 1, 4, 18, 0x7F, 0x80, 0xFF))
        try:
            with loaded(bytes(image), format="pvh", memory=4 * MIB) as (_, entry):
                outcomes.add("loaded")
                assert MIB <= entry.address < MIB + 0x2000
        except InputError as error:
            outcomes.add("refused")
            assert error.where
    assert outcomes == {"loaded", "refused"}
