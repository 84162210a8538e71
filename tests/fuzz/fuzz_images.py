"""Kernels and what they are packed in, damaged field by field: every format that pykvm loads.

A fault is any error but pykvm's own, a range that lies outside of RAM or on another, an entry in neither.
"""

from __future__ import annotations

import bz2
import functools
import gzip
import lzma
import struct
from pathlib import Path
from random import Random

import boot_doubles as made
import test_boot_multiboot as mb1
import test_boot_multiboot2 as mb2
import test_boot_pvh as pvh

from pykvm.boot import header, payload, whole
from pykvm.boot.elf import HEADERS, PROGRAM_HEADERS
from pykvm.boot.image import Image
from pykvm.boot.places import Range
from pykvm.debug import symbols
from pykvm.errors import HostError, InputError
from pykvm.memory.layout import FOUR_GIB

MIB = 1 << 20
GUESTS = Path(__file__).parents[2] / "guests"
FORMATS = ("auto", "auto", "auto", "bzimage", "elf", "pvh", "multiboot", "multiboot2", "bootsector", "flat")
PREFIX = 4096  # where headers are
SIZES = {"B": 1, "H": 2, "I": 4, "Q": 8}


def _elf_fields(image: bytes) -> list[tuple[int, int]]:
    """Offset and size of each field of the ELF header and of the program headers."""
    bits = 32 if image[4] == 1 else 64
    found = [(at, 1) for at in range(4, 8)]
    found += _columns(16, HEADERS[bits].format[4:])
    phoff = int.from_bytes(image[28:32] if bits == 32 else image[32:40], "little")
    layout = PROGRAM_HEADERS[bits]
    count = int.from_bytes(image[44:46] if bits == 32 else image[56:58], "little")
    for number in range(min(count, 8)):
        found += _columns(phoff + number * layout.size, layout.format[1:])
    return found


def _columns(at: int, letters: str) -> list[tuple[int, int]]:
    found = []
    for letter in letters:
        found.append((at, SIZES[letter]))
        at += SIZES[letter]
    return found


def _words(start: int, count: int) -> list[tuple[int, int]]:
    return [(start + 4 * number, 4) for number in range(count)]


Sample = tuple[str, bytes, list[tuple[int, int]]]


@functools.cache
def samples() -> list[Sample]:
    """Good images: name, bytes, offset and size of the fields of their headers."""
    setup = [(offset, size) for offset, size, _, _ in header.FIELDS]
    found: list[Sample] = []
    for name, compress in made.COMPRESS.items():
        packed = compress(made.vmlinux())
        at = 1024 + made.PAYLOAD_OFFSET
        trailer = [(at + len(packed) - 4, 4), *_words(at, 8)]
        found.append((f"bzimage-{name}", made.bzimage(packed), setup + trailer))
    packed = made.COMPRESS["gzip"](made.vmlinux())
    for name, fields in (
        ("zimage", {"version": 0x203, "loadflags": 0, "code32_start": 0x1000}),
        ("zimage-2.00", {"version": 0x200, "loadflags": 0}),
        ("bzimage-2.01", {"version": 0x201}),
        ("bzimage-worn", {"version": 0x203, "kernel_version": 0}),
    ):
        found.append((name, made.bzimage(packed, **fields), setup))
    elfs = {
        "elf64": made.vmlinux(),
        "elf32": made.vmlinux(bits=32),
        "pvh": pvh.kernel(),
        "multiboot": mb1.kernel(),
    }
    tags = (mb2.tag(1, 1, 3, 4), mb2.tag(3, MIB), mb2.tag(6), mb2.tag(10, 0, 1 << 30, 4096, 1), mb2.tag(4, 3))
    for bits in (32, 64):
        elfs[f"multiboot2-{bits}"] = mb2.kernel(*tags, bits=bits)
    for name, image in elfs.items():
        more = []
        if name.startswith("multiboot"):
            at = image.find(struct.pack("<I", mb2.MAGIC if "2" in name else mb1.MAGIC))
            more = _words(at, 30)
        if name == "pvh":
            at = image.find(b"Xen\0")
            more = _words(at - 12, 6)
        found.append((name, image, _elf_fields(image) + more * 3))
    found.append(("multiboot-flat", mb1.flat(), _words(0, 8)))
    found.append(("bootsector", bytes(510) + b"\x55\xaa" + bytes(700), [(0x1FE, 2)]))
    for path in sorted(GUESTS.glob("tests/boot-*/*.bin")) + sorted(GUESTS.glob("*/*.bin")):
        image = path.read_bytes()
        fields = _elf_fields(image) if image[:4] == b"\x7fELF" else _words(0, 16)
        found.append((path.parent.name, image, fields))
    plain = made.vmlinux()
    for name, packed in (
        ("gzip", gzip.compress(plain, mtime=0)),
        ("xz", lzma.compress(plain)),
        ("bzip2", bz2.compress(plain)),
    ):
        found.append((f"whole-{name}", packed, [*_words(0, 6), (len(packed) - 4, 4), (len(packed) - 8, 4)]))
    return found


