"""Where the initial RAM disk goes, and what is said when it goes nowhere."""

from __future__ import annotations

import pytest
from boot_doubles import COMPRESS, MIB, bzimage, loaded, place, vmlinux

from pykvm.boot.image import Image
from pykvm.errors import InputError

GIB = 1 << 30
PACKED = COMPRESS["gzip"](vmlinux())
WHOLE = bzimage(PACKED)
BOOT_PARAMS = 0x90000


def address(memory):
    """What boot_params says: (address, size)."""
    low, size = memory.u32(BOOT_PARAMS + 0x218), memory.u32(BOOT_PARAMS + 0x21C)
    high, more = memory.u32(BOOT_PARAMS + 0xC0), memory.u32(BOOT_PARAMS + 0xC4)
    return high << 32 | low, more << 32 | size


def test_an_initrd_lies_page_aligned_at_the_end_of_memory():
    data = b"disk" * 2500
    with loaded(WHOLE, initrds=[data]) as (memory, entry):
        gpa, size = address(memory)
        assert (gpa, size) == (64 * MIB - 0x3000, len(data))
        assert memory.read(gpa, size) == data
        assert place(entry, "the initrd").gpa == gpa


def test_several_lie_behind_one_another_at_multiples_of_4():
    with loaded(WHOLE, initrds=[b"a" * 5, b"b" * 8, b"c"]) as (memory, _):
        gpa, size = address(memory)
        assert memory.read(gpa, size) == b"aaaaa\0\0\0bbbbbbbbc"


def test_without_one_boot_params_has_none():
    with loaded(WHOLE) as (memory, _):
        assert address(memory) == (0, 0)


def test_the_kernels_highest_address_is_kept():
    """It is the address of the last byte that the initrd may have."""
    with loaded(bzimage(PACKED, initrd_addr_max=32 * MIB - 1), initrds=[bytes(4096)]) as (memory, _):
        assert address(memory)[0] == 32 * MIB - 4096
    with loaded(bzimage(PACKED, initrd_addr_max=32 * MIB - 2), initrds=[bytes(4096)]) as (memory, _):
        assert address(memory)[0] == 32 * MIB - 2 * 4096
    with loaded(bzimage(PACKED, version=0x202), memory=GIB, initrds=[b"x"]) as (memory, _):
        assert address(memory)[0] == 0x38000000 - 0x1000, "before 2.03 it is 0x37ffffff"


def test_a_machine_with_much_memory_keeps_it_below_the_device_hole():
    image = bzimage(PACKED, initrd_addr_max=0xFFFFFFFF)
    with loaded(image, memory=8 * GIB, initrds=[b"x"]) as (memory, _):
        assert address(memory)[0] == 3 * GIB - 0x1000


def test_an_initrd_that_fits_only_above_4_gib_goes_there_if_the_kernel_can():
    data = b"disk" * MIB
    image = bzimage(PACKED, initrd_addr_max=4 * MIB - 1)
    with loaded(image, memory=4 * GIB, initrds=[data]) as (memory, _):
        gpa, size = address(memory)
        assert (gpa, size) == (5 * GIB - 4 * MIB, 4 * MIB)
        assert memory.read(gpa + size - 4, 4) == b"disk"
    with (
        pytest.raises(InputError, match="make it smaller"),
        loaded(image, memory=4 * GIB, initrds=[data], entry="protected"),
    ):
        pass
    image = bzimage(PACKED, initrd_addr_max=4 * MIB - 1, xloadflags=1)
    with pytest.raises(InputError, match="make it smaller"), loaded(image, memory=4 * GIB, initrds=[data]):
        pass


def test_an_initrd_larger_than_memory_is_told_how_much_would_do():
    with pytest.raises(InputError) as caught, loaded(WHOLE, memory=8 * MIB, initrds=[bytes(7 * MIB)]):
        pass
    assert str(caught.value) == (
        "initrd0: an initrd of 7M doesn't fit beside the kernel, which ends at 0x211000, into 8M; "
        "set memory to 10M or more"
    )
    with loaded(WHOLE, memory=10 * MIB, initrds=[bytes(7 * MIB)]):
        pass


def test_an_empty_one_is_refused_by_its_name():
    with pytest.raises(InputError, match=r"^initrd1: is empty"), loaded(WHOLE, initrds=[b"x", b""]):
        pass


def test_a_file_is_read_into_place(tmp_path):
    path = tmp_path / "initrd"
    path.write_bytes(b"disk" * 5000)
    with Image.open(str(path)) as disk, loaded(WHOLE, initrds=[disk, b"more"]) as (memory, _):
        gpa, size = address(memory)
        assert memory.read(gpa, size) == b"disk" * 5000 + b"more"
