"""What keeps the source readable and whole, and no linter knows."""

from __future__ import annotations

import ast
import os
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TOP_LEVEL = {"README.md", "firmware", "guests", "pykvm", "pyproject.toml", "tests"}
MOST_LINES = 450
LEFT_OPEN = re.compile("TO" + "DO|FIX" + "ME|XX" + "X|NotImplemented" + "Error")


MADE = ("build", "dist", "*.egg-info", "__pycache__")
"""What tools leave in a checkout; all else that is no dotfile belongs to the project."""


def files() -> list[str]:
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if not _is_made(name)]
        found += [str((Path(folder) / name).relative_to(ROOT)) for name in names if not _is_made(name)]
    return sorted(found)


def _is_made(name: str) -> bool:
    return name.startswith(".") or any(fnmatch(name, pattern) for pattern in MADE)


FILES = files()
SOURCES = [name for name in FILES if name.endswith(".py")]
MODULES = [name for name in SOURCES if name.startswith("pykvm/")]


def test_the_top_level_holds_only_what_it_should():
    assert {name.split("/")[0] for name in FILES} <= TOP_LEVEL


@pytest.mark.parametrize("path", MODULES)
def test_a_module_is_one_room_says_what_it_is_and_has_nothing_left_open(path):
    source = (ROOT / path).read_text()
    assert source.count("\n") <= MOST_LINES, "this is two rooms"
    assert not source.strip() or ast.get_docstring(ast.parse(source)), "it begins with what it is"
    assert LEFT_OPEN.findall(source) == []


@pytest.mark.parametrize("path", SOURCES)
def test_nothing_imports_fcntl(path):
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            assert "fcntl" not in [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.module != "fcntl"
