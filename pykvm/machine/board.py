"""What a machine is made of beside memory, interrupt controllers and CPUs: the parts list of the board.

Move a line and the machine changes. To add a device: give it a file in pykvm/devices/, a line here,
and a row in pykvm/config/schema.py where the machine file is to choose it.
"""

from __future__ import annotations

from pykvm.config.model import DebugExitConfig, SerialConfig
from pykvm.devices import debugexit, i8042, power, pvpanic, rtc, serialregisters, vga
from pykvm.devices.debugexit import DebugExit
from pykvm.devices.fasta20 import FastA20
from pykvm.devices.i8042 import I8042
from pykvm.devices.pci.bus import CONFIG_PORT, CONFIG_PORTS, PciBus, PciPorts, host_bridge
from pykvm.devices.pit import PIT_PORT, PIT_PORTS, SPEAKER_PORT, Pit
from pykvm.devices.port80 import Port80
from pykvm.devices.power import Power, ResetControl
from pykvm.devices.pvpanic import Pvpanic
from pykvm.devices.rtc import Rtc
from pykvm.devices.serial import Serial
from pykvm.devices.vga import Vga
from pykvm.errors import InternalError
from pykvm.machine import verdict
from pykvm.machine.coalesced import CoalescedWrites, Stream
from pykvm.machine.interrupts import (
    COM_PORTS,
    HPET_ROUTES,
    IRQ_KEYBOARD,
    IRQ_PIT,
    IRQ_RTC,
    IRQ_SCI,
    Switched,
)
from pykvm.memory import layout
from pykvm.terminal.display import Display
from pykvm.terminal.open import make_console

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.devices.bus import MemoryBus, PortBus
    from pykvm.devices.device import Device, Line
    from pykvm.machine.interrupts import IsaLines
    from pykvm.machine.machine import Machine
    from pykvm.memory import GuestMemory
    from pykvm.terminal.console import Console
    from pykvm.translate.keptbytes import KeptBytes


def fit(
    machine: Machine,
    ports: PortBus,
    mmio: MemoryBus,
    lines: IsaLines,
    memory: GuestMemory,
    *,
    own_pit: bool,
    coalesced: CoalescedWrites | KeptBytes | None = None,
) -> None:
    """Put the devices of ``machine`` in their places, from the timer chip (``own_pit``: ours) on."""
    config = machine.config

    def part(
        name: str, device: Device, port: int, count: int, *, width: int = 1, latch: bool = False
    ) -> None:
        machine.devices[name] = device
        ports.attach(device, port, count, width=width, name=name, latch=latch)

    def on_poweroff() -> None:
        machine.post(verdict.poweroff())

    def on_reset() -> None:
        machine.post(verdict.reset())

    def on_panic(events: int) -> None:
        machine.on_panic()

    if config.hpet:
        pit_line, rtc_line = _fit_hpet(machine, mmio, lines)
    else:
        pit_line, rtc_line = lines.line(IRQ_PIT), lines.line(IRQ_RTC)
    if own_pit:
        pit = Pit(pit_line, machine.clock)
        part("pit", pit, PIT_PORT, PIT_PORTS)
        part("speaker", pit.speaker, SPEAKER_PORT, 1)
    clock = Rtc(
        rtc_line,
        machine.clock,
        ram_below_4g=memory.low_end,
        ram_above_4g=memory.high_end - layout.FOUR_GIB,
    )
    part("rtc", clock, 0x70, rtc.PORTS)
    keyboard = I8042(lines.line(IRQ_KEYBOARD), on_reset)
    machine.devices["i8042"] = keyboard
    ports.attach(keyboard, 0x60, 1, name="i8042")
    ports.attach(keyboard, 0x64, 1, offset=i8042.COMMAND, name="i8042")
    screen = Vga(machine.clock, memory)
    machine.devices["vga"] = screen
    for first, count in vga.PLACES:
        ports.attach(screen, first, count, offset=first - vga.PORT, name="vga")
    part("fast-a20", FastA20(on_reset), 0x92, 1)
    acpi = Power(lines.line(IRQ_SCI), machine.clock, on_poweroff)
    part("power", acpi, power.PM_PORT, power.PM_PORTS, width=4)
    reset = ResetControl(on_reset)
    machine.devices["reset"] = reset
    pci = PciBus()
    pci.add(host_bridge(), 0)
    part("pci", PciPorts(pci, reset), CONFIG_PORT, CONFIG_PORTS, width=4)
    part("pvpanic", Pvpanic(on_panic), pvpanic.PORT, 1)
    part("port80", Port80(), 0x80, 1, latch=True)

    # What the machine file lists.
    for device in config.devices:
        if isinstance(device, SerialConfig):
            port, irq = COM_PORTS[device.port]
            if device.port not in machine.consoles:
                machine.consoles[device.port] = _console(machine, device.to, device.port)
            console = machine.consoles[device.port]
            uart = Serial(lines.line(irq), console.output, patient=True)
            console.attach(uart)
            console.output.stream = None
            if coalesced is not None:
                console.output.stream = stream = Stream(coalesced, port + serialregisters.THR)
                if coalesced.status is None:
                    uart.on_etbei = stream.urgent
                else:
                    uart.on_status = stream.status
            part(device.port, uart, port, serialregisters.PORTS)
        elif isinstance(device, DebugExitConfig):
            end = DebugExit(lambda value: machine.post(verdict.debug_exit(value)))
            part(f"debug-exit-{device.port:#x}", end, device.port, debugexit.PORTS, width=debugexit.WIDTH)
        else:
            raise InternalError(f"no part for {device!r}", where="board")

    machine.display = machine.display or _display(machine)
    keyboard.on_room = machine.display.fit(screen.picture, keyboard.key).room


def _console(machine: Machine, to: str, name: str) -> Console:
    return machine.keep(
        make_console(
            to,
            name,
            machine.loop,
            folder=machine.config.folder,
            on_stop=lambda: machine.post(verdict.signal(2, "Ctrl-A x")),
            on_hangup=lambda: machine.post(verdict.signal(1, "the terminal's end")),
        )
    )


def _display(machine: Machine) -> Display:
    """The screen and keyboard, on the terminal if the machine file wants that."""
    terminal, owned = None, False
    if machine.config.display == "terminal":
        from pykvm.terminal.standard import Terminal  # late, as each kind of console

        terminal = next((c for c in machine.consoles.values() if isinstance(c, Terminal)), None)
        owned = terminal is None
        if terminal is None:
            made = _console(machine, "terminal", "display")
            terminal = made if isinstance(made, Terminal) else None
    machine.consoles["display"] = display = machine.keep(Display(machine.loop, terminal, owned=owned))
    return display


def _fit_hpet(machine: Machine, mmio: MemoryBus, lines: IsaLines) -> tuple[Line, Line]:
    """The HPET, and the lines of PIT and RTC, which are cut while it has taken their places."""
    from pykvm.devices.hpet import Hpet  # late: few machines have one

    pit, rtc = Switched(lines.line(IRQ_PIT)), Switched(lines.line(IRQ_RTC))

    def on_legacy(on: bool) -> None:
        pit.cut(on)
        rtc.cut(on)

    routes = {irq: lines.line(irq) for irq in HPET_ROUTES}
    replaced = lines.line(IRQ_PIT), lines.line(IRQ_RTC)
    machine.devices["hpet"] = hpet = Hpet(routes, replaced, machine.clock, on_legacy)
    mmio.attach(hpet, layout.HPET, layout.HPET_SIZE, width=8, name="hpet")
    return pit, rtc
