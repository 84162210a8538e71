"""PVH: an ELF kernel's 32-bit entry for virtual machines, named by a note of Xen's.

Sources: Xen, docs/misc/pvh.pandoc ("x86/HVM direct boot ABI") and public/arch-x86/hvm/start_info.h. The
kernel is entered in 32-bit protected mode with the address of hvm_start_info in EBX and a TSS at 0. A Linux
kernel has the note too; it is taken for PVH only by ``kernel.format: pvh``, as its own entry says more.
"""

from __future__ import annotations

from struct import pack, unpack_from

from pykvm.boot import block, bzimage, elf, modules
from pykvm.boot import header as setup_header
from pykvm.boot.image import Image
from pykvm.boot.initrd import joined
from pykvm.boot.kernel import Kernel, protected_only
from pykvm.boot.params import e820
from pykvm.errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.boot.block import Block
    from pykvm.boot.elf import Elf
    from pykvm.boot.kernel import Given
    from pykvm.boot.modules import Module
    from pykvm.boot.places import Places
    from pykvm.config.model import KernelConfig
    from pykvm.memory import GuestMemory

XEN = b"Xen\0"
PHYS32_ENTRY = 18
"""XEN_ELFNOTE_PHYS32_ENTRY (public/elfnote.h)."""

START_MAGIC = 0x336EC578
START_VERSION = 1

NOTE_HEADER = 12


def why_not(image: Image) -> str:
    """Why ``image`` isn't to be started by PVH; empty if it is."""
    reason = elf.why_not(image)
    if reason:
        return f"no ELF: {reason}"
    try:
        file = elf.headers(image)
    except InputError as error:
        return error.what
    if entry_of(image, file) is None:
        return "no note of Xen's, type 18"
    return "it is Linux, which has an entry of its own" if file.linux else ""


def entry_of(image: Image, file: Elf) -> int | None:
    """The entry that the note names, None without one. Raises InputError for a damaged note."""
    for offset, size, alignment in file.notes:
        notes = image.read(offset, min(size, elf.NOTES_LOOK))
        step = 8 if alignment == 8 else 4
        at = 0
        while at + NOTE_HEADER <= len(notes):
            namesz, descsz, kind = unpack_from("<III", notes, at)
            name_at = at + NOTE_HEADER
            desc_at = at + _up(NOTE_HEADER + namesz, step)
            if kind == PHYS32_ENTRY and notes[name_at : name_at + namesz] == XEN:
                return _entry(image, notes[desc_at : desc_at + descsz], descsz, offset + at)
            at = desc_at + _up(descsz, step)
    return None


def _entry(image: Image, value: bytes, size: int, at: int) -> int:
    if size not in (4, 8) or len(value) < size:
        raise image.error(f"is damaged: the PVH entry at {at:#x} has {size} bytes, neither 4 nor 8")
    return int.from_bytes(value, "little")


def _up(size: int, step: int) -> int:
    return -(-size // step) * step


def load(places: Places, image: Image, kernel: KernelConfig) -> Kernel:
    """Put the kernel into memory, which must be fresh. Raises InputError."""
    protected_only(image, kernel)
    if not setup_header.why_not(image):  # a bzImage: the note is in the vmlinux that it holds
        image = Image.of(bzimage.unpack(image, places.memory.ram_size), image.name)
    file = elf.headers(image)
    entry = entry_of(image, file)
    if entry is None:
        raise image.error(
            "is no PVH kernel: it has no note of Xen's, type 18 (XEN_ELFNOTE_PHYS32_ENTRY)",
            "set kernel.format to auto",
        )
    if not elf.in_segments(file, entry):
        raise image.error(
            f"its PVH entry {entry:#x} lies in none of its segments", "name a physical address in the note"
        )
    elf.load_segments(places, image, file)

    def tell(given: Given) -> dict[str, int]:
        images = given.modules
        if file.linux and len(images) > 1:
            # Linux takes but one module: parts lie one behind the other, as in its own protocol.
            images = [Image.of(joined(images), "initrd")]
        loaded = modules.load(places, images)
        cmdline = block.check_cmdline(given.cmdline)

        def fill(out: Block) -> None:
            _inform(out, places.memory, cmdline, loaded, given.rsdp)

        return {"rbx": block.place(places, image.name, fill)}

    return Kernel(
        format="pvh",
        mode="protected",
        address=entry,
        header=None,
        version="Linux" if file.linux else "",
        tell=tell,
        task=0,
    )


def _inform(out: Block, memory: GuestMemory, cmdline: bytes, loaded: list[Module], rsdp: int) -> None:
    """hvm_start_info, and what it points to behind it; 0 stands for an address of nothing."""
    start = out.add(bytes(56), 8)
    ranges = e820(memory)
    rows = (pack("<QQII", first, end - first, kind, 0) for first, end, kind in ranges)
    memmap = out.add(b"".join(rows), 8)
    texts = [out.text(module.text) for module in loaded]
    rows = (
        pack("<QQQQ", module.gpa, module.size, text, 0) for module, text in zip(loaded, texts, strict=True)
    )
    modlist = out.add(b"".join(rows), 8) if loaded else 0
    info = pack(
        "<IIIIQQQQII",
        START_MAGIC,
        START_VERSION,
        0,  # flags: no dom0, no initial domain
        len(loaded),
        modlist,
        out.text(cmdline),
        rsdp,
        memmap,
        len(ranges),
        0,
    )
    at = start - out.base
    out.data[at : at + len(info)] = info
