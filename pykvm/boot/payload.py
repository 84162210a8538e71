"""The compressed kernel inside a bzImage, unpacked on the host.

=========== ============================= ====================================================
compression magic at offset 0             carried out by
=========== ============================= ====================================================
gzip        1f 8b                         zlib
bzip2       42 5a 68                      bz2
lzma        5d 00 00                      lzma (the container without a checksum)
xz          fd 37 7a 58 5a 00             lzma (Linux filters with BCJ x86)
lz4         02 21 4c 18                   liblz4.so.1: a legacy frame, blocks of up to 8 MiB
zstd        28 b5 2f fd                   libzstd.so.1
=========== ============================= ====================================================

(Documentation/arch/x86/boot.rst, payload_offset.) The last 4 bytes of the payload are the size that
it unpacks to: Linux's build appends them, but for gzip, whose own trailer ends with them.
"""

from __future__ import annotations

from pykvm.config.sizes import show_size
from pykvm.errors import HostError, InputError, PykvmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ctypes
    from collections.abc import Callable
    from typing import Any

    Bytes = bytes | bytearray | memoryview
    # (compressed bytes, size that comes out) → what came out, or one byte more to say: too much.
    Unpacker = Callable[[Bytes, int], Bytes]

LARGEST = 1 << 30
"""No kernel is larger than the 1 GiB that Linux maps for itself (KERNEL_IMAGE_SIZE)."""

XZ_MEMORY = 512 << 20
"""Linux's dictionaries are up to 128 MiB; a file that asks for gigabytes is no kernel."""

PACKED, UNPACKED = 64 << 10, 1 << 20
"""Bytes that go into a decompressor at a time, and come out at most."""

LZ4_BLOCK = 8 << 20
LZ4_MAGIC_SIZE = 4


class Damaged(Exception):
    """The compressed data makes no sense; the text says why."""


def compression(payload: Bytes) -> str | None:
    """The name of the compression, or None where the magic is none of the table's."""
    for name, (magic, _) in COMPRESSIONS.items():
        if payload[: len(magic)] == magic:
            return name
    return None


def unpack(payload: Bytes, *, where: str, limit: int = LARGEST, memory: int = LARGEST) -> Bytes:
    """What ``payload`` unpacks to; not a byte more than ``limit`` is made, nor than the guest's ``memory``.

    Raises InputError, about the image ``where``, for a payload that is damaged or too large, and HostError
    where the host lacks a library.
    """
    name = compression(payload)
    if name is None:
        raise InputError(f"its kernel is compressed in a way that starts {payload[:4].hex(' ')}", where=where)
    size = int.from_bytes(payload[-4:], "little")
    if size > min(limit, LARGEST):
        raise InputError(f"its {name} payload says that it unpacks to {size} bytes, too many", where=where)
    if size > memory:
        raise too_large(f"its {name} payload", where, memory)
    if name != "gzip":
        payload = payload[:-4]
    try:
        unpacked = COMPRESSIONS[name][1](payload, size)
        if len(unpacked) != size:
            found = "more" if len(unpacked) > size else str(len(unpacked))
            raise Damaged(f"{size} bytes should come out, not {found}")
    except Damaged as error:
        raise InputError(f"its {name} payload is damaged: {error}", where=where) from None
    except MemoryError:
        raise HostError(f"no memory to unpack its kernel of {size} bytes", where=where) from None
    except PykvmError as error:
        error.where = error.where or where
        raise
    return unpacked


def too_large(what: str, where: str, memory: int) -> InputError:
    """The error about compressed data that becomes more than a guest of ``memory`` bytes can hold."""
    return InputError(
        f"{what} unpacks to more than the machine's {show_size(memory)} of memory",
        where=where,
        remedy="see that it is a kernel, and give the machine more memory",
    )


def _gzip(payload: Bytes, size: int) -> Bytes:
    import zlib

    try:
        return _whole(zlib.decompressobj(wbits=31), payload, size)
    except zlib.error as error:
        raise Damaged(str(error)) from None


def _bzip2(payload: Bytes, size: int) -> Bytes:
    import bz2

    try:
        return _whole(bz2.BZ2Decompressor(), payload, size)
    except (OSError, ValueError) as error:
        raise Damaged(str(error)) from None


def _lzma(payload: Bytes, size: int) -> Bytes:
    return _by_liblzma(payload, size, alone=True)


def _xz(payload: Bytes, size: int) -> Bytes:
    return _by_liblzma(payload, size, alone=False)