def _mutated(rng: Random, image: bytes, fields: list[tuple[int, int]]) -> bytes:
    data = bytearray(image)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        kind = rng.random()
        if kind < 0.65 and fields:
            at, size = rng.choice(fields)
        elif kind < 0.8:
            at, size = rng.randrange(max(min(len(data), PREFIX), 1)), rng.choice((1, 2, 4, 8))
        elif kind < 0.9:
            at, size = rng.randrange(max(len(data), 1)), rng.choice((1, 2, 4))
        elif kind < 0.95:
            del data[rng.randrange(len(data) + 1) :]
            continue
        else:
            at = rng.randrange(len(data) + 1)
            data[at:at] = rng.randbytes(rng.choice((1, 4, 512)))
            continue
        if at + size > len(data):
            continue
        data[at : at + size] = _value(rng, size, int.from_bytes(data[at : at + size], "little"), len(data))
    return bytes(data)


def _value(rng: Random, size: int, was: int, length: int) -> bytes:
    """A count, size, offset or address at its ends, or beside what was there."""
    top = (1 << 8 * size) - 1
    values = (
        *(0, 1, top, top - 1, top >> 1, (top >> 1) + 1, was + 1, was - 1, -was, was << 1),
        *(length, length - 1, length + 1, 16 * MIB, 16 * MIB - 1, 0xC000_0000, FOUR_GIB, FOUR_GIB - 1),
        *(1 << 30, 1 << 47, 1 << rng.randrange(8 * size), rng.getrandbits(8 * size), top - was, MIB),
    )
    return (rng.choice(values) & top).to_bytes(size, "little")


def _summed(rng: Random, data: bytes) -> bytes:
    """Multiboot's checksums made right, so that what was changed is looked at."""
    changed = bytearray(data)
    for magic, words in ((mb1.MAGIC, 2), (mb2.MAGIC, 3)):
        at = data.find(struct.pack("<I", magic))
        if at >= 0 and at + 4 * words + 4 <= len(data) and rng.random() < 0.8:
            total = sum(struct.unpack_from(f"<{words}I", data, at))
            struct.pack_into("<I", changed, at + 4 * words, -total & 0xFFFF_FFFF)
    return bytes(changed)


def images(rng: Random) -> None:
    """A damaged kernel is loaded or refused."""
    _, good, fields = rng.choice(samples())
    data = _summed(rng, _mutated(rng, good, fields))
    keys = {"format": rng.choice(FORMATS), "entry": rng.choice(("auto", "auto", "protected", "long", "real"))}
    if keys["format"] == "flat":
        for key in ("load", "start"):
            keys[key] = rng.choice(
                (None, 0, 0x1000, 0x7C00, MIB, 16 * MIB - 1, FOUR_GIB, rng.getrandbits(40))
            )
    keys["cmdline"] = rng.choice(("", "quiet", "x" * 3000, "x" * 70_000, "é\udc80"))
    initrds = [rng.randbytes(rng.choice((0, 1, 5000, 4 * MIB))) for _ in range(rng.choice((0, 0, 1, 3)))]
    memory = rng.choice((64 * 1024, MIB, 16 * MIB, 64 * MIB))
    symbols.read(Image.of(data, "kernel"))
    try:
        with made.loaded(data, memory=memory, initrds=initrds, **keys) as (guest, entry):
            _check(guest.low_end, guest.high_end, list(entry.placed))
            assert entry.mode in ("real", "protected", "long")
            assert 0 <= entry.address < FOUR_GIB
    except (InputError, HostError) as error:
        assert str(error).isprintable() and len(str(error)) < 1000, str(error)[:2000]


def _check(low_end: int, high_end: int, placed: list[Range]) -> None:
    end = 0
    for place in placed:
        assert place.gpa >= end, f"{place} overlaps"
        assert place.end <= low_end or FOUR_GIB <= place.gpa < place.end <= high_end, f"{place} is not in RAM"
        end = place.end


@functools.cache
def _packed() -> list[bytes]:
    return [compress(made.vmlinux()) for compress in made.COMPRESS.values()]


def payloads(rng: Random) -> None:
    """Damaged compressed data, alone."""
    good = rng.choice(_packed())
    fields = [(at, size) for at in range(4, 28) for size in (1, 2, 4)] + [(len(good) - 4, 4)] * 9
    data = _mutated(rng, good, fields)
    limit = rng.choice((payload.LARGEST, MIB, 1, 0))
    try:
        assert len(payload.unpack(data, where="kernel", limit=limit)) <= limit
    except (InputError, HostError) as error:
        assert str(error).isprintable(), str(error)
    try:
        whole.unpack(Image.of(data, "kernel"), rng.choice((MIB, 64 * MIB)))
    except (InputError, HostError) as error:
        assert str(error).isprintable(), str(error)


TARGETS = {"images": images, "payloads": payloads}
