"""Kernels whose file is compressed as a whole, as vmlinux.gz and kernel.xz are: unpacked on the host.

Sources: RFC 1952 (gzip), the xz file format 1.1.0, bzip2 by its library. Several members, one behind the
other, are one file in all three; what follows the last one is left alone.
"""

from __future__ import annotations

from pykvm.boot.image import Image
from pykvm.boot.payload import LARGEST, XZ_MEMORY, pour, too_large
from pykvm.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Faults = type[Exception] | tuple[type[Exception], ...]

GZIP = (b"\x1f\x8b\x08", "gzip")
XZ = (b"\xfd7zXZ\0", "xz")
BZIP2 = (b"BZh", "bzip2")
FORMS = (GZIP, XZ, BZIP2)
"""The magic at offset 0, and the name."""


def unpack(image: Image, memory: int) -> tuple[Image, str]:
    """What ``image`` unpacks to and its compression's name; ``image`` and nothing if it isn't compressed.

    Raises InputError where it is damaged, or becomes larger than a kernel of a guest of ``memory`` bytes.
    """
    start = image.read(0, 8)
    for magic, name in FORMS:
        if start.startswith(magic):
            data = _members(image, magic, name, memory)
            return Image.of(data, f"{image.name} (unpacked from {name})"), name
    return image, ""


def _members(image: Image, magic: bytes, name: str, memory: int) -> bytearray:
    if image.size > LARGEST:
        raise image.error(f"is {name} data of {image.size} bytes, which is no kernel", "name a kernel")
    limit = min(LARGEST, memory)
    if image.size > limit:  # before it is read
        raise too_large(f"the {name} data", image.name, memory)
    packed = memoryview(image.read(0, image.size))
    unpacked = bytearray()
    try:
        while packed[: len(magic)] == magic:
            stream, fault = _stream(name)
            try:
                taken = pour(stream, packed, unpacked, limit)
            except fault as error:
                raise image.error(f"is damaged {name} data: {error}", "make it anew") from None
            if len(unpacked) > LARGEST:
                raise image.error(
                    f"is {name} data that unpacks to more than {LARGEST >> 20} MiB, which is no kernel",
                    "name a kernel",
                )
            if len(unpacked) > limit:
                raise too_large(f"the {name} data", image.name, memory)
            if not stream.eof:
                raise image.error(f"is truncated {name} data: it ends before its end mark", "make it anew")
            packed = packed[taken:]
    except MemoryError:
        raise HostError(f"no memory to unpack it from {name}", where=image.name) from None
    return unpacked


def _stream(name: str) -> tuple[Any, Faults]:
    """The standard library's decompressor, and what it raises; each is imported by who needs it."""
    if name == "gzip":
        import zlib

        return zlib.decompressobj(wbits=31), zlib.error
    if name == "xz":
        import lzma

        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY), lzma.LZMAError
    import bz2

    return bz2.BZ2Decompressor(), (OSError, ValueError)
