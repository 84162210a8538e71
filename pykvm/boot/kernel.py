"""What the loader of a format tells about the kernel that it has put into memory."""

from __future__ import annotations

from pykvm.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pykvm.boot.bios import Disk
    from pykvm.boot.header import SetupHeader
    from pykvm.boot.image import Image
    from pykvm.config.model import KernelConfig

    # Puts what the kernel's boot protocol hands over into memory; returns general registers by name.
    Tell = Callable[["Given"], dict[str, int]]


@frozen
class Given:
    """What a kernel is given: ``modules`` are the images of ``kernel.initrd``, ``rsdp`` is where ACPI's
    tables begin (0: none)."""

    modules: Sequence[Image]
    cmdline: bytes
    rsdp: int


@frozen
class Kernel:
    """Where and in which mode ("real", "protected", "long") it is entered.

    ``header`` is Linux's setup header, None for a kernel that gets no boot_params; ``code32_start`` is
    the header's field: where the kernel's code lies. ``version`` is what it calls itself, or empty.
    ``tell`` is for protocols other than Linux's, ``asks`` what the image asks of its loader, in words.
    ``task`` and ``segment`` are as in pykvm/x86/entry.py, None where the protocol doesn't say.
    ``disguised`` is what only wears Linux's header. ``data`` is the selector of data and stack in real mode,
    by default as there.
    ``how`` it comes to run, in words, where that is more than being entered.
    ``bios`` is what INT 13h reads, None for a kernel without a BIOS beneath it.
    """

    format: str
    mode: str
    address: int
    header: SetupHeader | None
    code32_start: int = 0
    version: str = ""
    tell: Tell | None = None
    asks: tuple[str, ...] = ()
    task: int | None = None
    segment: int | None = None
    data: int | None = None
    bios: Disk | None = None
    disguised: bool = False
    how: str = ""

    @property
    def linux(self) -> bool:
        """Whether it is Linux: by its note, or because nothing else comes as a bzImage."""
        return (self.format == "bzimage" and not self.disguised) or "Linux" in self.version


def protected_only(image: Image, kernel: KernelConfig) -> None:
    """Raise InputError where ``kernel.entry`` asks for a mode that Multiboot and PVH don't have."""
    if kernel.entry not in ("auto", "protected"):
        raise image.error(
            f"is entered in protected mode by its boot protocol, not in {kernel.entry} mode",
            "set kernel.entry to auto, or kernel.format to another format",
        )
