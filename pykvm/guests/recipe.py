"""Recipes: a folder with a recipe.toml and what it names, from which one file is made and cached.

The key in the cache is the hash of the folder's files, so that a changed recipe makes a new file, and
two checkouts that differ don't get in each other's way. The versions of the packages that went into it
are written down beside the file; ``update`` makes it again where apt has newer ones.
"""

from __future__ import annotations

import os

from pykvm.cache import key_of
from pykvm.errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.cache import Cache
    from pykvm.cache.store import Parts
    from pykvm.progress import Progress

NAME = "recipe.toml"

#: Goes into each key: to be changed when the same recipe makes something else than before.
BUILDER = "1"

#: Parts of the cache's entry: what was made, and one line about it.
MADE = "made"
ABOUT = "about"


def built(folder: str, cache: Cache, progress: Progress | None = None, *, yes: bool = False) -> str:
    """The path of what the recipe in ``folder`` makes, made now where it isn't in the cache.

    Raises InputError for a folder that has no right recipe, HostError where the host can't.
    """
    kept = cache.parts(key(folder))
    return (kept or _make(folder, cache, progress, yes=yes, again=False))[MADE]


def update(folder: str, cache: Cache, progress: Progress | None = None, *, yes: bool = False) -> str:
    """Make it again where apt's package lists, fetched anew, have a newer version; the line about it."""
    return _line(_make(folder, cache, progress, yes=yes, again=True))


def about(folder: str, cache: Cache, *, thorough: bool = False) -> tuple[str, str] | None:
    """What the cache has of this recipe: the file's path, and the line about it."""
    kept = cache.parts(key(folder), thorough=thorough)
    return (kept[MADE], _line(kept)) if kept else None


def remove(folder: str, cache: Cache) -> bool:
    """Forget what was made by this recipe; False if there is nothing."""
    return cache.remove(key(folder))


def key(folder: str) -> str:
    """The cache's key of what the recipe in ``folder`` makes. Raises InputError."""
    parts = [BUILDER]
    try:
        for name in sorted(os.listdir(folder)):
            if not name.startswith(".") and not name.endswith(("~", ".md")):
                with open(os.path.join(folder, name), encoding="utf-8") as file:
                    parts += (name, file.read())
    except (OSError, UnicodeDecodeError) as error:
        raise _no_recipe(folder) from error
    if NAME not in parts:
        raise _no_recipe(folder)
    return key_of(*parts)


def _no_recipe(folder: str) -> InputError:
    return InputError(
        "is no folder with a recipe",
        where=folder,
        remedy=f"name one that holds {NAME} and the files it needs",
    )


def _line(parts: Parts) -> str:
    with open(parts[ABOUT], encoding="utf-8") as file:
        return file.read().strip()


def _make(folder: str, cache: Cache, progress: Progress | None, *, yes: bool, again: bool) -> Parts:
    # Who builds can wait for what building imports.
    from pykvm.boot.apt import Apt
    from pykvm.guests import initramfs, linux
    from pykvm.guests.table import read
    from pykvm.progress import Progress

    recipe = read(os.path.join(folder, NAME))
    kind = recipe.choice("kind", ("kernel", "initramfs"))
    progress = progress or Progress()
    apt = Apt(cache, progress)
    maker = linux.Kernel(recipe, folder) if kind == "kernel" else initramfs.Initramfs(recipe, folder)
    recipe.done()

    def fill(work: str) -> Parts:
        if again:
            apt.refresh()
            kept = cache.parts(key(folder))
            newest = apt.get(maker.package)
            if kept and _line(kept) == f"{newest.name} {newest.version}":
                return {part: _copy(path, work, part) for part, path in kept.items()}
        maker.prepare(yes=yes, progress=progress)
        made, package = maker.make(work, apt, cache, progress)
        line = os.path.join(work, ABOUT)
        with open(line, "w", encoding="utf-8") as file:
            file.write(f"{package.name} {package.version}\n")
        return {MADE: made, ABOUT: line}

    try:
        return cache.make(key(folder), fill, 0, again=again, what=_title(folder))
    finally:
        progress.end()


def _title(folder: str) -> str:
    """``linux/kernel`` for the folder of that recipe."""
    return "/".join(os.path.abspath(folder).split(os.sep)[-2:])


def _copy(path: str, work: str, part: str) -> str:
    copy = os.path.join(work, part)
    with open(path, "rb") as old, open(copy, "wb") as new:
        while chunk := old.read(1 << 20):
            new.write(chunk)
    return copy
