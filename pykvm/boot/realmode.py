"""A bzImage by its 16-bit entry: the setup code asks the BIOS and goes to protected mode itself.

So begin images that only wear Linux's header, as iPXE and memdisk do, and any bzImage with
``kernel.entry: real``. Source: Linux, Documentation/arch/x86/boot.rst, "Sample Boot Configuration" and
"Running the kernel": the real-mode part lies at REAL_MODE, its stack and heap behind it up to HEAP_END, the
command line behind that.
"""

from __future__ import annotations

from pykvm.boot import bios, initrd, lowmem
from pykvm.boot import header as setup_header
from pykvm.boot.header import CAN_USE_HEAP
from pykvm.boot.kernel import Kernel
from pykvm.boot.params import LOADER_UNDEFINED, VIDEO_NORMAL, check_cmdline
from pykvm.boot.places import Range
from pykvm.errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.boot.header import SetupHeader
    from pykvm.boot.image import Image
    from pykvm.boot.kernel import Given
    from pykvm.boot.places import Places

REAL_MODE = Range(name="the real-mode code", gpa=0x80000, size=0xF000)
MOST_CODE = 0x8000
HEAP_END = 0xE000
HEAP_END_PTR = HEAP_END - 0x200
MOST_WORDS = REAL_MODE.size - HEAP_END
ENTRY = 0x200
"""Offsets from the real-mode part's start."""


def only_wears_it(header: SetupHeader, version: str) -> bool:
    """Whether the header is there for the 16-bit entry alone, so that no other can be taken.

    It has no payload; no 32-bit entry, or neither Linux's name (a number) nor the memory that it needs.
    """
    if header["payload_length"]:
        return False
    return not header["code32_start"] or not (version[:1].isdigit() or header["init_size"] or not version)


def load(places: Places, image: Image, header: SetupHeader, load_at: int, version: str) -> Kernel:
    """Enter ``image``, whose protected-mode part is at ``load_at`` already. Raises InputError."""
    if not bios.fits(places):
        raise image.error("is entered in real mode, where it calls a BIOS", "set memory to 2M or more")
    size = header.setup_size
    if size > MOST_CODE:
        raise image.error(f"has {size} bytes of real-mode code, and {MOST_CODE} are the most")
    places.take(REAL_MODE, image.name)
    places.fill(REAL_MODE.gpa, size, image, 0)
    kernel = Kernel(
        format="bzimage",
        mode="real",
        address=REAL_MODE.gpa + ENTRY,
        header=header,
        code32_start=load_at,
        version=version,
    )

    def tell(given: Given) -> dict[str, int]:
        check_cmdline(given.cmdline, header)
        if len(given.cmdline) >= MOST_WORDS:
            raise InputError(
                f"is {len(given.cmdline)} bytes long, and {MOST_WORDS - 1} are the most at its 16-bit entry",
                where="kernel.cmdline",
                remedy="shorten it",
            )
        lowmem.bios_data(places, image.name)
        disk = initrd.load(places, kernel, given.modules)
        values = {
            "vid_mode": VIDEO_NORMAL,
            "type_of_loader": LOADER_UNDEFINED,
            "loadflags": header["loadflags"] | CAN_USE_HEAP,
            "heap_end_ptr": HEAP_END_PTR,
            "cmd_line_ptr": REAL_MODE.gpa + HEAP_END,
            "code32_start": load_at,
            "ramdisk_image": disk.gpa if disk else 0,
            "ramdisk_size": disk.size if disk else 0,
        }
        for name, value in values.items():
            if name in header:
                offset, width, _ = setup_header.PLACES[name]
                places.memory.write(REAL_MODE.gpa + offset, value.to_bytes(width, "little"))
        places.memory.write(REAL_MODE.gpa + HEAP_END, given.cmdline + b"\0")
        return {"rsp": HEAP_END}

    return Kernel(
        format="bzimage",
        mode="real",
        address=kernel.address,
        header=header,
        code32_start=load_at,
        version=version,
        tell=tell,
        data=REAL_MODE.gpa >> 4,
        bios=bios.Disk(),
        disguised=only_wears_it(header, version),
    )
