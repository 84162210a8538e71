"""The plan of a machine: everything that is known before anything of KVM's is opened.

The kernel lies in private memory, the tables beside it, the entry state is plain values. A plan
survives a fork, which a VM doesn't: so a warm parent can fork between plan and build.
"""

from __future__ import annotations

from pykvm.boot.image import Image
from pykvm.boot.load import load
from pykvm.cache import Cache
from pykvm.config.model import SerialConfig
from pykvm.frozen import frozen, replace
from pykvm.machine.interrupts import COM_PORTS
from pykvm.memory import GuestMemory, layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.boot.load import Entry
    from pykvm.config.model import KernelConfig, MachineConfig


CONSOLE = "console=ttyS0"


@frozen
class Plan:
    """``memory`` belongs to whoever made the plan: close it after the machine that was built from it."""

    config: MachineConfig
    memory: GuestMemory
    entry: Entry

    @property
    def linux(self) -> bool:
        """Whether the kernel is Linux: then its panic line is known."""
        return self.entry.linux


def make(config: MachineConfig, kernel: KernelConfig) -> Plan:
    """Load ``kernel`` (with paths for what was ``debian:``, ``host`` or a recipe) and the tables.

    Linux is told of com1 as its console, unless its command line names one. Messages call an image what
    the machine file calls it.

    Raises InputError for a kernel that is wrong or doesn't fit, HostError where the host lacks memory.
    """
    memory = GuestMemory.pc(config.memory.size)
    images: list[Image] = []
    said = config.kernel or kernel
    try:
        for path, name in zip((kernel.image, *kernel.initrd), (said.image, *said.initrd), strict=True):
            images.append(Image.open(path, name))
        # Before the kernel, as Multiboot2 hands over a copy of the RSDP. A flat kernel is left all of memory.
        rsdp = _describe(config, memory) if kernel.format != "flat" else 0
        entry = load(
            memory,
            images[0],
            images[1:],
            kernel,
            rsdp=rsdp,
            linux_words=CONSOLE if "com1" in _serials(config) else "",
            cache=Cache(),
        )
        return Plan(config=replace(config, kernel=kernel), memory=memory, entry=entry)
    except BaseException:
        memory.close()
        raise
    finally:
        for image in images:
            image.close()


def _describe(config: MachineConfig, memory: GuestMemory) -> int:
    """Lay in memory what a PC's firmware would tell of the machine; the address of ACPI's RSDP."""
    # Late: a flat kernel goes without.
    from pykvm import __version__
    from pykvm.boot import mptable, smbios
    from pykvm.boot.acpi import tables
    from pykvm.boot.acpi.board import Board

    serials = _serials(config)
    board = Board(
        cpus=config.cpus.count,
        max_cpus=config.cpus.max or config.cpus.count,
        serials=tuple(place for name, place in COM_PORTS.items() if name in serials),
        pit=config.pit != "none",
        hpet=config.hpet,
    )
    acpi = tables.build(board)
    memory.write(acpi.base, acpi.image)
    if memory.low_end >= layout.HIGH_RAM:
        base = acpi.base + len(acpi.image) + 15 & ~15
        pointer, configuration = mptable.build(board, base)
        memory.write(base, configuration)
        memory.write(mptable.POINTER, pointer)
        ranges = tuple((region.gpa, region.end) for region in memory.regions)
        told = smbios.build(config.cpus.count, ranges, __version__)
        memory.write(told.base, told.image)
    return acpi.rsdp


def _serials(config: MachineConfig) -> set[str]:
    return {device.port for device in config.devices if isinstance(device, SerialConfig)}
