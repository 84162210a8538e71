"""Options that several verbs share, and the way from MACHINE to a configuration."""

from __future__ import annotations

import argparse
import os

from pykvm.cli.output import show
from pykvm.cli.trees import parse_kept
from pykvm.config import defaults_for, load
from pykvm.config.override import Override
from pykvm.errors import InputError, UsageError
from pykvm.frozen import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from pykvm.config.model import MachineConfig


# option, key of the machine file, what it is, whether it is put behind what is there
SHORT_FORMS = (
    ("--kernel", "kernel.image", "the kernel image", False),
    ("--initrd", "kernel.initrd", "an initial RAM disk; several are put one behind the other", False),
    ("--append", "kernel.cmdline", "more words for the kernel's command line", True),
    ("--name", "name", "the machine's name", False),
)


class Help(argparse.HelpFormatter):
    """As wide as the terminal. argparse makes one for each option; its own imports shutil for it, in 2 ms."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


class Parser(argparse.ArgumentParser):
    """Whose errors are ours: one sentence, status 64; and whose help is printed as all else is."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=Help, **options)

    def print_help(self, file: object = None) -> None:
        show(self.format_help().rstrip())

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, where=self.prog.removeprefix("pykvm "), remedy=f"see {self.prog} --help")


def machine_options(parser: argparse.ArgumentParser) -> None:
    """MACHINE and what changes it."""
    parser.add_argument(
        "machine",
        nargs="?",
        metavar="MACHINE",
        help="a YAML file, a folder with machine.yaml, a shipped guest's name, or a kernel image, a file "
        "or debian:PACKAGE (default: ./machine.yaml)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="changes",
        metavar="KEY=VALUE",
        help="change a key by its dotted path: memory=1G, devices.0.serial.to=none",
    )
    for option, key, text, add in SHORT_FORMS:
        parser.add_argument(
            option,
            action="append",
            dest="changes",
            metavar=option[2:].upper(),
            type=_override(option, key, add),
            help=text,
        )


def _columns() -> int:
    """The terminal's width: $COLUMNS, what the terminal says, or 80."""
    told = os.environ.get("COLUMNS", "")
    if told.isdecimal() and 0 < len(told) < 5 and int(told):
        return int(told)
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80


def _override(option: str, key: str, add: bool) -> Callable[[str], Override]:
    return lambda text: Override(option=option, key=key, text=text, add=add)


def configuration(given: str | None, changes: list[str | Override]) -> MachineConfig:
    """The machine that MACHINE names, with the command line's changes."""
    from pykvm.guests import find

    changes = _numbered(changes)
    if given is None:
        if _is_there("machine.yaml"):
            return load("machine.yaml", changes, parse_kept)
        if any(isinstance(change, Override) and change.option == "--kernel" for change in changes):
            return defaults_for("", changes)
        raise UsageError(
            "which machine? There is no machine.yaml here",
            remedy="name a machine file, a shipped guest (`pykvm guests`) or a kernel image",
        )
    if given.startswith("debian:"):
        return defaults_for("", [Override(option="MACHINE", key="kernel.image", text=given), *changes])
    shipped = find(given)
    if shipped is not None:
        return load(os.path.join(shipped, "machine.yaml"), changes, parse_kept)
    if os.path.isdir(given):
        inside = os.path.join(given, "machine.yaml")
        if not _is_there(inside):
            raise InputError("is a folder without machine.yaml", where=given, remedy="name a machine file")
        return load(inside, changes, parse_kept)
    if not _is_there(given):
        from difflib import get_close_matches

        from pykvm.guests import names

        near = get_close_matches(given, names(), 1)
        remedy = f"did you mean the guest {near[0]}?" if near else "`pykvm guests` lists the shipped guests"
        raise InputError(
            "there is no such file, and no shipped guest of that name", where=given, remedy=remedy
        )
    # What is no regular file is refused as an image is: a pipe would be waited for, and can't be read twice.
    if os.path.isfile(given) and (given.endswith((".yaml", ".yml")) or _is_text(given)):
        return load(given, changes, parse_kept)
    return defaults_for(given, changes)


def _is_there(path: str) -> bool:
    """Raise InputError where that can't be said: in a folder that is closed to the user, for one."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise InputError(
            f"cannot be read: {error.strerror}", where=path, remedy="check the path and its permissions"
        ) from error
    return True


def _numbered(changes: list[str | Override]) -> list[str | Override]:
    """The first --initrd takes the place of what the file names, those after it come behind it."""
    numbered = []
    count = 0
    for change in changes:
        if isinstance(change, Override) and change.option == "--initrd":
            if count:
                change = replace(change, key=f"{change.key}.{count}")
            count += 1
        numbered.append(change)
    return numbered


def _is_text(path: str) -> bool:
    """Whether the file could be YAML: a kernel image has bytes that no text has."""
    try:
        with open(path, "rb") as file:
            start = file.read(4096)
    except OSError:
        return False
    return bool(start) and not any(byte < 9 or 13 < byte < 27 for byte in start)


def duration_ns(text: str) -> int:
    """The value of --timeout."""
    from pykvm.config.sizes import parse_duration

    try:
        return parse_duration(text)
    except InputError as error:
        raise UsageError(error.what, where="--timeout", remedy=error.remedy) from None