def _by_liblzma(payload: Bytes, size: int, *, alone: bool) -> Bytes:
    import lzma

    form = lzma.FORMAT_ALONE if alone else lzma.FORMAT_XZ
    try:
        return _whole(lzma.LZMADecompressor(form, memlimit=XZ_MEMORY), payload, size)
    except lzma.LZMAError as error:
        raise Damaged(str(error)) from None


def _whole(stream: Any, payload: Bytes, size: int) -> Bytes:
    """All that comes out of the standard library's ``stream``, but at most a byte over ``size``."""
    unpacked = bytearray()
    pour(stream, payload, unpacked, size)
    if len(unpacked) <= size and not stream.eof:
        raise Damaged("it ends before its end mark")
    return unpacked


def pour(stream: Any, packed: Bytes, unpacked: bytearray, limit: int) -> int:
    """Append to ``unpacked`` what the standard library's ``stream`` makes of ``packed``; the bytes that took.

    It stops a byte over ``limit``, and needs no more of the host's memory than comes out; asked for all at
    once, the library takes twice as much.
    """
    source = memoryview(packed)
    start = 0
    while start < len(source) and not stream.eof and len(unpacked) <= limit:
        data: Bytes = source[start : start + PACKED]
        start += len(data)
        more = True
        while more and not stream.eof and len(unpacked) <= limit:
            room = min(UNPACKED, limit + 1 - len(unpacked))
            piece = stream.decompress(data, room)
            unpacked += piece
            data = getattr(stream, "unconsumed_tail", b"")  # zlib wants it again, the others keep it
            more = len(piece) == room or bool(data)
    return start - len(stream.unused_data)


def _zstd(payload: Bytes, size: int) -> Bytes:
    import ctypes

    zstd = _library("libzstd.so.1", "libzstd1")
    size_t, pointer = ctypes.c_size_t, ctypes.c_void_p
    decompress = _function(zstd, "ZSTD_decompress", size_t, pointer, size_t, ctypes.c_char_p, size_t)
    is_error = _function(zstd, "ZSTD_isError", ctypes.c_uint, size_t)
    error_name = _function(zstd, "ZSTD_getErrorName", ctypes.c_char_p, size_t)

    buffer = (ctypes.c_char * max(size, 1))()
    count = decompress(ctypes.addressof(buffer), size, bytes(payload), len(payload))
    if is_error(count):
        raise Damaged(error_name(count).decode("ascii", "replace"))
    return memoryview(buffer).cast("B")[:count]


def _lz4(payload: Bytes, size: int) -> Bytes:
    """A legacy frame: the magic, then blocks, each behind its compressed size (lz4_Frame_format.md)."""
    import ctypes

    lz4 = _library("liblz4.so.1", "liblz4-1")
    pointer, number = ctypes.c_void_p, ctypes.c_int
    decompress = _function(lz4, "LZ4_decompress_safe", number, pointer, pointer, number, number)

    source = bytes(payload)  # its address holds as long as its name
    address = ctypes.cast(ctypes.c_char_p(source), pointer).value or 0
    buffer = (ctypes.c_char * max(size, 1))()
    start, done = LZ4_MAGIC_SIZE, 0
    while start < len(payload):
        length = int.from_bytes(payload[start : start + 4], "little")
        start += 4
        if length == 0 or start + length > len(payload):
            raise Damaged(f"the block at {start - 4:#x} ends behind the payload's end")
        room = min(LZ4_BLOCK, size - done)
        count = decompress(address + start, ctypes.addressof(buffer) + done, length, room)
        if count < 0:
            raise Damaged(f"the block at {start - 4:#x} doesn't unpack")
        start += length
        done += count
    return memoryview(buffer).cast("B")[:done]


def _library(name: str, package: str) -> ctypes.CDLL:
    import ctypes

    try:
        return ctypes.CDLL(name)
    except OSError:
        raise HostError(
            f"its kernel can't be unpacked without {name}",
            remedy=f"install it: apt-get install {package}; or let the kernel unpack itself, slower: "
            "kernel.entry: protected",
        ) from None


def _function(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    function = library[name]
    function.restype = result
    function.argtypes = arguments
    return function


COMPRESSIONS: dict[str, tuple[bytes, Unpacker]] = {
    "gzip": (b"\x1f\x8b", _gzip),
    "bzip2": (b"BZh", _bzip2),
    "lzma": (b"\x5d\x00\x00", _lzma),
    "xz": (b"\xfd7zXZ\0", _xz),
    "lz4": (b"\x02\x21\x4c\x18", _lz4),
    "zstd": (b"\x28\xb5\x2f\xfd", _zstd),
}
