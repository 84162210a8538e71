"""The architecture: which room may import which. To change it is to change these tables."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

GROUND = {"errors", "frozen", "progress"}
"""Single files that any room may import; they import nothing of pykvm."""

# room: what else of pykvm it may import. A room stands on those above it.
ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "frozen": set(),
    "progress": set(),
    "libc": set(),
    "cache": {"libc"},
    "kvm": {"libc"},
    "memory": {"libc"},
    "x86": set(),
    "config": set(),
    "devices": {"memory"},
    "terminal": {"libc"},
    "translate": {"libc", "cache", "memory", "x86", "devices"},
    "host": {"libc", "cache", "kvm", "memory", "x86", "config", "translate"},
    "boot": {"libc", "cache", "memory", "x86", "config", "devices"},
    "machine": {
        "libc",
        "cache",
        "kvm",
        "memory",
        "x86",
        "config",
        "devices",
        "terminal",
        "translate",
        "host",
        "boot",
    },
    "guests": {"libc", "cache", "config", "boot"},
    "debug": {"memory", "x86", "boot"},
    "cli": {
        "libc",
        "cache",
        "kvm",
        "memory",
        "x86",
        "config",
        "terminal",
        "translate",
        "host",
        "boot",
        "machine",
        "guests",
        "debug",
    },
    "__main__": {"cli"},
}

# What comes from the Python index, and the one room that may import it.
THIRD_PARTY = {"yaml": "config", "capstone": "x86"}

# Their import costs milliseconds that every boot would pay: import them in the function that needs them.
SLOW = {
    *("argparse", "capstone", "dataclasses", "enum", "importlib", "inspect", "json", "logging"),
    *("pathlib", "re", "subprocess", "tempfile", "typing", "unittest", "yaml"),
}

# Files that are themselves imported late, and so may import at their start what they like.
LATE = {
    *("pykvm/boot/apt.py", "pykvm/cli/boot.py", "pykvm/cli/check.py", "pykvm/cli/guests.py"),
    *("pykvm/cli/info.py", "pykvm/cli/options.py", "pykvm/cli/schema.py"),
    *("pykvm/guests/initramfs.py", "pykvm/guests/linux.py", "pykvm/guests/table.py", "pykvm/guests/tools.py"),
}

# Python's own SHA-256, which knows no OpenSSL, by its names up to 3.11 and from 3.12 on.
STANDARD_LIBRARY = sys.stdlib_module_names | {"_sha256", "_sha2"}


class Import:
    """One imported module: ``pykvm.x86.paging`` for ``from pykvm.x86 import paging`` too."""

    def __init__(self, path: str, line: int, module: str, *, at_start: bool) -> None:
        self.place = f"{path}:{line}"
        self.module = module
        self.top = module.split(".")[0]
        self.at_start = at_start


def room_of(path: str) -> str:
    """``pykvm/kvm/vm.py`` is in kvm, ``pykvm/errors.py`` is errors."""
    return path.split("/")[1].removesuffix(".py")


def file_of(entry: Import) -> str:
    """``pykvm/boot/apt.py`` for ``from pykvm.boot import apt`` and ``from pykvm.boot.apt import Apt``."""
    parts = entry.module.split(".")
    whole, start = "/".join(parts) + ".py", "/".join(parts[:-1]) + ".py"
    return whole if (ROOT / whole).exists() else start


def imports(path: str, source: str) -> list[Import]:
    """Every import of a file, also those in functions and for type checkers only."""
    return list(_imports(path, ast.parse(source), at_start=True))


def _imports(path: str, node: ast.AST, *, at_start: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(path, child.lineno, alias.name, at_start=at_start)
        elif isinstance(child, ast.ImportFrom):
            module = "." * child.level + (child.module or "")
            for alias in child.names:
                yield Import(path, child.lineno, f"{module}.{alias.name}", at_start=at_start)
        elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            for statement in child.body:
                yield from _imports(path, ast.Module([statement], []), at_start=False)
            for statement in child.orelse:
                yield from _imports(path, ast.Module([statement], []), at_start=at_start)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(path, child, at_start=at_start and not inside)


def faults(path: str, source: str) -> list[str]:
    """What in a file of pykvm breaks the tables above."""
    room = room_of(path)
    allowed = ROOMS.get(room, set()) | GROUND | {room}
    found = []
    if room not in ROOMS and room != "__init__":
        found.append(f"{path}: the room {room} is not in the table")
    for entry in imports(path, source):
        if entry.module.startswith("."):
            found.append(f"{entry.place}: write the import in full")
        elif entry.top == "pykvm":
            other = entry.module.split(".")[1]
            if other not in allowed and other != "__version__":
                found.append(f"{entry.place}: {room} may not import {other}")
        elif entry.top in THIRD_PARTY:
            if room != THIRD_PARTY[entry.top]:
                found.append(f"{entry.place}: only {THIRD_PARTY[entry.top]} may import {entry.top}")
        elif entry.top not in STANDARD_LIBRARY:
            found.append(f"{entry.place}: {entry.top} is no part of Python")
        if entry.top == "fcntl":
            found.append(f"{entry.place}: nothing imports fcntl")
        if entry.at_start and path not in LATE and (entry.top in SLOW or file_of(entry) in LATE):
            found.append(f"{entry.place}: import {entry.module} in the function that needs it")
    return found


SOURCES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "pykvm").rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES)
def test_a_file_imports_only_what_its_room_may(path):
    assert faults(path, (ROOT / path).read_text()) == []


@pytest.mark.parametrize(
    "source, fault",
    [
        ("import pykvm.kvm.vm", "memory may not import kvm"),
        ("from pykvm import kvm", "memory may not import kvm"),
        ("from pykvm.kvm.vm import Vm", "memory may not import kvm"),
        ("def f():\n    from pykvm.kvm.vm import Vm", "memory may not import kvm"),
        ("if TYPE_CHECKING:\n    from pykvm.kvm.vm import Vm", "memory may not import kvm"),
        ("from .guest import GuestMemory", "write the import in full"),
        ("import numpy", "numpy is no part of Python"),
        ("import yaml", "only config may import yaml"),
        ("def f():\n    import fcntl", "nothing imports fcntl"),
        ("from dataclasses import dataclass", "import dataclasses.dataclass in the function that needs it"),
        (
            "from pykvm.boot.apt import Apt",
            "import pykvm.boot.apt.Apt in the function that needs it",
        ),
        ("class C:\n    import re", "import re in the function that needs it"),
        ("if not TYPE_CHECKING:\n    import re", "import re in the function that needs it"),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    import re", "import re in the function that needs it"),
    ],
)
def test_a_forbidden_import_is_found(source, fault):
    assert fault in "\n".join(faults("pykvm/memory/new.py", source))


def test_a_room_outside_the_table_is_found():
    assert faults("pykvm/manager/all.py", "") == [
        "pykvm/manager/all.py: the room manager is not in the table"
    ]


def test_rooms_import_in_one_direction_only():
    above: set[str] = set()
    for room, below in ROOMS.items():
        assert below <= above, f"{room} imports what stands below it in the table"
        above.add(room)


def test_the_command_starts_without_a_slow_import():
    # -I -S: without what a virtual environment loads by itself.
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import pykvm.cli.main; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert {module.split(".")[0] for module in run.stdout.split()} & SLOW == set()
