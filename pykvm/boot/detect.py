"""What an image is, by what it holds and never by its name."""

from __future__ import annotations

from pykvm.boot import bootsector, elf, header, mb2header, multiboot, multiboot2, pvh

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.boot.image import Image

# The formats that are recognised, in this order: name, how it is called, what says why an image isn't one.
# What is several is taken for the one that says most of how it wants to be started.
FORMATS = (
    ("bzimage", "bzImage", header.why_not),
    ("multiboot2", "Multiboot2 kernel", multiboot2.why_not),
    ("multiboot", "Multiboot kernel", multiboot.why_not),
    ("pvh", "PVH kernel", pvh.why_not),
    ("elf", "ELF", elf.why_not),
    ("bootsector", "boot sector", bootsector.why_not),
)

# A disk may hold a boot loader with a header that others could start it by, as GRUB's core.img has.
ON_DISKS = {"multiboot2": mb2header.find, "multiboot": multiboot.find}

UNPACK = "unpack it first"
FLAT = "name a kernel, or set kernel.format to flat for a binary of your own"
# What else people name as a kernel: offset, bytes there, what it is, what to do.
STRANGERS = (
    (0, b"\x1f\x8b", "gzip data", UNPACK),
    (0, b"\xfd7zXZ\0", "xz data", UNPACK),
    (0, b"BZh", "bzip2 data", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "zstd data", UNPACK),
    (0, b"\x02\x21\x4c\x18", "lz4 data", UNPACK),
    (0, b"070701", "an initramfs (a cpio archive)", "name it in kernel.initrd"),
    (0, b"!<arch>\n", "a Debian package or another archive", "name the kernel in it"),
    (0, b"QFI\xfb", "a qcow2 disk image", "name a kernel"),
    (0, b"\x27\x05\x19\x56", "a U-Boot image", "name the bzImage or vmlinux that it was made of"),
    (0x38, b"ARM\x64", "Linux for AArch64", "pykvm runs x86"),
    (0x38, b"RSC\x05", "Linux for RISC-V", "pykvm runs x86"),
    (0, b"MZ", "a DOS or EFI program, or a bzImage that was cut short", "name a kernel"),
)
TEXT = frozenset((*range(0x20, 0x7F), 9, 10, 13))
LOOK = 0x200


def detect(image: Image) -> str:
    """The format of ``image``. Raises InputError, which says what was looked for, where it has none."""
    if image.size == 0:
        raise image.error("is empty", "name a kernel")
    reasons = []
    for name, _, why_not in FORMATS:
        reason = why_not(image) or _on_disk(image, name)
        if not reason:
            return name
        reasons.append(reason)
    none = [f"no {title}" for _, title, _ in FORMATS]
    what, remedy = _stranger(image.read(0, LOOK))
    if what:  # then the reasons are the same for all of them: it is something else
        raise image.error(f"looks like {what}; it is {_listed(none)}", remedy)
    told = [f"{form} ({reason})" for form, reason in zip(none, reasons, strict=True)]
    raise image.error(f"is {_listed(told)}", FLAT)


def _on_disk(image: Image, name: str) -> str:
    """Why the header of format ``name`` is not that of the whole ``image``; empty if it may be."""
    find = ON_DISKS.get(name)
    if find is None or bootsector.why_not(image) or not elf.why_not(image):
        return ""
    at = find(image)
    behind = isinstance(at, int) and at >= bootsector.SECTOR
    return f"its header lies behind a boot sector, at {at:#x}" if behind else ""


def _stranger(start: bytes) -> tuple[str, str]:
    """What an image that starts so is otherwise, and what to do; empty where nobody knows."""
    for offset, magic, title, advice in STRANGERS:
        if start[offset : offset + len(magic)] == magic:
            return title, advice
    return ("a text file", FLAT) if TEXT.issuperset(start) else ("", "")


def _listed(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"
