"""The DSDT: the namespace of the board, as AML.

::

    \\_S5                    how to power off
    \\_SB
        C000, C001, …       processors
        PCI0                the host bridge: buses, ports and addresses below it, interrupts (_PRT)
        RTC, TIMR, HPET, PS2K, PS2M, COM1 …, PEVT
"""

from __future__ import annotations

from pykvm.boot.acpi.aml import (
    bus_numbers,
    device,
    eisa_id,
    io,
    io_window,
    irq,
    memory_fixed,
    memory_window,
    name,
    package,
    resource_template,
    scope,
)
from pykvm.devices.pci.bus import CONFIG_PORT, CONFIG_PORTS, DEVICES, interrupt_of
from pykvm.devices.pit import PIT_IRQ, PIT_PORT, PIT_PORTS
from pykvm.devices.power import SLP_TYP_S5
from pykvm.memory.layout import HPET, HPET_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.boot.acpi.board import Board

RTC_PORT, RTC_PORTS, RTC_IRQ = 0x70, 2, 8
KEYBOARD_DATA_PORT, KEYBOARD_COMMAND_PORT, KEYBOARD_IRQ = 0x60, 0x64, 1
MOUSE_IRQ = 12
SERIAL_PORTS = 8

PINS = 4
ANY_FUNCTION = 0xFFFF


def namespace(board: Board) -> bytes:
    """The terms of the DSDT of ``board``."""
    return name("_S5", package(SLP_TYP_S5, SLP_TYP_S5, 0, 0)) + scope(
        "_SB",
        *(_processor(number, present=number < board.cpus) for number in range(board.max_cpus)),
        _host_bridge(board),
        *_legacy_devices(board),
    )


def _processor(number: int, *, present: bool) -> bytes:
    terms = [name("_HID", "ACPI0007"), name("_UID", number)]
    if not present:
        terms.append(name("_STA", 0))
    return device(f"C{number:03X}", *terms)


def _host_bridge(board: Board) -> bytes:
    windows = [
        bus_numbers(0, 0xFF),
        io(CONFIG_PORT, CONFIG_PORTS),
        io_window(0, CONFIG_PORT - 1),
        io_window(CONFIG_PORT + CONFIG_PORTS, 0xFFFF),
    ]
    for hole in (board.pci_hole, board.pci_hole_high):
        if hole is not None:
            windows.append(memory_window(hole[0], hole[1] - 1))
    return device(
        "PCI0",
        name("_HID", eisa_id("PNP0A03")),
        name("_UID", 0),
        name("_CRS", resource_template(*windows)),
        name("_PRT", _routing()),
    )


def _routing() -> bytes:
    """Each device's four pins, wired to the IOAPIC without a router between (ACPI 6.5 §6.2.13)."""
    return package(
        *(
            package(number << 16 | ANY_FUNCTION, pin, 0, interrupt_of(number, pin))
            for number in range(DEVICES)
            for pin in range(PINS)
        )
    )


def _legacy_devices(board: Board) -> list[bytes]:
    devices = [
        _legacy("RTC", "PNP0B00", io(RTC_PORT, RTC_PORTS), irq(RTC_IRQ)),
        _legacy(
            "PS2K", "PNP0303", io(KEYBOARD_DATA_PORT, 1), io(KEYBOARD_COMMAND_PORT, 1), irq(KEYBOARD_IRQ)
        ),
    ]
    if board.mouse:
        devices.append(_legacy("PS2M", "PNP0F13", irq(MOUSE_IRQ)))
    if board.pit:
        devices.append(_legacy("TIMR", "PNP0100", io(PIT_PORT, PIT_PORTS), irq(PIT_IRQ)))
    if board.hpet:
        devices.append(_legacy("HPET", "PNP0103", memory_fixed(HPET, HPET_SIZE)))
    for number, (port, line) in enumerate(board.serials, 1):
        devices.append(_legacy(f"COM{number}", "PNP0501", io(port, SERIAL_PORTS), irq(line), uid=number))
    if board.pvpanic is not None:
        resources = name("_CRS", resource_template(io(board.pvpanic, 1)))
        devices.append(device("PEVT", name("_HID", "QEMU0001"), resources))
    return devices


def _legacy(text: str, plug_and_play_id: str, *resources: bytes, uid: int | None = None) -> bytes:
    terms = [name("_HID", eisa_id(plug_and_play_id))]
    if uid is not None:
        terms.append(name("_UID", uid))
    return device(text, *terms, name("_CRS", resource_template(*resources)))
