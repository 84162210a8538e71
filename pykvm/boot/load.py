"""From a kernel image to a machine that can be started: what lies where in memory, and the CPU's state."""

from __future__ import annotations

from pykvm.boot import lowmem
from pykvm.boot.kernel import Given
from pykvm.boot.places import Places, Range
from pykvm.config.cmdline import merge_cmdline
from pykvm.errors import InputError
from pykvm.frozen import frozen
from pykvm.memory.layout import HIGH_RAM, TABLES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pykvm.boot.image import Image
    from pykvm.boot.kernel import Kernel
    from pykvm.cache import Cache
    from pykvm.config.model import KernelConfig
    from pykvm.memory import GuestMemory
    from pykvm.x86.entry import State


LOADERS = ("multiboot2", "multiboot", "elf", "pvh", "bootsector", "flat")
"""All formats but bzImage, whose loader also takes a cache. Each has a module of its name, imported late:
a kernel should not wait for the loaders of the others."""


@frozen
class Entry:
    """A loaded kernel: its format, mode and address of entry, the CPU's state, and who lies where.

    ``mode`` is "real", "protected" or "long"; ``state`` is as in pykvm/x86/entry.py; ``placed`` is in
    the order of addresses; ``version`` is what the kernel calls itself, where it does. ``cmdline`` is the
    command line that it gets, ``linux`` whether it is Linux, ``asks`` what it asks of its loader, in words.
    ``packed`` is how the whole file is compressed, or empty; ``how`` is as in `Kernel`.
    """

    format: str
    mode: str
    address: int
    state: State
    placed: tuple[Range, ...]
    version: str
    cmdline: str
    linux: bool
    asks: tuple[str, ...]
    packed: str
    how: str


def load(
    memory: GuestMemory,
    image: Image,
    initrds: Sequence[Image],
    kernel: KernelConfig,
    *,
    rsdp: int = 0,
    linux_words: str = "",
    cache: Cache | None = None,
) -> Entry:
    """Put ``image`` and ``initrds`` into ``memory``, which must be fresh, with all that the kernel reads.

    ``kernel`` says the command line, and what the image alone doesn't tell: format, mode of entry,
    addresses of a flat binary. ``rsdp`` is the address of ACPI's tables, which the caller puts there (0:
    none). ``linux_words`` are for the command line of Linux, where the user's own don't say otherwise.
    Unpacked kernels are kept in ``cache``.

    Raises InputError where image, initrds or ``kernel`` are wrong or the memory too small, and HostError
    where a library for unpacking is missing.
    """
    places = Places(memory)
    if rsdp:
        places.take(Range(name="the ACPI tables", gpa=TABLES, size=HIGH_RAM - TABLES), "memory")
    packed = ""
    if kernel.format != "flat":  # whose bytes are taken as they are
        from pykvm.boot import whole

        image, packed = whole.unpack(image, memory.ram_size)
    loaded = _load_kernel(places, image, kernel, cache)
    command = merge_cmdline(linux_words, kernel.cmdline) if loaded.linux else kernel.cmdline
    given = Given(modules=initrds, cmdline=command.encode("utf-8", "surrogateescape"), rsdp=rsdp)
    regs: dict[str, int] = {}
    if loaded.tell is not None:
        regs = loaded.tell(given)
    elif loaded.header is not None:
        from pykvm.boot import initrd, params

        disk = initrd.load(places, loaded, initrds)
        params.write(places, loaded, given.cmdline, image.name, initrd=disk, rsdp=rsdp)
        regs = {"rsi": lowmem.BOOT_PARAMS.gpa}
    elif initrds or kernel.cmdline:
        raise image.error("is a flat binary, which takes no initrd and no command line", "leave them out")
    state = lowmem.enter(places, loaded, image.name, regs)
    if loaded.bios is not None:
        from pykvm.boot import bios

        bios.start(places, state, loaded.bios, image.name)
    return Entry(
        format=loaded.format,
        mode=loaded.mode,
        address=loaded.address,
        state=state,
        placed=tuple(places.taken),
        version=loaded.version,
        cmdline=command,
        linux=loaded.linux,
        asks=loaded.asks,
        packed=packed,
        how=loaded.how,
    )


def _load_kernel(places: Places, image: Image, kernel: KernelConfig, cache: Cache | None) -> Kernel:
    wanted = kernel.format
    if wanted != "flat":  # which there is no sign of
        from pykvm.boot.detect import FORMATS, detect

        wanted = detect(image) if wanted == "auto" else wanted
        for name, title, why_not in FORMATS:
            if name == wanted and name != "pvh" and (reason := why_not(image)):
                raise image.error(f"is no {title}: {reason}", "set kernel.format to auto, or to what it is")
    if wanted == "bzimage":
        from pykvm.boot import bzimage

        return bzimage.load(places, image, kernel, cache)
    if wanted in LOADERS:
        loader = __import__(f"pykvm.boot.{wanted}", fromlist=["load"])
        loaded: Kernel = loader.load(places, image, kernel)
        return loaded
    raise InputError(f"{wanted} can't be loaded yet", where="kernel.format")
