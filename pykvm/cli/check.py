"""``pykvm check``: whether a machine could be booted and how, without booting it and without KVM."""

from __future__ import annotations

from pykvm.cli.options import Parser, configuration, machine_options
from pykvm.config.model import SerialConfig
from pykvm.config.sizes import show_size
from pykvm.guests.kernels import resolve
from pykvm.machine import plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pykvm.machine.plan import Plan


def run(arguments: Sequence[str]) -> int:
    """Check, and say what would be booted; errors are those of ``boot``."""
    parser = Parser(prog="pykvm check", description="Say what is wrong with a machine; boot nothing.")
    machine_options(parser)
    given = parser.parse_args(arguments)
    config = configuration(given.machine, given.changes)
    assert config.kernel is not None
    made = plan.make(config, resolve(config.kernel))
    try:
        print("\n".join(_words(config.kernel.image, made)))
    finally:
        made.memory.close()
    return 0


def _words(image: str, made: Plan) -> list[str]:
    config, entry = made.config, made.entry
    assert config.kernel is not None
    lines = [
        f"{config.source or image}: nothing wrong",
        f"machine   {config.name}: {config.cpus.count} CPU ({config.cpus.model}), "
        f"{show_size(config.memory.size)} of memory",
        f"kernel    {image}: {entry.format}{f', {entry.version}' if entry.version else ''}",
        f"entry     {entry.mode} mode at {entry.address:#x}",
    ]
    if config.kernel.cmdline:
        lines.append(f"cmdline   {config.kernel.cmdline}")
    for device in config.devices:
        if isinstance(device, SerialConfig):
            lines.append(f"device    {device.port}, to {device.to}")
        else:
            lines.append(f"device    debug-exit at {device.port:#x}")
    lines += (f"memory    {place.gpa:#012x}–{place.end - 1:#012x}  {place.name}" for place in entry.placed)
    return lines
