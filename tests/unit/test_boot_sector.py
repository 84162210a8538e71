"""Boot sectors: how they are known, where they go, what the BIOS is told of them."""

from __future__ import annotations

import struct

import pytest
from boot_doubles import MIB, loaded, place

from pykvm.boot import bios, bootsector
from pykvm.boot.image import Image
from pykvm.config import defaults_for
from pykvm.errors import InputError, UsageError

SECTOR = (b"\xfa\xf4" + b"code" * 100).ljust(510, b"\0") + b"\x55\xaa"
MOST = 0x98000 - 0x7C00


def handoff(memory):
    return bios.HANDOFF.unpack(memory.read(0xFE004, bios.HANDOFF.size))


def refused(image, **keys):
    with pytest.raises(InputError) as caught, loaded(image, **keys):
        pass
    return str(caught.value)


@pytest.mark.parametrize("keys", [{}, {"format": "bootsector"}, {"entry": "real"}])
def test_a_boot_sector_is_entered_at_0_7c00_with_the_disks_number_in_dl(keys):
    with loaded(SECTOR, **keys) as (memory, entry):
        assert (entry.format, entry.mode, entry.address) == ("bootsector", "real", 0x7C00)
        assert memory.read(0x7C00, 512) == SECTOR
        regs, sregs = entry.state["regs"], entry.state["sregs"]
        assert (sregs["cs"]["selector"], regs["rip"], regs["rdx"]) == (0xF000, 0xE000, 0x80)
        assert handoff(memory)[:2] == (0x7C00, 0)
        assert sregs["cr0"] & 1 == 0


@pytest.mark.parametrize("header", [(0x1BADB002, 0), (0xE85250D6, 0, 16)])
def test_a_disk_whose_boot_loader_has_a_multiboot_header_is_a_disk(header):
    """As GRUB's has: it is there for those who load the loader alone."""
    end = struct.pack("<HHI", 0, 0, 8) if len(header) == 3 else b""
    words = struct.pack(f"<{len(header) + 1}I", *header, -sum(header) & 0xFFFF_FFFF) + end
    with loaded(SECTOR + bytes(0x980 - 512) + words.ljust(1024, b"\0")) as (_, entry):
        assert entry.format == "bootsector"


def test_a_multiboot_kernel_may_have_a_boot_sectors_signature():
    flags = 1 << 16  # address fields
    words = (0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFF_FFFF, MIB, MIB, 0, 0, MIB + 64)
    kernel = struct.pack("<8I", *words).ljust(510, b"\x90") + b"\x55\xaa"
    with loaded(kernel) as (_, entry):
        assert entry.format == "multiboot"


def test_what_follows_the_sector_lies_behind_it():
    with loaded(SECTOR + b"second") as (memory, _):
        assert memory.read(0x7E00, 6) == b"second"


def test_the_largest_image_ends_where_the_stack_begins():
    with loaded(SECTOR.ljust(MOST, b"x")) as (_, entry):
        assert place(entry, "the boot sector").end == place(entry, "the stack").gpa
    with loaded(SECTOR.ljust(MOST + 1, b"x")) as (memory, entry):  # the rest is left to INT 13h
        assert place(entry, "the boot sector").size == 512
        assert memory.read(place(entry, "the disk image").gpa, 513) == SECTOR + b"x"


# bytes, then DL, cylinders, heads, sectors in a track
@pytest.mark.parametrize(
    ("size", "number", "geometry"),
    [
        (513, 0x80, (1, 16, 63)),
        (1_474_560, 0x00, (80, 2, 18)),
        (1_474_561, 0x80, (3, 16, 63)),
        (40 * MIB, 0x80, (82, 16, 63)),
    ],
)
def test_an_image_is_the_disk_that_int_13h_reads(size, number, geometry):
    with loaded(SECTOR.ljust(size, b"x")) as (memory, entry):
        disk = place(entry, "the disk image")
        _, _, flags, gpa, sectors, told, heads, track, _, cylinders, _, kib = handoff(memory)
        assert flags == 0x202, "interrupts are on"
        assert (gpa, sectors) == (disk.gpa, -(-size // 512))
        assert told == number == entry.state["regs"]["rdx"]
        assert (cylinders, heads, track) == geometry
        assert disk.end == memory.low_end
        assert kib == disk.gpa - MIB >> 10


def test_the_memory_map_keeps_the_disk_from_the_guest():
    with loaded(SECTOR, memory=16 * MIB) as (memory, entry):
        disk = place(entry, "the disk image")
        count = handoff(memory)[10]
        at = 0xFE004 + bios.HANDOFF.size
        ranges = [struct.unpack("<QQI", memory.read(at + 20 * n, 20)) for n in range(count)]
        assert (MIB, disk.gpa - MIB, 1) in ranges
        assert (disk.gpa, 16 * MIB - disk.gpa, 2) in ranges


def test_a_machine_below_1_mib_has_no_bios():
    with loaded(SECTOR, memory=640 << 10) as (_, entry):
        regs, sregs = entry.state["regs"], entry.state["sregs"]
        assert (sregs["cs"]["selector"], regs["rip"], regs["rdx"]) == (0, 0x7C00, 0x80)
    assert "is a disk image of 578K" in refused(SECTOR.ljust(MOST + 1, b"x"), memory=640 << 10)


def test_a_disk_that_does_not_fit_says_how_much_memory_would_do():
    told = refused(SECTOR.ljust(20 * MIB, b"x"), memory=16 * MIB)
    assert "is a disk image of 20M" in told
    assert "set memory to 22M or more" in told


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (SECTOR[:511], "no boot sector (shorter than 512 bytes)"),
        (SECTOR[:510] + b"\xaa\x55", "no boot sector (aa 55, not 55 aa, at 0x1fe)"),
        (b"\0\0" + SECTOR[2:], "no boot sector (starts 00 00, which is no code)"),
        (b"MZ" + SECTOR[2:], "no boot sector (starts 4d 5a, which is a DOS or EFI program)"),
    ],
)
def test_why_an_image_is_none(image, reason):
    told = refused(image)
    if image.startswith(b"MZ"):  # a stranger with a name: the reasons of every format aren't listed
        assert told.startswith("kernel: looks like a DOS or EFI program, or a bzImage that was cut short; ")
        told = f"no boot sector ({bootsector.why_not(Image.of(image, 'kernel'))})"
    assert reason in told


def test_a_boot_sector_has_one_mode_and_takes_nothing():
    assert "entered in real mode, not in long mode" in refused(SECTOR, entry="long")
    assert "takes no initrd and no command line" in refused(SECTOR, initrds=[b"x"])
    assert "takes no initrd and no command line" in refused(SECTOR, cmdline="x")
    with pytest.raises(UsageError, match=r"kernel\.cmdline: a boot sector takes none"):
        defaults_for("k", ["kernel.format=bootsector", "kernel.cmdline=x"])
