"""``pykvm check``: whether a machine could be booted and how, without booting it and without KVM."""

from __future__ import annotations

from pykvm.cli.options import Parser, configuration, machine_options
from pykvm.cli.output import show
from pykvm.config.model import SerialConfig
from pykvm.config.sizes import show_size
from pykvm.errors import printable
from pykvm.guests.kernels import resolve
from pykvm.machine import plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pykvm.config.model import DebugExitConfig
    from pykvm.machine.plan import Plan


TITLES = {
    "bzimage": "bzimage, Linux's own form",
    "multiboot2": "multiboot2, 32-bit entry with tags of information in EBX",
    "multiboot": "multiboot, 32-bit entry with boot information in EBX",
    "pvh": "pvh, 32-bit entry with hvm_start_info in EBX",
    "elf": "elf, entered as Linux is, with boot_params in RSI",
    "bootsector": "bootsector, entered at 0:7c00 with a BIOS that reads the file as a disk",
    "flat": "flat",
}
"""Formats, and how they are entered where that isn't a matter of mode and address alone."""


def run(arguments: Sequence[str]) -> int:
    """Check, and say what would be booted; errors are those of ``boot``."""
    parser = Parser(prog="pykvm check", description="Say what is wrong with a machine; boot nothing.")
    machine_options(parser)
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")
    given = parser.parse_args(arguments)
    config = configuration(given.machine, given.changes)
    assert config.kernel is not None
    made = plan.make(config, resolve(config.kernel))
    try:
        told = _told(config.kernel.image, made)
    finally:
        made.memory.close()
    if given.json:
        import json

        show(json.dumps(told, indent=2))
    else:
        show("\n".join(_words(told)))
    return 0


def _told(image: str, made: Plan) -> dict[str, Any]:
    """What would be booted; ``image`` is what the machine file calls the kernel."""
    config, entry = made.config, made.entry
    return {
        "source": config.source,
        "name": config.name,
        "cpus": {"count": config.cpus.count, "model": config.cpus.model},
        "memory": config.memory.size,
        "kernel": {
            "image": image,
            "format": entry.format,
            "packed": entry.packed,
            "version": entry.version,
            "linux": entry.linux,
            "mode": entry.mode,
            "entry": entry.address,
            "cmdline": entry.cmdline,
            "how": entry.how,
            "asks": list(entry.asks),
        },
        "devices": [_device(device) for device in config.devices],
        "placed": [{"name": place.name, "gpa": place.gpa, "size": place.size} for place in entry.placed],
    }


def _device(device: SerialConfig | DebugExitConfig) -> dict[str, Any]:
    """``device`` as the machine file writes it."""
    if isinstance(device, SerialConfig):
        return {"serial": {"port": device.port, "to": device.to}}
    return {"debug-exit": {"port": device.port}}


def _cpus(count: int) -> str:
    return f"{count} CPU{'s' if count > 1 else ''}"


def _words(told: dict[str, Any]) -> list[str]:
    kernel = told["kernel"]
    version = f", {kernel['version']}" if kernel["version"] else ""
    packed = f" in a file packed by {kernel['packed']}" if kernel["packed"] else ""
    how = f"; {kernel['how']}" if kernel["how"] else ""
    lines = [
        f"{printable(told['source'] or kernel['image'])}: nothing wrong",
        f"machine   {told['name']}: {_cpus(told['cpus']['count'])} ({told['cpus']['model']}), "
        f"{show_size(told['memory'])} of memory",
        f"kernel    {printable(kernel['image'])}: {TITLES[kernel['format']]}{packed}{version}",
        f"entry     {kernel['mode']} mode at {kernel['entry']:#x}{how}",
    ]
    lines += (f"asks for  {words}" for words in kernel["asks"])
    if kernel["cmdline"]:
        lines.append(f"cmdline   {kernel['cmdline']}")
    for device in told["devices"]:
        for kind, row in device.items():
            place = f"{row['port']}, to {row['to']}" if kind == "serial" else f"{kind} at {row['port']:#x}"
            lines.append(f"device    {place}")
    for place in told["placed"]:
        last = place["gpa"] + place["size"] - 1
        lines.append(f"memory    {place['gpa']:#012x}–{last:#012x}  {place['name']}")
    return lines
