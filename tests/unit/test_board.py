"""The ports that the machine file can't give away are those that the board takes."""

from __future__ import annotations

import pytest
from doubles import Line

from pykvm.config import load, ports
from pykvm.devices.bus import MemoryBus, PortBus
from pykvm.machine import board
from pykvm.machine.controllers import Controllers
from pykvm.machine.machine import Machine
from pykvm.memory import GuestMemory

# The parts' names in the machine, and how an error calls them.
CALLED = {
    "vga": "the VGA",
    "pic": "the interrupt controller",
    "pit": "the timer",
    "speaker": "the speaker",
    "i8042": "the keyboard controller",
    "rtc": "the clock",
    "port80": "the POST code display",
    "fast-a20": "the fast A20 gate",
    "pvpanic": "pvpanic",
    "power": "ACPI's power management",
    "pci": "the PCI host bridge",
}


class Lines:
    def line(self, irq: int) -> Line:
        return Line()


@pytest.fixture
def attached(tmp_path):
    """Whose each port is on a board of which all is pykvm's own, and that has nothing but the board."""
    (tmp_path / "machine.yaml").write_text("kernel: {image: x}\ndevices: []\n")
    machine = Machine(load(str(tmp_path / "machine.yaml")))
    memory = GuestMemory.pc(1 << 20)
    bus, mmio = PortBus(), MemoryBus()
    Controllers(machine.clock, bus, mmio, machine.devices)
    board.fit(machine, bus, mmio, Lines(), memory, own_pit=True)
    yield bus.names
    machine.close()
    memory.close()


def test_the_table_of_taken_ports_is_the_boards(attached):
    assert ports.board_ports() == {port: CALLED[name] for port, name in attached.items()}


def test_no_port_stands_twice_in_the_table():
    assert sum(count for _, count, _ in ports.BOARD_PORTS) == len(ports.board_ports())
