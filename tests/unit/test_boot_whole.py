"""Kernels whose file is compressed as a whole."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tracemalloc

import pytest
from boot_doubles import COMPRESS, MIB, bzimage, loaded, vmlinux

from pykvm.boot import whole
from pykvm.errors import InputError

PACK = {"gzip": lambda data: gzip.compress(data, mtime=0), "xz": lzma.compress, "bzip2": bz2.compress}
KERNEL = vmlinux()


def refused(image, **keys):
    with pytest.raises(InputError) as caught, loaded(image, **keys):
        pass
    return str(caught.value)


@pytest.mark.parametrize("name", PACK)
def test_a_compressed_kernel_is_what_it_unpacks_to(name):
    with loaded(PACK[name](KERNEL)) as (memory, entry), loaded(KERNEL) as (plain, wanted):
        assert (entry.packed, wanted.packed) == (name, "")
        assert (entry.format, entry.address, entry.state) == ("elf", wanted.address, wanted.state)
        assert memory.read(MIB, 4000) == plain.read(MIB, 4000)


def test_a_bzimage_may_be_compressed_again():
    with loaded(PACK["xz"](bzimage(COMPRESS["gzip"](KERNEL)))) as (_, entry):
        assert (entry.format, entry.packed) == ("bzimage", "xz")


@pytest.mark.parametrize("name", PACK)
def test_members_one_behind_the_other_are_one_file(name):
    packed = PACK[name](KERNEL[:100]) + PACK[name](KERNEL[100:])
    with loaded(packed) as (_, entry):
        assert entry.format == "elf"


@pytest.mark.parametrize("name", PACK)
def test_what_follows_the_last_member_is_left_alone(name):
    with loaded(PACK[name](KERNEL) + bytes(100)) as (_, entry):
        assert entry.packed == name


@pytest.mark.parametrize("name", PACK)
def test_a_cut_file_is_truncated(name):
    packed = PACK[name](KERNEL)
    for size in (len(packed) - 1, len(packed) // 2, 8):
        assert f"is truncated {name} data" in refused(packed[:size])


@pytest.mark.parametrize("name", PACK)
def test_a_damaged_file_is_told(name):
    packed = bytearray(PACK[name](KERNEL))
    for at in range(len(packed) // 2, len(packed) // 2 + 8):
        packed[at] ^= 0xFF
    assert f"kernel: is damaged {name} data" in refused(bytes(packed))


def test_what_comes_out_has_a_limit(monkeypatch):
    monkeypatch.setattr(whole, "LARGEST", MIB)
    assert "unpacks to more than 1 MiB" in refused(PACK["gzip"](bytes(MIB + 1)))
    assert "unpacks to more than 1 MiB" in refused(PACK["xz"](bytes(MIB)) + PACK["xz"](b"x"))
    assert "no bzImage" in refused(PACK["gzip"](bytes(MIB)))


@pytest.mark.parametrize("name", PACK)
def test_what_the_guest_cannot_hold_is_not_unpacked(name):
    bomb = PACK[name](bytes(65 * MIB))
    assert len(bomb) < MIB
    tracemalloc.start()
    try:
        told = refused(bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert told == (
        f"kernel: the {name} data unpacks to more than the machine's 64M of memory; "
        "see that it is a kernel, and give the machine more memory"
    )
    assert peak < 90 * MIB


def test_what_is_wrong_inside_is_told_with_where_it_is():
    assert refused(PACK["gzip"](b"")).startswith("kernel (unpacked from gzip): is empty")
    assert refused(PACK["xz"](b"#!/bin/sh\n")).startswith("kernel (unpacked from xz): looks like a text file")


def test_a_flat_binary_is_taken_as_it_is():
    packed = PACK["gzip"](KERNEL)
    with loaded(packed, format="flat") as (memory, entry):
        assert memory.read(MIB, len(packed)) == packed
        assert entry.packed == ""
