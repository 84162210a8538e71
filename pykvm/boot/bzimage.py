"""bzImage, the form in which distributions ship Linux: a setup header, real-mode code, a packed vmlinux.

Source: Linux, Documentation/arch/x86/boot.rst. There are three ways in:

* The payload is unpacked on the host, and the vmlinux in it is entered as the kernel's own unpacker
  would enter it: at its ELF entry, with boot_params in RSI. This is the rule, because it is quick
  everywhere, also where KVM interprets ring 0.
* The kernel unpacks itself: the protected-mode part of the file is loaded and entered in 32-bit mode,
  or in 64-bit mode at +0x200 if XLF_KERNEL_64 is set. So it is with ``kernel.entry: protected``, and for
  payloads whose compression pykvm doesn't know.
* The setup code is entered in 16-bit mode, with a BIOS beneath (`realmode`): with ``kernel.entry: real``, and
  for images that only wear the header.
"""

from __future__ import annotations

from pykvm.boot import elf, payload, realmode
from pykvm.boot import header as setup_header
from pykvm.boot.header import LOADED_HIGH, XLF_KERNEL_64
from pykvm.boot.image import Image
from pykvm.boot.kernel import Kernel
from pykvm.boot.places import Range
from pykvm.cache.digest import key_of
from pykvm.errors import HostError
from pykvm.memory.layout import FOUR_GIB, HIGH_RAM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

    from pykvm.boot.header import SetupHeader
    from pykvm.boot.places import Places
    from pykvm.cache import Cache
    from pykvm.config.model import KernelConfig

    Bytes = bytes | bytearray | memoryview

ENTRY_64 = 0x200
"""The 64-bit entry of the protected-mode part, from its start."""

LAYOUT = "vmlinux 1"
"""Part of the cache's keys: to be changed when what is kept there changes."""


def load(places: Places, image: Image, kernel: KernelConfig, cache: Cache | None = None) -> Kernel:
    """Put the kernel into memory, which must be fresh, and tell how to enter it.

    Unpacked kernels are kept in ``cache``. Raises InputError, and HostError for a missing library.
    """
    header = setup_header.read(image)
    code = _protected_mode_code(image, header)
    version = setup_header.version_text(image, header)
    if kernel.entry == "real" or (kernel.entry == "auto" and realmode.only_wears_it(header, version)):
        _, start = _load_itself(places, image, header, code, "protected")
        return realmode.load(places, image, header, start, version)
    packed = _payload(image, header, code)
    if kernel.entry == "protected" or payload.compression(packed) is None:
        mode, start = _load_itself(places, image, header, code, kernel.entry)
        return Kernel(
            format="bzimage",
            mode=mode,
            address=start + ENTRY_64 if mode == "long" else start,
            header=header,
            code32_start=start,
            version=version,
        )
    with _vmlinux(image, header, packed, cache, places.memory.ram_size) as vmlinux:
        inner = elf.read(vmlinux)
        mode = elf.mode_for(inner, kernel.entry, vmlinux)
        elf.load_segments(places, vmlinux, inner)
    return Kernel(
        format="bzimage",
        mode=mode,
        address=inner.entry,
        header=header,
        code32_start=inner.entry,
        version=version,
    )


def unpack(image: Image, memory: int) -> Bytes:
    """The vmlinux in ``image``, for a guest of ``memory`` bytes.

    Raises InputError, and HostError for a missing library.
    """
    header = setup_header.read(image)
    packed = _payload(image, header, _protected_mode_code(image, header))
    return _unpack(image, header, packed, memory)


def _protected_mode_code(image: Image, header: SetupHeader) -> Range:
    """Where in the file (``gpa`` is the offset) the part behind the real-mode code lies."""
    if not header["loadflags"] & LOADED_HIGH:
        raise image.error("is a zImage, which loads below 640 KiB", "build it as a bzImage")
    start = header.setup_size
    end = start + header["syssize"] * 16 if "syssize" in header else image.size
    # Builds before protocol 2.08 didn't fill up the last of the 16-byte paragraphs that syssize counts, and
    # those that only have the header (memtest86+ 6) don't either.
    slack = 0 if header["payload_length"] else 15
    if not start < end <= image.size + slack:
        least = max(start + 1, end)
        raise image.error(f"is truncated: its header speaks of {least} bytes, the file has {image.size}")
    return Range(name="the kernel", gpa=start, size=min(end, image.size) - start)


def _payload(image: Image, header: SetupHeader, code: Range) -> bytes:
    offset, length = header["payload_offset"], header["payload_length"]
    if offset + length > code.size:
        raise image.error(
            f"is damaged: a payload of {length} bytes at {offset:#x} in {code.size} bytes of code"
        )
    return image.read(code.gpa + offset, length)


def _unpack(image: Image, header: SetupHeader, packed: bytes, memory: int) -> Bytes:
    # init_size is the memory in which the kernel unpacks itself, so no more can come out.
    limit = header["init_size"] or payload.LARGEST
    return payload.unpack(packed, where=image.name, limit=limit, memory=memory)


def _vmlinux(image: Image, header: SetupHeader, packed: bytes, cache: Cache | None, memory: int) -> Image:
    if cache is None:
        return Image.of(_unpack(image, header, packed, memory), image.name)
    key = key_of(LAYOUT, image.sha256())
    path = cache.get(key)
    if path is not None:
        return Image.open(path, image.name)
    unpacked = _unpack(image, header, packed, memory)

    def write(file: BinaryIO) -> None:
        file.write(unpacked)

    try:
        cache.put(key, write, len(unpacked))
    except HostError:
        pass  # no room, or no permission: the kernel boots all the same, and is unpacked again next time
    return Image.of(unpacked, image.name)


def _load_itself(
    places: Places, image: Image, header: SetupHeader, code: Range, wanted: str
) -> tuple[str, int]:
    """Load the protected-mode code, which unpacks the kernel itself. Returns its mode and where it lies."""
    can_64 = bool(header["xloadflags"] & XLF_KERNEL_64)
    if wanted == "long" and not can_64:
        raise image.error("has no 64-bit entry (XLF_KERNEL_64)", "set kernel.entry to protected")
    load = runtime = HIGH_RAM
    if header["pref_address"]:
        runtime = header["pref_address"]
        if header["relocatable_kernel"]:
            load = runtime
    if load >= FOUR_GIB:
        raise image.error(f"wants to be loaded at {load:#x}, beyond the 4 GiB that a kernel is entered in")
    loaded = Range(name=code.name, gpa=load, size=code.size)
    needed = Range(name=code.name, gpa=runtime, size=header["init_size"])
    if loaded.gpa <= needed.end and needed.gpa <= loaded.end:
        start = min(loaded.gpa, needed.gpa)
        places.take(Range(name=code.name, gpa=start, size=max(loaded.end, needed.end) - start), image.name)
    else:
        places.take(needed, image.name)
        places.take(loaded, image.name)
    places.fill(load, code.size, image, code.gpa)
    return "long" if can_64 and wanted != "protected" else "protected", load
