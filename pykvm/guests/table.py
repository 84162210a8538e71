"""A recipe.toml, read key by key: what is there and wrong, or not asked for, is an error that says where."""

from __future__ import annotations

import tomllib

from pykvm.errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Table:
    """The keys of a TOML file at ``path``. Every method raises InputError."""

    def __init__(self, path: str, values: dict[str, Any]) -> None:
        self.path = path
        self._values = values
        self._asked: set[str] = set()

    def text(self, key: str) -> str:
        value = self._get(key)
        if not isinstance(value, str) or not value:
            raise self._wrong(key, "a text in quotes")
        return value

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        value = self.text(key)
        if value not in choices:
            raise self._wrong(key, " or ".join(f'"{choice}"' for choice in choices))
        return value

    def number(self, key: str) -> int:
        value = self._get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise self._wrong(key, "a number above 0")
        return value

    def size(self, key: str) -> int:
        """Bytes, written as "700M"."""
        value = self.text(key)
        if value[-1] not in UNITS or not value[:-1].isdecimal():
            raise self._wrong(key, 'a size such as "700M"')
        return int(value[:-1]) * UNITS[value[-1]]

    def texts(self, key: str) -> list[str]:
        value = self._get(key)
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise self._wrong(key, "a list of texts")
        return value

    def pairs(self, key: str) -> dict[str, str]:
        value = self._get(key)
        if not isinstance(value, dict) or not all(isinstance(item, str) and item for item in value.values()):
            raise self._wrong(key, "a table of texts")
        return value

    def devices(self, key: str) -> dict[str, tuple[int, int]]:
        """Tables of device numbers: path = [major, minor]."""
        value = self._get(key)
        if not isinstance(value, dict):
            raise self._wrong(key, "a table of [major, minor]")
        found = {}
        for path, numbers in value.items():
            match numbers:
                case [int(major), int(minor)] if 0 <= major < 1 << 12 and 0 <= minor < 1 << 20:
                    found[path] = (major, minor)
                case _:
                    raise self._wrong(f"{key}.{path}", "[major, minor]")
        return found

    def done(self) -> None:
        """Everything was asked for that the maker knows: what is left is a mistake."""
        for key in self._values:
            if key not in self._asked:
                raise InputError(
                    f"no recipe of this kind has the key {key}",
                    where=self.path,
                    remedy=f"write one of {', '.join(sorted(self._asked))}",
                )

    def _get(self, key: str) -> Any:
        self._asked.add(key)
        if key not in self._values:
            raise InputError(f"lacks the key {key}", where=self.path, remedy="add it")
        return self._values[key]

    def _wrong(self, key: str, wanted: str) -> InputError:
        return InputError(
            f"{key} has another value than it can have", where=self.path, remedy=f"write {wanted}"
        )


def read(path: str) -> Table:
    """The table in the file at ``path``. Raises InputError."""
    try:
        with open(path, "rb") as file:
            return Table(path, tomllib.load(file))
    except OSError as error:
        raise InputError((error.strerror or "").lower(), where=path, remedy="give a recipe.toml") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"is no TOML: {error}", where=path, remedy="correct it there") from error
