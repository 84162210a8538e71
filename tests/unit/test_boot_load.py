"""What an image is taken for, what is said of one that is nothing, and that nothing breaks the loader."""

from __future__ import annotations

import os
import random
import socket

import pytest
from boot_doubles import COMPRESS, MIB, bzimage, config, elf, loaded, vmlinux

from pykvm.boot.image import Image
from pykvm.boot.load import load
from pykvm.errors import InputError
from pykvm.memory import GuestMemory

WHOLE = bzimage(COMPRESS["gzip"](vmlinux()))


def refused(image, **keys):
    with pytest.raises(InputError) as caught, loaded(image, **keys):
        pass
    return str(caught.value)


def test_the_format_is_told_by_content():
    for image, name in ((WHOLE, "bzimage"), (vmlinux(), "elf"), (vmlinux(bits=32), "elf")):
        with loaded(image) as (_, entry):
            assert entry.format == name


def test_what_is_nothing_is_told_what_was_looked_for():
    assert refused(bytes(4096)) == (
        "kernel: is no bzImage (no 0xaa55 at 0x1fe), no Multiboot2 kernel (no 0xe85250d6 in the first 32768 "
        "bytes), no Multiboot kernel (no 0x1badb002 in the first 8192 bytes), no PVH kernel (no ELF: starts "
        "00 00 00 00, not 7f 45 4c 46), no ELF (starts 00 00 00 00, not 7f 45 4c 46) and no boot sector "
        "(starts 00 00, which is no code); name a kernel, or set kernel.format to flat for a binary of your "
        "own"
    )


STRANGERS = {
    "text": (b"#!/bin/sh\necho hello\n", "looks like a text file"),
    "gzip twice": (COMPRESS["gzip"](COMPRESS["gzip"](bytes(1000))), "(unpacked from gzip): looks like gzip"),
    "zstd": (COMPRESS["zstd"](bytes(1000)), "looks like zstd data"),
    "initramfs": (b"070701" + bytes(600), "name it in kernel.initrd"),
    "package": (b"!<arch>\ndebian-binary   ", "looks like a Debian package"),
    "arm": (bytes(0x38) + b"ARM\x64" + bytes(0x1000), "looks like Linux for AArch64"),
    "efi": (b"MZ" + bytes(600), "looks like a DOS or EFI program"),
}


@pytest.mark.parametrize("case", STRANGERS)
def test_what_people_take_for_a_kernel_is_called_by_its_name(case):
    image, text = STRANGERS[case]
    found = refused(image)
    assert text in found
    assert "; it is no bzImage, " in found and " and no boot sector; " in found


def test_a_format_that_is_asked_for_must_be_there():
    assert refused(vmlinux(), format="bzimage").startswith("kernel: is no bzImage: no 0xaa55 at 0x1fe")
    assert refused(WHOLE, format="elf").startswith("kernel: is no ELF: starts 00 00 00 00")


def test_an_empty_file_is_called_empty():
    assert refused(b"") == "kernel: is empty; name a kernel"


def test_what_is_no_readable_file_is_refused_without_waiting(tmp_path):
    with pytest.raises(InputError, match=f"^{tmp_path}: is not a regular file"):
        Image.open(str(tmp_path))
    with pytest.raises(InputError, match=r"^/nowhere: cannot be read: No such file or directory"):
        Image.open("/nowhere")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InputError, match="is not a regular file"):
        Image.open(str(tmp_path / "fifo"))
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(tmp_path / "socket"))
        with pytest.raises(InputError, match="cannot be read: No such device or address"):
            Image.open(str(tmp_path / "socket"))


def test_an_image_closes_its_file():
    before = set(os.listdir("/proc/self/fd"))
    with Image.open("/proc/self/exe") as image:
        assert image.read(0, 4) == b"\x7fELF"
        assert image.read(image.size - 1, 100) == image.read(image.size - 1, 1)
        assert image.read(image.size + 5, 100) == b""
    image.close()
    assert set(os.listdir("/proc/self/fd")) == before


def test_reading_beyond_an_image_is_an_error_that_says_so():
    with pytest.raises(InputError, match=r"^kernel: is truncated: bytes up to 12 are needed"):
        Image.of(b"0123456789", "kernel").read_into(8, memoryview(bytearray(4)))


def test_nothing_that_is_placed_overlaps():
    with loaded(WHOLE, initrds=[bytes(MIB)], rsdp=0xE0000, cmdline="quiet") as (_, entry):
        assert len(entry.placed) >= 8
        for one, next_one in zip(entry.placed, entry.placed[1:]):
            assert one.end <= next_one.gpa, (one, next_one)


def test_an_entry_cant_be_changed():
    with loaded(WHOLE) as (_, entry), pytest.raises(AttributeError):
        entry.address = 0


SEEDS = [
    vmlinux(),
    vmlinux(bits=32),
    elf([(MIB, b"x" * 100, 200, 0), (2 * MIB, b"y" * 100, 4096, 0)], MIB),
    *(bzimage(pack(vmlinux())) for pack in COMPRESS.values()),
    bzimage(b"\x89LZO" + bytes(100)),
]
EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 63, (1 << 64) - 1)


def mutate(image, chance):
    """``image`` with a few bytes, fields or parts of it changed, mostly in its headers."""
    data = bytearray(image)
    for _ in range(chance.randint(1, 6)):
        where = chance.choice((64, 0x1F1, 0x270, 0x400, len(data)))
        at = chance.randrange(0x1F1, 0x26C) if chance.random() < 0.3 else chance.randrange(where)
        at = min(at, len(data) - 1)
        what = chance.random()
        if what < 0.4:
            data[at] = chance.randrange(256)
        elif what < 0.8:
            size = chance.choice((2, 4, 8))
            value = chance.choice(EDGES) & (1 << 8 * size) - 1
            data[at : at + size] = value.to_bytes(size, "little")
        elif what < 0.9:
            del data[at:]
        else:
            data[at:at] = chance.randbytes(chance.randint(1, 40))
        if not data:
            break
    return bytes(data)


@pytest.mark.parametrize("seed", range(20))
def test_mutated_kernels_load_or_are_refused_and_nothing_else(seed):
    chance = random.Random(seed)
    outcomes = set()
    for _ in range(100):
        image = Image.of(mutate(chance.choice(SEEDS), chance), "kernel")
        memory = GuestMemory.pc(chance.choice((MIB, 4 * MIB, 64 * MIB, 5 << 30)))
        disks = [Image.of(bytes(1000), "initrd")] if chance.random() < 0.5 else []
        entry = chance.choice(("auto", "auto", "long", "protected", "real"))
        try:
            found = load(memory, image, disks, config(entry=entry, cmdline="quiet"), rsdp=0xE0000)
            outcomes.add("loaded")
            assert found.state["regs"]["rip"] < 1 << 32
            for one, next_one in zip(found.placed, found.placed[1:]):
                assert one.end <= next_one.gpa
        except InputError as error:
            outcomes.add("refused")
            assert error.where
        finally:
            memory.close()
    assert outcomes == {"loaded", "refused"}
