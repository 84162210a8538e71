"""Kernels made by hand: ELF files and bzImages of a few bytes, each field where its specification has it."""

from __future__ import annotations

import bz2
import ctypes
import gzip
import lzma
import struct
from contextlib import contextmanager

from pykvm.boot.image import Image
from pykvm.boot.load import Entry, load
from pykvm.config.model import KernelConfig
from pykvm.memory import GuestMemory

MIB = 1 << 20

# Offset and struct format of some fields of the setup header (Documentation/arch/x86/boot.rst).
HEADER = {
    "setup_sects": (0x1F1, "B"),
    "syssize": (0x1F4, "I"),
    "boot_flag": (0x1FE, "H"),
    "jump_opcode": (0x200, "B"),
    "jump_distance": (0x201, "B"),
    "header": (0x202, "4s"),
    "version": (0x206, "H"),
    "kernel_version": (0x20E, "H"),
    "loadflags": (0x211, "B"),
    "code32_start": (0x214, "I"),
    "initrd_addr_max": (0x22C, "I"),
    "kernel_alignment": (0x230, "I"),
    "relocatable_kernel": (0x234, "B"),
    "xloadflags": (0x236, "H"),
    "cmdline_size": (0x238, "I"),
    "payload_offset": (0x248, "I"),
    "payload_length": (0x24C, "I"),
    "pref_address": (0x258, "Q"),
    "init_size": (0x260, "I"),
}
VERSION = b"6.99.0-handmade (me@here) #1"
PAYLOAD_OFFSET = 0x2CC


def elf(segments, entry, *, bits=64, machine=None, kind=2, others=(), **fields):
    """An ELF file. ``segments`` are (paddr, data, memsz, vaddr); ``others`` (p_type, data) of other headers.

    ``fields`` replace header values: e_ident, phoff, phentsize, phnum.
    """
    machine = machine or (62 if bits == 64 else 3)
    ehsize, phsize = (64, 56) if bits == 64 else (52, 32)
    count = len(segments) + len(others)
    at = ehsize + phsize * count
    table, body = b"", b""
    rows = [(1, *row) for row in segments] + [(t, 0, data, len(data), 0) for t, data in others]
    for p_type, paddr, data, memsz, vaddr in rows:
        offset = at + len(body)
        if bits == 64:
            table += struct.pack("<IIQQQQQQ", p_type, 7, offset, vaddr, paddr, len(data), memsz, 16)
        else:
            table += struct.pack("<IIIIIIII", p_type, offset, vaddr, paddr, len(data), memsz, 7, 16)
        body += data
    ident = fields.get("e_ident", b"\x7fELF" + bytes((2 if bits == 64 else 1, 1, 1)) + bytes(9))
    layout = "<16sHHIQQQIHHHHHH" if bits == 64 else "<16sHHIIIIIHHHHHH"
    header = struct.pack(
        layout,
        ident,
        kind,
        machine,
        1,
        entry,
        fields.get("phoff", ehsize),
        0,
        0,
        ehsize,
        fields.get("phentsize", phsize),
        fields.get("phnum", count),
        0,
        0,
        0,
    )
    return header + table + body


def vmlinux(*, bits=64):
    """A kernel of two segments, the second with 64 KiB of .bss."""
    virtual = 0xFFFF_FFFF_8000_0000 if bits == 64 else 0xC000_0000
    text, data = b"\xf4" + b"text" * 1000, b"data" * 500
    return elf(
        [
            (MIB, text, len(text), virtual + MIB),
            (2 * MIB, data, len(data) + 0x10000, virtual + 2 * MIB),
        ],
        MIB,
        bits=bits,
        others=[(4, struct.pack("<III8sI", 6, 4, 0x101, b"Linux", 0))],
    )


def with_size(packed, size):
    return packed + struct.pack("<I", size)


