"""``pykvm guests``: what ships with pykvm, and what of it is built."""

from __future__ import annotations

import os

from pykvm.cache import Cache
from pykvm.cli.options import Parser
from pykvm.cli.output import show
from pykvm.config import load
from pykvm.errors import UsageError
from pykvm.guests import find, names
from pykvm.guests.kernels import DEBIAN, RECIPE, resolve
from pykvm.progress import Progress, size_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pykvm.config.model import KernelConfig


def run(arguments: Sequence[str]) -> int:
    """List, build, remove or update; the exit status."""
    parser = Parser(prog="pykvm guests", description="The guests that ship with pykvm.")
    verbs = parser.add_subparsers(dest="verb", metavar="[list | build | remove | update]")
    verbs.add_parser("list", help="every guest, and whether what it needs is there (the default)")
    for verb, text in (
        ("build", "fetch and build what the guest needs, as its first boot would"),
        ("remove", "take what was fetched and built for it out of the cache"),
        ("update", "look for newer packages, and build again what they change"),
    ):
        of_guest = verbs.add_parser(verb, help=text)
        of_guest.add_argument("name", metavar="NAME")
        if verb != "remove":
            of_guest.add_argument(
                "--yes", action="store_true", help="as root: install missing build tools without asking"
            )
    given = parser.parse_args(arguments)
    if given.verb in (None, "list"):
        return _list()
    kernel = _kernel(given.name)
    progress = Progress(notes_in_pipes=True)
    if given.verb == "remove":
        return _remove(given.name, kernel)
    if given.verb == "update":
        return _update(given.name, kernel, progress, yes=given.yes)
    made = resolve(kernel, progress, yes=given.yes)
    for path in (made.image, *made.initrd):
        show(path)
    return 0


def _list() -> int:
    cache = Cache()
    width = max(map(len, names()))
    for name in names():
        states = [_state(part, cache) for part in _made_parts(_kernel(name))]
        show(f"{name:{width}}  {'; '.join(states) or 'comes with pykvm'}")
    return 0


def _state(part: str, cache: Cache) -> str:
    """``linux-source-6.12 6.12.117-1, 3.1 MB``, or what has to be done first."""
    from pykvm.boot import debian
    from pykvm.guests import recipe

    if part.startswith(DEBIAN):
        package = part.removeprefix(DEBIAN)
        line = debian.about(package, cache)
        return " ".join(line.split()[:2]) if line else f"{package}: not fetched yet"
    folder = part.removeprefix(RECIPE)
    found = recipe.about(folder, cache, thorough=True)
    name = os.path.basename(folder)
    return f"{name}: {found[1]}, {size_of(os.path.getsize(found[0]))}" if found else f"{name}: not built yet"


def _remove(name: str, kernel: KernelConfig) -> int:
    from pykvm.boot import debian
    from pykvm.guests import recipe

    cache = Cache()
    removed = [
        debian.remove(part.removeprefix(DEBIAN), cache)
        if part.startswith(DEBIAN)
        else recipe.remove(part.removeprefix(RECIPE), cache)
        for part in _made_parts(kernel)
    ]
    show(f"{name}: removed" if any(removed) else f"{name}: nothing was there")
    return 0


def _update(name: str, kernel: KernelConfig, progress: Progress, *, yes: bool) -> int:
    from pykvm.boot import debian
    from pykvm.guests import recipe

    cache = Cache()
    for part in _made_parts(kernel):
        if part.startswith(DEBIAN):
            line = debian.update(part.removeprefix(DEBIAN), cache, progress)
        else:
            line = recipe.update(part.removeprefix(RECIPE), cache, progress, yes=yes)
        show(f"{name}: {' '.join(line.split()[:2])}")
    return 0


def _kernel(name: str) -> KernelConfig:
    folder = find(name)
    if folder is None:
        from difflib import get_close_matches  # late: only where something is wrong

        near = get_close_matches(name, names(), 1)
        remedy = f"did you mean {near[0]}?" if near else f"there are {', '.join(names())}"
        raise UsageError(f"'{name}' is no shipped guest", remedy=remedy)
    kernel = load(os.path.join(folder, "machine.yaml")).kernel
    assert kernel is not None  # a machine file without a kernel is an error
    return kernel


def _made_parts(kernel: KernelConfig) -> list[str]:
    """Of a kernel and its initial RAM disks, those that are fetched or built."""
    return [part for part in (kernel.image, *kernel.initrd) if part.startswith((DEBIAN, RECIPE))]
