"""Kernels whose file is compressed as a whole, as vmlinux.gz and kernel.xz are: unpacked on the host.

Sources: RFC 1952 (gzip), the xz file format 1.1.0, bzip2 by its library. Several members, one behind the
other, are one file in all three; what follows the last one is left alone.
"""

from __future__ import annotations

from pykvm.boot.image import Image
from pykvm.boot.payload import LARGEST, XZ_MEMORY
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


def unpack(image: Image) -> tuple[Image, str]:
    """What ``image`` unpacks to and its compression's name; ``image`` and nothing if it isn't compressed.

    Raises InputError where it is damaged or would become larger than any kernel.
    """
    start = image.read(0, 8)
    for magic, name in FORMS:
        if start.startswith(magic):
            data = _members(image, magic, name)
            return Image.of(data, f"{image.name} (unpacked from {name})"), name
    return image, ""


def _members(image: Image, magic: bytes, name: str) -> bytes:
    if image.size > LARGEST:
        raise image.error(f"is {name} data of {image.size} bytes, which is no kernel", "name a kernel")
    packed = image.read(0, image.size)
    found: list[bytes] = []
    total = 0
    try:
        while packed.startswith(magic):
            stream, fault = _stream(name)
            try:
                found.append(stream.decompress(packed, LARGEST + 1 - total))
            except fault as error:
                raise image.error(f"is damaged {name} data: {error}", "make it anew") from None
            total += len(found[-1])
            if total > LARGEST:
                raise image.error(
                    f"is {name} data that unpacks to more than {LARGEST >> 20} MiB, which is no kernel",
                    "name a kernel",
                )
            if not stream.eof:
                raise image.error(f"is truncated {name} data: it ends before its end mark", "make it anew")
            packed = stream.unused_data
    except MemoryError:
        raise HostError(f"no memory to unpack it from {name}", where=image.name) from None
    return b"".join(found)


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
