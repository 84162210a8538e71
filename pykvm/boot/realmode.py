"""A bzImage or zImage by its 16-bit entry: the setup code asks the BIOS and goes to protected mode itself.

So begin images that only wear Linux's header, as iPXE and memdisk do; zImages and kernels before boot
protocol 2.02, for which the 32-bit entry was no entry yet; and any other with ``kernel.entry: real``.

Source: Linux, Documentation/arch/x86/boot.rst, "The Kernel Command Line", "Memory Layout of the Real-Mode
Code", "Sample Boot Configuration" and "Running the kernel": behind the real-mode code lie its heap and stack
up to heap_end, then the command line. A zImage is moved down from 0x10000 by the setup code and may fill
memory up to 0x90000, where the real-mode code of a kernel before 2.02 must lie.
"""

from __future__ import annotations

from pykvm.boot import bios, initrd, lowmem
from pykvm.boot import header as setup_header
from pykvm.boot.header import CAN_USE_HEAP, LOADED_HIGH, PROTOCOL_2_02
from pykvm.boot.kernel import Kernel
from pykvm.boot.params import LOADER_UNDEFINED, VIDEO_NORMAL, check_cmdline
from pykvm.boot.places import Range
from pykvm.errors import InputError
from pykvm.frozen import frozen, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.boot.header import SetupHeader
    from pykvm.boot.image import Image
    from pykvm.boot.kernel import Given
    from pykvm.boot.places import Places


@frozen
class Layout:
    """Where the real-mode part lies, and where in it heap and stack end and the command line begins."""

    gpa: int
    heap_end: int


SIZE = 0xF000
HIGH = Layout(gpa=0x80000, heap_end=0xE000)
LOW = Layout(gpa=0x90000, heap_end=0x9800)
ZIMAGE_AT = 0x10000
MOST_CODE = 0x8000
HEAP_LEFT = 0x200
ENTRY = 0x200
"""Of the real-mode part, behind the boot sector."""

# Before 2.02 the command line is said by a magic number and its offset, in the boot sector.
CL_MAGIC_AT, CL_OFFSET_AT = 0x20, 0x22
CL_MAGIC = 0xA33F


def only_wears_it(header: SetupHeader, version: str) -> bool:
    """Whether the header is there for the 16-bit entry alone, so that no other can be taken.

    It has no payload; no 32-bit entry, or neither Linux's name (a number) nor the memory that it needs.
    """
    if header["payload_length"]:
        return False
    return not header["code32_start"] or not (version[:1].isdigit() or header["init_size"])


def load(places: Places, image: Image, header: SetupHeader, load_at: int, version: str) -> Kernel:
    """Enter ``image``, whose protected-mode part is at ``load_at`` already. Raises InputError."""
    if not bios.fits(places):
        raise image.error("is entered in real mode, where it calls a BIOS", "set memory to 2M or more")
    size = header.setup_size
    if size > MOST_CODE:
        raise image.error(f"has {size} bytes of real-mode code, and {MOST_CODE} are the most")
    old = header.version < PROTOCOL_2_02
    low = not header["loadflags"] & LOADED_HIGH
    layout = LOW if old or low else HIGH
    base, heap_end = layout.gpa, layout.heap_end
    places.take(Range(name="the real-mode code", gpa=base, size=SIZE), image.name)
    places.fill(base, size, image, 0)
    kernel = Kernel(
        format="bzimage",
        mode="real",
        address=base + ENTRY,
        header=header,
        code32_start=load_at,
        version=version,
    )

    def tell(given: Given) -> dict[str, int]:
        check_cmdline(given.cmdline, header)
        most = SIZE - heap_end - 1
        if len(given.cmdline) > most:
            raise InputError(
                f"is {len(given.cmdline)} bytes long, and {most} are the most at its 16-bit entry",
                where="kernel.cmdline",
                remedy="shorten it",
            )
        lowmem.bios_data(places, image.name)
        disk = initrd.load(places, kernel, given.modules)
        memory = places.memory
        values = {
            "vid_mode": VIDEO_NORMAL,
            "type_of_loader": LOADER_UNDEFINED,
            "loadflags": header["loadflags"] | (CAN_USE_HEAP if "heap_end_ptr" in header else 0),
            "heap_end_ptr": heap_end - HEAP_LEFT,
            "cmd_line_ptr": base + heap_end,
            "ramdisk_image": disk.gpa if disk else 0,
            "ramdisk_size": disk.size if disk else 0,
        }
        if not low:  # a zImage's own setup code moves it and knows where to
            values["code32_start"] = load_at
        if old:
            values["setup_move_size"] = heap_end + len(given.cmdline) + 1
            memory.put_u16(base + CL_MAGIC_AT, CL_MAGIC)
            memory.put_u16(base + CL_OFFSET_AT, heap_end)
        for name, value in values.items():
            if name in header:
                offset, width, _ = setup_header.PLACES[name]
                memory.write(base + offset, value.to_bytes(width, "little"))
        memory.write(base + heap_end, given.cmdline + b"\0")
        return {"rsp": heap_end}

    return replace(
        kernel,
        how="its setup code calls pykvm's BIOS",
        asks=(f"boot protocol {header.protocol}",),
        tell=tell,
        data=base >> 4,
        bios=bios.Disk(),
        disguised=only_wears_it(header, version),
    )
