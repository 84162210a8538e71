"""bzImage, the form in which distributions ship Linux: a setup header, real-mode code, a packed vmlinux.

Source: Linux, Documentation/arch/x86/boot.rst. There are three ways in:

* The payload is unpacked on the host, and the vmlinux in it is entered as the kernel's own unpacker
  would enter it: at its ELF entry, with boot_params in RSI. This is the rule, because it is quick
  everywhere, also where KVM interprets ring 0.
* The kernel unpacks itself: the protected-mode part of the file is loaded and entered in 32-bit mode,
  or in 64-bit mode at +0x200 if XLF_KERNEL_64 is set. So it is with ``kernel.entry: protected``, and for
  payloads whose compression pykvm doesn't know.
* The setup code is entered in 16-bit mode, with a BIOS beneath: what `realmode` lists.

A zImage is the older form, whose protected-mode part goes below 640 KiB (LOADED_HIGH is clear).
"""

from __future__ import annotations

from pykvm.boot import elf, payload, realmode
from pykvm.boot import header as setup_header
from pykvm.boot.header import LOADED_HIGH, PROTOCOL_2_02, XLF_KERNEL_64
from pykvm.boot.image import Image
from pykvm.boot.kernel import Kernel
from pykvm.boot.places import Range, size_text
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
    packed = _payload(image, header, code) if kernel.entry != "real" else b""
    packing = payload.compression(packed)
    if kernel.entry == "real" or (kernel.entry == "auto" and _by_setup(header, version, packing)):
        start = _load_itself(places, image, header, code, realmode.ZIMAGE_AT)
        return realmode.load(places, image, header, start, version)
    if header.version < PROTOCOL_2_02:
        raise image.error(
            f"speaks boot protocol {header.protocol}, whose only entry is that of the 16-bit setup code",
            "set kernel.entry to real",
        )
    if kernel.entry == "protected" or packing is None:
        mode = _own_mode(image, header, kernel.entry)
        start = _load_itself(places, image, header, code, header["code32_start"])
        address = start + ENTRY_64 if mode == "long" else start
        code32_start, how = start, "it unpacks itself"
    else:
        with _vmlinux(image, header, packed, cache, places.memory.ram_size) as vmlinux:
            inner = elf.read(vmlinux)
            mode = elf.mode_for(inner, kernel.entry, vmlinux)
            elf.load_segments(places, vmlinux, inner)
        address = code32_start = inner.entry
        how = f"unpacked from {packing} by pykvm"
    return Kernel(
        format="bzimage",
        mode=mode,
        address=address,
        header=header,
        code32_start=code32_start,
        version=version,
        how=how,
        asks=_asks(header),
    )


def _by_setup(header: SetupHeader, version: str, packing: str | None) -> bool:
    """Whether the 16-bit entry is the one to take, where nothing is said."""
    if realmode.only_wears_it(header, version) or header.version < PROTOCOL_2_02:
        return True
    return packing is None and not header["loadflags"] & LOADED_HIGH


def _asks(header: SetupHeader) -> tuple[str, ...]:
    """What a kernel asks of a loader that doesn't enter its setup code."""
    wanted = [f"boot protocol {header.protocol}"]
    if header["init_size"]:
        wanted.append(f"{size_text(header['init_size'])} of memory from {header['pref_address']:#x} on")
    wanted.append(f"an initrd below {header['initrd_addr_max'] + 1:#x}")
    wanted.append(f"a command line of {header['cmdline_size']} bytes or less")
    return tuple(wanted)


def unpack(image: Image, memory: int) -> Bytes:
    """The vmlinux in ``image``, for a guest of ``memory`` bytes.

    Raises InputError, and HostError for a missing library.
    """
    header = setup_header.read(image)
    packed = _payload(image, header, _protected_mode_code(image, header))
    return _unpack(image, header, packed, memory)


def _protected_mode_code(image: Image, header: SetupHeader) -> Range:
    """Where in the file (``gpa`` is the offset) the part behind the real-mode code lies."""
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
    if length and offset + length > code.size:
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


def _own_mode(image: Image, header: SetupHeader, wanted: str) -> str:
    """The mode in which the protected-mode code is entered. Raises InputError for one that it lacks."""
    can_64 = bool(header["xloadflags"] & XLF_KERNEL_64)
    if wanted == "long" and not can_64:
        raise image.error("has no 64-bit entry (XLF_KERNEL_64)", "set kernel.entry to protected")
    return "long" if can_64 and wanted != "protected" else "protected"


def _load_itself(places: Places, image: Image, header: SetupHeader, code: Range, low: int) -> int:
    """Load the protected-mode code, which unpacks the kernel itself. Returns where it lies.

    That of a zImage goes to ``low``; it unpacks to 1 MiB, as all others did before they could say where.
    """
    load = runtime = HIGH_RAM
    if not header["loadflags"] & LOADED_HIGH:
        load = low
    elif header["pref_address"]:
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
    return load
