"""Boot sectors: what a BIOS loads from a disk, at 0x7c00, in real mode, with the disk's number in DL.

Source: BIOS Boot Specification 1.01 on INT 19h: the first sector, with 55 aa at its end, goes to 0:7c00 and
is entered there. The whole file is the disk that INT 13h reads. What follows the sector in a small file lies
behind it in memory too. A machine of less than 1 MiB has no BIOS; no interrupt is served there.
"""

from __future__ import annotations

from pykvm.boot import bios, lowmem
from pykvm.boot.kernel import Kernel
from pykvm.boot.places import Range, size_text
from pykvm.x86.registers import RFLAGS_FIXED, RFLAGS_IF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.boot.image import Image
    from pykvm.boot.kernel import Given
    from pykvm.boot.places import Places
    from pykvm.config.model import KernelConfig

ADDRESS = 0x7C00
SECTOR = 512
SIGNATURE_AT = 510
SIGNATURE = b"\x55\xaa"
NO_CODE = {b"\0\0": "no code", b"MZ": "a DOS or EFI program"}
MOST = lowmem.STACK.gpa - ADDRESS


def why_not(image: Image) -> str:
    """Why ``image`` has no boot sector; empty if it has one."""
    if image.size < SECTOR:
        return f"shorter than {SECTOR} bytes"
    start = image.read(0, 2)
    if start in NO_CODE:
        return f"starts {start.hex(' ')}, which is {NO_CODE[start]}"
    found = image.read(SIGNATURE_AT, 2)
    return "" if found == SIGNATURE else f"{found.hex(' ')}, not {SIGNATURE.hex(' ')}, at {SIGNATURE_AT:#x}"


def load(places: Places, image: Image, kernel: KernelConfig) -> Kernel:
    """Put the sector and what follows it into memory. Raises InputError."""
    if kernel.entry not in ("auto", "real"):
        raise image.error(
            f"has a boot sector, which is entered in real mode, not in {kernel.entry} mode",
            "set kernel.entry to auto",
        )
    served = bios.fits(places)
    if image.size > MOST and not served:
        raise image.error(
            f"is a disk image of {size_text(image.size)}: its boot sector would have a BIOS read the rest",
            "set memory to 1M or more for a BIOS",
        )
    size = image.size if image.size <= MOST else SECTOR
    place = Range(name="the boot sector", gpa=ADDRESS, size=size)
    places.take(place, image.name)
    places.fill(place.gpa, place.size, image, 0)
    disk = bios.disk(places, image) if served else None

    def tell(given: Given) -> dict[str, int]:
        if given.modules or given.cmdline:
            raise image.error("is a boot sector, which takes no initrd and no command line", "leave them out")
        lowmem.bios_data(places, image.name)
        if disk is None:
            return {"rdx": bios.FIRST_DISK}
        return {"rdx": disk.number, "rflags": RFLAGS_FIXED | RFLAGS_IF}

    return Kernel(
        format="bootsector", mode="real", address=ADDRESS, header=None, tell=tell, segment=0, bios=disk
    )
