"""boot_params as Linux reads it: layout against its own header file, map of memory, answers of the loader."""

from __future__ import annotations

import itertools
import shutil
import struct
import subprocess

import pytest
from boot_doubles import COMPRESS, MIB, bzimage, loaded, place, vmlinux

from pykvm.boot import header, params
from pykvm.errors import InputError
from pykvm.memory import GuestMemory

GIB = 1 << 30
PACKED = COMPRESS["gzip"](vmlinux())
WHOLE = bzimage(PACKED)
BOOT_PARAMS = 0x90000
RAM, RESERVED = 1, 2


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_both_tables_are_those_of_the_installed_header():
    lines = ["#include <stddef.h>", "#include <asm/bootparam.h>"]
    for offset, size, name in params.FIELDS:
        if "." not in name:
            lines.append(f"_Static_assert(offsetof(struct boot_params, {name}) == {offset}, {name!r});")
            lines.append(f"_Static_assert(sizeof(((struct boot_params *)0)->{name}) == {size}, {name!r});")
    for offset, size, _, name in header.FIELDS:
        lines.append(f"_Static_assert(offsetof(struct boot_params, hdr.{name}) == {offset}, {name!r});")
        lines.append(f"_Static_assert(sizeof(((struct boot_params *)0)->hdr.{name}) == {size}, {name!r});")
    lines.append('_Static_assert(sizeof(struct boot_params) == 4096, "size");')
    source = "\n".join(lines).replace("'", '"') + "\n"
    done = subprocess.run(
        ["cc", "-fsyntax-only", "-x", "c", "-"], input=source, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def e820_of(size):
    memory = GuestMemory.pc(size)
    try:
        return params.e820(memory)
    finally:
        memory.close()


def test_the_map_of_a_small_machine():
    assert e820_of(512 * MIB) == [
        (0, 0x9FC00, RAM),
        (0x9FC00, 0xA0000, RESERVED),
        (0xE0000, 0x100000, RESERVED),
        (0x100000, 512 * MIB, RAM),
        (0xFEFFC000, 0xFF000000, RESERVED),
    ]


def test_memory_beyond_3_gib_is_on_the_map_above_4_gib():
    ranges = e820_of(5 * GIB)
    assert (0x100000, 3 * GIB, RAM) in ranges
    assert ranges[-1] == (4 * GIB, 6 * GIB, RAM)


@pytest.mark.parametrize("size", [64 << 10, 640 << 10, MIB, 2 * MIB, 3 * GIB, 3 * GIB + 4096, 100 * GIB])
def test_every_map_is_in_order_and_says_ram_only_where_memory_is(size):
    memory = GuestMemory.pc(size)
    try:
        ranges = params.e820(memory)
        for (_, end, _), (start, _, _) in itertools.pairwise(ranges):
            assert end <= start
        for start, end, kind in ranges:
            assert start < end
            if kind == RAM:
                memory.views(start, end - start)
        ram = sum(end - start for start, end, kind in ranges if kind == RAM)
        assert ram >= min(size, 0x9FC00) + max(size - MIB, 0)
    finally:
        memory.close()


def read_e820(memory):
    count = memory.u8(BOOT_PARAMS + 0x1E8)
    return [struct.unpack("<QQI", memory.read(BOOT_PARAMS + 0x2D0 + 20 * n, 20)) for n in range(count)]


def test_the_kernel_finds_the_map_the_tables_and_the_command_line():
    with loaded(WHOLE, cmdline="root=/dev/vda ünï", rsdp=0xE0000) as (memory, entry):
        assert read_e820(memory)[0] == (0, 0x9FC00, RAM)
        assert read_e820(memory)[3] == (0x100000, 63 * MIB, RAM)
        assert memory.u64(BOOT_PARAMS + 0x70) == 0xE0000
        text = "root=/dev/vda ünï".encode() + b"\0"
        assert memory.read(memory.u32(BOOT_PARAMS + 0x228), len(text)) == text
        assert memory.u16(BOOT_PARAMS + 0x1FA) == 0xFFFF, "vid_mode: normal"
        assert memory.u8(BOOT_PARAMS + 0x210) == 0xFF, "type_of_loader: no number of our own"
        assert memory.u32(BOOT_PARAMS + 0x1E0) == 63 * 1024, "alt_mem_k"
        assert memory.u8(BOOT_PARAMS + 0x1EF) == 0, "sentinel"
        assert place(entry, "the ACPI tables").gpa == 0xE0000


def test_the_kernels_own_header_is_copied_and_nothing_of_the_code_around_it():
    image = bytearray(WHOLE)
    image[:0x1F1] = b"\xcc" * 0x1F1
    image[0x26C:0x300] = b"\xcc" * (0x300 - 0x26C)
    with loaded(bytes(image)) as (memory, _):
        page = memory.read(BOOT_PARAMS, 4096)
        assert page[0x202:0x206] == b"HdrS"
        assert struct.unpack_from("<Q", page, 0x258)[0] == MIB, "pref_address"
        assert b"\xcc\xcc" not in page


def test_flags_that_only_real_mode_and_the_kernels_own_unpacker_may_set_are_cleared():
    with loaded(bzimage(PACKED, loadflags=0x83)) as (memory, _):
        assert memory.u8(BOOT_PARAMS + 0x211) == 0x01


def test_fields_that_the_protocol_doesnt_have_are_left_alone():
    """boot.rst: only fields of the protocol version in use may be set."""
    image = bytearray(bzimage(PACKED, version=0x202))
    image[0x250:0x258] = b"whatever"  # setup_data, since 2.09
    with loaded(bytes(image)) as (memory, _):
        assert memory.read(BOOT_PARAMS + 0x250, 8) == b"whatever"
        assert memory.u32(BOOT_PARAMS + 0x228) != 0


def test_a_machine_without_acpi_has_no_address_of_tables():
    with loaded(WHOLE) as (memory, _):
        assert memory.u64(BOOT_PARAMS + 0x70) == 0


def test_a_command_line_of_the_kernels_limit_fits_and_one_byte_more_is_refused():
    with loaded(WHOLE, cmdline="x" * 2047) as (memory, _):
        assert memory.read(memory.u32(BOOT_PARAMS + 0x228) + 2046, 2) == b"x\0"
    text = "kernel.cmdline: is 2048 bytes long, and this kernel takes 2047; shorten it"
    with pytest.raises(InputError, match=text), loaded(WHOLE, cmdline="x" * 2048):
        pass
    with pytest.raises(InputError, match="takes 2047"), loaded(WHOLE, cmdline="é" * 1024):
        pass


def test_kernels_before_2_06_take_255_bytes():
    with (
        pytest.raises(InputError, match="takes 255"),
        loaded(bzimage(PACKED, version=0x205), cmdline="x" * 256),
    ):
        pass


def test_a_kernel_that_claims_endless_command_lines_gets_what_there_is_room_for():
    image = bzimage(PACKED, cmdline_size=0xFFFFFFFF)
    with loaded(image, cmdline="x" * 0xFFFF) as (memory, _):
        assert memory.read(memory.u32(BOOT_PARAMS + 0x228), 0x10000) == b"x" * 0xFFFF + b"\0"
    with pytest.raises(InputError, match="takes 65535"), loaded(image, cmdline="x" * 0x10000):
        pass


def test_a_nul_in_the_command_line_is_refused():
    with pytest.raises(InputError, match="holds a NUL"), loaded(WHOLE, cmdline="a\0b"):
        pass
