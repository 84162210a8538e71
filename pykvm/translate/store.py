"""Where translations are kept: in the user's cache folder, a file for each guest that is booted.

A guest is known by its first page of code. Only the files of the GUESTS that were booted last stay. What
can't be read, or isn't whole, is as if it were not there; what can't be written is no error.
"""

from __future__ import annotations

import os

from pykvm.cache import Cache
from pykvm.cache.digest import key_of
from pykvm.cache.store import WHOLE
from pykvm.errors import PykvmError
from pykvm.translate.saved import WORTH, Damaged, Saved, image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.translate.blocks import Blocks
    from pykvm.translate.codepage import Block

PREFIX = "translated-"
GUESTS = 12


class Store:
    """The file of the guest whose first page of code, run in ``mode`` at ``rip``, is ``page``."""

    def __init__(self, mode: int, rip: int, page: bytes, bmi2: bool) -> None:
        self._made_by = bytes.fromhex(key_of(*_sources(), str(bmi2)))
        self._key = PREFIX + key_of(self._made_by, str(mode), str(rip), page)[:40]
        self._cache = Cache()
        self._before = 0

    def load(self, blocks: Blocks) -> None:
        """Give ``blocks``, which has none yet, those of the file, if there is one."""
        path = self._cache.get(self._key)
        if path is None:
            return
        try:
            with open(path, "rb") as file:
                Saved(file.read(), self._made_by).place(blocks)
            os.utime(os.path.join(self._cache.folder, "entries", self._key))
        except (OSError, Damaged):
            return

    def save(self, blocks: Blocks, is_remembered: Callable[[Block], bool]) -> None:
        """Write what is there now, if enough of it is new; ``is_remembered``: it is in the jump cache."""
        if blocks.translated < WORTH or blocks.generation:
            return
        try:
            content = image(blocks, self._made_by, is_remembered)
        except MemoryError:
            return
        if content is None:
            return

        def fill(folder: str) -> dict[str, str]:
            path = os.path.join(folder, WHOLE)
            with open(path, "wb") as file:
                file.write(content)
            return {WHOLE: path}

        try:
            self._cache.make(self._key, fill, len(content), again=True, what="the same guest's translations")
            self._drop_old()
        except (PykvmError, OSError):
            return

    def _drop_old(self) -> None:
        folder = os.path.join(self._cache.folder, "entries")
        mine = [name for name in os.listdir(folder) if name.startswith(PREFIX)]
        mine.sort(key=lambda name: os.stat(os.path.join(folder, name)).st_mtime)
        for name in mine[:-GUESTS]:
            self._cache.remove(name)


def _sources() -> list[bytes]:
    """What decides about the code that is made."""
    here = os.path.dirname(__file__)
    maps = os.path.join(here, "..", "x86", "execute", "maps.py")
    names = [os.path.join(here, name) for name in sorted(os.listdir(here)) if name.endswith(".py")]
    found = []
    for name in (*names, maps):
        with open(name, "rb") as file:
            found.append(file.read())
    return found
