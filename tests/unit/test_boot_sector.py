"""Boot sectors: how they are known, where they go, what a BIOS would leave in the registers."""

from __future__ import annotations

import pytest
from boot_doubles import loaded, place

from pykvm.boot import bootsector
from pykvm.boot.image import Image
from pykvm.config import defaults_for
from pykvm.errors import InputError, UsageError

SECTOR = (b"\xfa\xf4" + b"code" * 100).ljust(510, b"\0") + b"\x55\xaa"
MOST = 0x98000 - 0x7C00


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
        assert (sregs["cs"]["selector"], regs["rip"], regs["rdx"]) == (0, 0x7C00, 0x80)
        assert sregs["cr0"] & 1 == 0


def test_what_follows_the_sector_lies_behind_it():
    with loaded(SECTOR + b"second") as (memory, _):
        assert memory.read(0x7E00, 6) == b"second"


def test_the_largest_image_ends_where_the_stack_begins():
    with loaded(SECTOR.ljust(MOST, b"x")) as (_, entry):
        assert place(entry, "the boot sector").end == place(entry, "the stack").gpa
    assert "is a disk image of 578K: its boot sector would have a BIOS read the rest" in refused(
        SECTOR.ljust(MOST + 1, b"x")
    )


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
