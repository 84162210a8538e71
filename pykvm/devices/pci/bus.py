"""Who sits where on PCI, and the two ports by which a guest asks: configuration mechanism #1.

CONFIG_ADDRESS takes dwords only: bit 31 enable, 23–16 bus, 15–11 device, 10–8 function, 7–2 register.
A byte at 0xCF9 is the chipset's reset control register. CONFIG_DATA is the addressed dword, or a part
of it.

Source: PCI Local Bus Specification 3.0, §3.2.2.3.2; PCI-to-PCI Bridge Architecture 1.2, §9.1
(which interrupt pin goes where).
"""

from __future__ import annotations

from pykvm.devices.pci.config import HEADER_TYPE, HEADER_TYPE_MULTIFUNCTION, ConfigSpace
from pykvm.errors import InternalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.devices.device import Device, State

# offset, name, access, value after reset, source
REGISTERS = (
    (0, "CONFIG_ADDRESS", "RW", 0x00000000, "PCI 3.0 §3.2.2.3.2"),
    (4, "CONFIG_DATA", "RW", None, "PCI 3.0 §3.2.2.3.2"),
)
CONFIG_PORT = 0xCF8
CONFIG_PORTS = 8

ADDRESS = 0  # offsets of the registers
RESET = 1
DATA = 4

ADDRESS_ENABLE = 1 << 31
ADDRESS_WRITABLE = ADDRESS_ENABLE | 0x00FFFFFC

DEVICES = 32
FUNCTIONS = 8

# Intel's id for a virtual host bridge, which other monitors use too. No quirk and no driver of
# Linux's claims it; 8086:1237 (a 440FX) would bring workarounds for bugs that this bridge lacks,
# and 1b36:0008 would promise PCI Express.
HOST_BRIDGE_VENDOR = 0x8086
HOST_BRIDGE_DEVICE = 0x0D57
HOST_BRIDGE_CLASS = 0x060000

FIRST_INTERRUPT = 16
INTERRUPTS = 8


def interrupt_of(device: int, pin: int) -> int:
    """The GSI of interrupt ``pin`` (0 for INTA# to 3 for INTD#) of ``device``.

    Pins are fixed to IOAPIC inputs 16 to 23, rotated by the device's number so that neighbours'
    INTA# don't share one.
    """
    return FIRST_INTERRUPT + (device + pin) % INTERRUPTS


def host_bridge() -> ConfigSpace:
    """The function at 00:00.0: it says that this is a PCI bus, and has no registers of its own."""
    return ConfigSpace(vendor=HOST_BRIDGE_VENDOR, device=HOST_BRIDGE_DEVICE, class_code=HOST_BRIDGE_CLASS)


class PciBus:
    """Functions by bus, device and function number. Where there is none, all ones are read."""

    def __init__(self) -> None:
        self._functions: dict[tuple[int, int, int], ConfigSpace] = {}

    def add(self, space: ConfigSpace, device: int, function: int = 0, *, bus: int = 0) -> None:
        """Put a function's configuration space at its place.

        Function 0 comes first: without it a guest looks for no other, and it tells of the others.
        """
        where = f"pci {bus:02x}:{device:02x}.{function}"
        if not (0 <= bus <= 0xFF and 0 <= device < DEVICES and 0 <= function < FUNCTIONS):
            raise InternalError("there is no such place", where=where)
        if (bus, device, function) in self._functions:
            raise InternalError("the place is taken", where=where)
        if function:
            first = self._functions.get((bus, device, 0))
            if first is None:
                raise InternalError("function 0 is lacking", where=where, remedy="add function 0 first")
            first.define(HEADER_TYPE, 1, first.read(HEADER_TYPE, 1) | HEADER_TYPE_MULTIFUNCTION)
        self._functions[bus, device, function] = space

    def find(self, address: int) -> ConfigSpace | None:
        """The function that bits 23 to 8 of CONFIG_ADDRESS name."""
        return self._functions.get((address >> 16 & 0xFF, address >> 11 & 0x1F, address >> 8 & 7))


class PciPorts:
    """CONFIG_ADDRESS and CONFIG_DATA: ``CONFIG_PORTS`` ports at ``CONFIG_PORT``, 4 bytes wide.

    ``reset`` gets the bytes of port 0xCF9: the address takes dwords only, so that a chipset puts
    another register in its midst.
    """

    def __init__(self, bus: PciBus, reset: Device) -> None:
        self._bus = bus
        self._reset = reset
        self._address = 0

    def _selected(self) -> ConfigSpace | None:
        return self._bus.find(self._address) if self._address & ADDRESS_ENABLE else None

    def read(self, offset: int, size: int) -> int:
        if offset >= DATA:
            space = self._selected()
            if space is not None:
                return space.read((self._address & 0xFC) + offset - DATA, size)
        elif (offset, size) == (ADDRESS, 4):
            return self._address
        elif (offset, size) == (RESET, 1):
            return self._reset.read(0, 1)
        return (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        if offset >= DATA:
            space = self._selected()
            if space is not None:
                space.write((self._address & 0xFC) + offset - DATA, size, value)
        elif (offset, size) == (ADDRESS, 4):
            self._address = value & ADDRESS_WRITABLE
        elif (offset, size) == (RESET, 1):
            self._reset.write(0, 1, value)

    def save(self) -> State:
        """The address; each function saves its own space, and ``reset`` itself."""
        return {"version": 1, "address": self._address}

    def load(self, state: State) -> None:
        self._address = state["address"]
