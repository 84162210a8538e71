"""From a machine file, or a kernel image alone, to the record of a whole machine."""

from __future__ import annotations

import os

from pykvm.config import backend
from pykvm.config.model import DebugExitConfig, MachineConfig, SerialConfig
from pykvm.config.node import Node, Source, join, plant
from pykvm.config.override import override
from pykvm.config.parse import MOST_BYTES, decode, parse
from pykvm.config.ports import SERIAL_COUNT, SERIAL_PORTS, board_ports
from pykvm.config.schema import MACHINE, NAME
from pykvm.errors import InputError, UsageError, refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pykvm.config.model import KernelConfig
    from pykvm.config.override import Override

    Parser = Callable[[str, Source], Node | None]


def load(path: str, sets: Sequence[str | Override] = (), parse: Parser = parse) -> MachineConfig:
    """The machine that the file at ``path`` describes, after the changes ``sets``. ``parse`` scans its text.

    Raises InputError for what the file holds, UsageError for a change that is wrong.
    """
    folder = os.path.dirname(_absolute(path))
    source = Source(name=path, folder=folder)
    root = parse(decode(_contents(path), source), source)
    if root is None:
        raise Node(source).error("", "is empty", "write at least kernel: and the path of a kernel")
    return _machine(MACHINE.open(root, ""), sets, os.path.basename(folder))


def defaults_for(kernel: str, sets: Sequence[str | Override] = ()) -> MachineConfig:
    """The machine with all defaults that boots the kernel image at path ``kernel``."""
    image = _absolute(kernel)
    source = Source(name=kernel, folder=os.path.dirname(image))
    return _machine(plant({"kernel": {"image": image}}, source), sets, os.path.basename(image))


def _machine(root: Node, sets: Sequence[str | Override], name: str) -> MachineConfig:
    source = root.source
    here = _working_folder() if sets else ""
    for change in sets:
        root = override(root, change, here)
    values = MACHINE.read(root, "")
    if values["name"] is None:
        values["name"] = name if NAME.fits(name) else "machine"
    machine = MachineConfig(**values, folder=source.folder, source=source.name)
    if machine.kernel is None:
        raise root.error("", "there is nothing to start", "write kernel: and the path of a kernel")
    backend.check(machine, root)
    _check_flat(machine.kernel, root)
    _check_devices(machine.devices, root)
    return machine


NOUNS = {"flat": "flat kernel", "bootsector": "boot sector"}
"""Formats without a boot protocol."""


def _check_flat(kernel: KernelConfig, root: Node) -> None:
    """A flat binary alone has an address, and nothing that could read a command line."""
    if kernel.format != "flat":
        for key, value in (("load", kernel.load), ("start", kernel.start)):
            if value is not None:
                path = f"kernel.{key}"
                raise root.nearest(path).error(
                    path, "is for flat kernels", "write format: flat, or leave it out"
                )
    if kernel.format not in NOUNS:
        return
    for key, text in (("cmdline", kernel.cmdline), ("initrd", kernel.initrd)):
        if text:
            path = f"kernel.{key}"
            raise root.nearest(path).error(path, f"a {NOUNS[kernel.format]} takes none", "leave it out")


def _check_devices(devices: tuple[SerialConfig | DebugExitConfig, ...], root: Node) -> None:
    """No two devices at one place, none where the board has its own, and only one on the terminal."""
    places: dict[str | int, str] = dict(board_ports().items())
    for index, device in enumerate(devices):
        path = f"devices.{index}"
        if isinstance(device, SerialConfig):
            path = join(path, "serial")
            first = SERIAL_PORTS[device.port]
            wanted: list[tuple[str, str | int]] = [("port", device.port)]
            wanted += (("port", port) for port in range(first, first + SERIAL_COUNT))
            if device.to == "terminal":
                wanted.append(("to", "terminal"))
        else:
            path = join(path, "debug-exit")
            wanted = [("port", port) for port in range(device.port, device.port + 4)]
        for key, place in wanted:
            inside = join(path, key)
            if place in places:
                what = f"{place if isinstance(place, str) else hex(place)} is taken by {places[place]}"
                remedy = "write pty, none or a path" if key == "to" else "write another port"
                raise root.nearest(inside).error(inside, what, remedy)
            places[place] = path


def _contents(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(MOST_BYTES + 1)
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        remedy = "check the path and its permissions"
        raise refusal(error) or InputError(what, where=path, remedy=remedy) from None


def _absolute(path: str) -> str:
    return os.path.normpath(path if os.path.isabs(path) else os.path.join(_working_folder(), path))


def _working_folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        raise UsageError("the working directory is gone", remedy="change to a folder that exists") from None
