"""What was measured on this host before: kept until the kernel, KVM, the processor or the probe change."""

from __future__ import annotations

import os

from pykvm.cache import Cache
from pykvm.cache.digest import key_of
from pykvm.cache.store import WHOLE
from pykvm.errors import PykvmError
from pykvm.host.facts import facts

PACKAGE = os.path.dirname(os.path.dirname(__file__))
ROOM = 1 << 16


class Kept:
    """One text under a key; ``sources``, files and folders of this package, are what it was made by.

    ``of_host``: it is different on another host.
    """

    def __init__(self, what: str, *sources: str, of_host: bool = True) -> None:
        self._what = what
        made_by = [data for source in sources for data in _contents(os.path.join(PACKAGE, source))]
        self._key = key_of(what, *(facts().key if of_host else ()), *made_by)
        self._cache = Cache()

    def read(self) -> str | None:
        """The text, or None where there is none."""
        path = self._cache.get(self._key)
        if path is None:
            return None
        try:
            with open(path, encoding="utf-8") as file:
                return file.read()
        except (OSError, UnicodeDecodeError):  # a disk that forgets: it is measured again
            return None

    def write(self, text: str) -> None:
        """Keep ``text`` in place of what was kept. A cache that can't be written to is no error here."""

        def fill(folder: str) -> dict[str, str]:
            path = os.path.join(folder, WHOLE)
            with open(path, "wb") as file:
                file.write(text.encode())
            return {WHOLE: path}

        try:
            self._cache.make(self._key, fill, ROOM, again=True, what=self._what)
        except PykvmError:
            return


def _contents(path: str) -> list[bytes]:
    """The content of a file, or of all Python files below a folder, in the order of their names."""
    if not os.path.isdir(path):
        with open(path, "rb") as file:
            return [file.read()]
    inside = sorted(name for name in os.listdir(path) if name.endswith(".py") or "." not in name)
    return [data for name in inside if name != "__pycache__" for data in _contents(os.path.join(path, name))]