def compress_zstd(data):
    zstd = ctypes.CDLL("libzstd.so.1")
    zstd.ZSTD_compress.restype = ctypes.c_size_t
    zstd.ZSTD_compress.argtypes = (
        *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t),
        ctypes.c_int,
    )
    out = ctypes.create_string_buffer(len(data) + 1000)
    size = zstd.ZSTD_compress(out, len(out), data, len(data), 3)
    return out.raw[:size]


def compress_lz4(data):
    """A legacy frame, in blocks of 8 MiB, as ``lz4 -l`` writes it."""
    lz4 = ctypes.CDLL("liblz4.so.1")
    lz4.LZ4_compress_default.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int)
    frame = struct.pack("<I", 0x184C2102)
    for start in range(0, len(data), 8 * MIB):
        block = data[start : start + 8 * MIB]
        out = ctypes.create_string_buffer(len(block) + len(block) // 255 + 16)
        size = lz4.LZ4_compress_default(block, out, len(block), len(out))
        frame += struct.pack("<I", size) + out.raw[:size]
    return frame


XZ_FILTERS = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}]

# As Linux's build makes payloads (scripts/Makefile.lib): all but gzip get their unpacked size appended.
COMPRESS = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "bzip2": lambda data: with_size(bz2.compress(data), len(data)),
    "lzma": lambda data: with_size(lzma.compress(data, format=lzma.FORMAT_ALONE), len(data)),
    "xz": lambda data: with_size(lzma.compress(data, check=lzma.CHECK_CRC32, filters=XZ_FILTERS), len(data)),
    "lz4": lambda data: with_size(compress_lz4(data), len(data)),
    "zstd": lambda data: with_size(compress_zstd(data), len(data)),
}


def patch(image, **fields):
    """``image`` with some fields of its setup header changed."""
    changed = bytearray(image)
    for name, value in fields.items():
        offset, form = HEADER[name]
        struct.pack_into("<" + form, changed, offset, value)
    return bytes(changed)


def bzimage(payload, **fields):
    """A bzImage of protocol 2.15 with one sector of setup code around ``payload``."""
    code = b"\x90" * PAYLOAD_OFFSET + payload
    code += bytes(-len(code) % 16)
    setup = bytearray(2 * 512)
    setup[0x300 : 0x300 + len(VERSION) + 1] = VERSION + b"\0"
    values = {
        "setup_sects": 1,
        "syssize": len(code) // 16,
        "boot_flag": 0xAA55,
        "jump_opcode": 0xEB,
        "jump_distance": 0x6A,
        "header": b"HdrS",
        "version": 0x20F,
        "kernel_version": 0x100,
        "loadflags": 1,
        "code32_start": MIB,
        "initrd_addr_max": 0x7FFFFFFF,
        "kernel_alignment": 0x200000,
        "relocatable_kernel": 1,
        "xloadflags": 3,
        "cmdline_size": 2047,
        "payload_offset": PAYLOAD_OFFSET,
        "payload_length": len(payload),
        "pref_address": MIB,
        "init_size": 3 * MIB,
        **fields,
    }
    return patch(bytes(setup), **values) + code


def config(**keys):
    """The kernel part of a machine file with its defaults."""
    defaults = {"format": "auto", "entry": "auto", "load": None, "start": None, "cmdline": "", "initrd": ()}
    return KernelConfig(image="kernel", **{**defaults, **keys})


def as_image(data, name):
    return data if isinstance(data, Image) else Image.of(data, name)


@contextmanager
def loaded(image, *, memory=64 * MIB, initrds=(), rsdp=0, cache=None, **keys):
    """``image`` (bytes, or an Image) loaded into a machine: (its memory, what the loader tells)."""
    guest = GuestMemory.pc(memory)
    try:
        disks = [as_image(data, f"initrd{n}") for n, data in enumerate(initrds)]
        yield guest, load(guest, as_image(image, "kernel"), disks, config(**keys), rsdp=rsdp, cache=cache)
    finally:
        guest.close()


def place(entry: Entry, name: str):
    """The range that ``name`` got."""
    (found,) = (place for place in entry.placed if place.name == name)
    return found
