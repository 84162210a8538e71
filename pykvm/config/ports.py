"""Which I/O ports are taken on the board, so that a device in the machine file can't sit on another's."""

from __future__ import annotations

SERIAL_PORTS = {"com1": 0x3F8, "com2": 0x2F8, "com3": 0x3E8, "com4": 0x2E8}
SERIAL_COUNT = 8

# first port, how many, whose: those of the timer stay its own where `pit: none` leaves it out
BOARD_PORTS = (
    (0x20, 2, "the interrupt controller"),
    (0x40, 4, "the timer"),
    (0x60, 1, "the keyboard controller"),
    (0x61, 1, "the speaker"),
    (0x64, 1, "the keyboard controller"),
    (0x70, 2, "the clock"),
    (0x80, 1, "the POST code display"),
    (0x92, 1, "the fast A20 gate"),
    (0xA0, 2, "the interrupt controller"),
    (0x3C0, 16, "the VGA"),
    (0x3D4, 2, "the VGA"),
    (0x3DA, 1, "the VGA"),
    (0x4D0, 2, "the interrupt controller"),
    (0x505, 1, "pvpanic"),
    (0x600, 12, "ACPI's power management"),
    (0xCF8, 8, "the PCI host bridge"),
)


def board_ports() -> dict[int, str]:
    """Whose each taken port is."""
    return {port: name for first, count, name in BOARD_PORTS for port in range(first, first + count)}
