"""Kernels out of Debian's packages: ``kernel.image: debian:PACKAGE``.

PACKAGE is the name of a kernel package or of one that depends on the newest (``linux-image-cloud-amd64``),
or such a name cut short: ``linux-image-6.12-cloud`` is the newest kernel of series 6.12 and flavour cloud,
``linux-image-6.12`` that of the generic flavour. Debian signs some builds; where a version is there both
signed and "-unsigned" the images differ in their signature only, and the signed one is taken. Debian's
flavours 686 and 686-pae are kernels for i386, whose lists apt is asked for apart.

What a name stands for is decided once, when its kernel is fetched; from then on the cache has it, and
neither network nor apt is asked until ``update``.
"""

from __future__ import annotations

import os

from pykvm.cache import Cache, key_of
from pykvm.errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.boot.apt import Apt, Package
    from pykvm.cache.store import Parts
    from pykvm.progress import Progress

PREFIX = "linux-image-"
UNSIGNED = "-unsigned"
AMD64, I386 = "amd64", "i386"
#: How the flavours end that are i386's, the longer first.
FLAVOURS_OF_I386 = ("rt-686-pae", "686-pae", "686")
#: How many metapackages may stand one behind the other.
LONGEST_CHAIN = 4

#: Parts of a cached kernel: the image, the configuration it was built with, and one line about it.
IMAGE = "vmlinuz"
CONFIG = "config"
ABOUT = "about"


def kernel(name: str, cache: Cache | None = None, progress: Progress | None = None) -> str:
    """The path of the kernel image that ``debian:name`` stands for, fetched if that wasn't done yet.

    Raises InputError for a name that can't be a kernel's, HostError where the host lacks something.
    """
    cache = cache or Cache()
    kept = cache.parts(_key(name))
    return (kept or _fetch(name, cache, progress, again=False))[IMAGE]


def update(name: str, cache: Cache | None = None, progress: Progress | None = None) -> str:
    """Look for a newer kernel under this name, in package lists fetched anew; returns the line about it."""
    return _about(_fetch(name, cache or Cache(), progress, again=True))


def about(name: str, cache: Cache) -> str | None:
    """Package, version and hash of the kernel that the cache has under this name."""
    kept = cache.parts(_key(name))
    return _about(kept) if kept else None


def remove(name: str, cache: Cache) -> bool:
    """Forget the kernel that the cache has under this name."""
    return cache.remove(_key(name))


def _key(name: str) -> str:
    return key_of("a kernel from Debian", name)


def _about(parts: Parts) -> str:
    with open(parts[ABOUT], encoding="utf-8") as file:
        return file.read().strip()


def _fetch(name: str, cache: Cache, progress: Progress | None, *, again: bool) -> Parts:
    from pykvm.boot.apt import LISTS_SIZE, Apt, files_in  # these load subprocess and tarfile
    from pykvm.progress import Progress, size_of

    _check(name)
    progress = progress or Progress()
    architecture = architecture_of(name)
    apt = Apt(cache, progress, architecture if architecture != AMD64 else "")

    def fill(folder: str) -> Parts:
        if again:
            apt.refresh()
        kept = cache.parts(_key(name))
        if kept and _about(kept) == _line(_resolve(name, apt)):
            return _copies(kept, folder)
        package, deb = apt.fetch(choose, folder)
        parts = _write(ABOUT, folder, _line(package).encode() + b"\n")
        for path, _, content in files_in(deb):
            part = _part_of(path)
            if part:
                parts |= _write(part, folder, content.read())
            if IMAGE in parts and CONFIG in parts:
                break
        if IMAGE not in parts:
            raise InputError("has no kernel image in it", where=package.name, remedy="name another package")
        return parts

    def choose() -> Package:
        package = _resolve(name, apt)
        cache.ask_for_room(2 * package.size)
        progress.note(f"debian:{name} is {package.name} {package.version}, {size_of(package.size)} to fetch")
        return package

    try:
        return cache.make(_key(name), fill, LISTS_SIZE, again=again, what=f"debian:{name}")
    finally:
        progress.end()


def _part_of(path: str) -> str | None:
    folder, _, file = path.rpartition("/")
    if folder == "boot" and file.startswith("config-"):
        return CONFIG
    if folder == "boot" and file.startswith("vmlinuz-"):
        return IMAGE
    if file == "vmlinuz" and folder.startswith(("lib/modules/", "usr/lib/modules/")):
        return IMAGE
    return None


def _line(package: Package) -> str:
    return f"{package.name} {package.version} {package.sha256}"


def _write(part: str, folder: str, content: bytes) -> Parts:
    path = os.path.join(folder, part)
    with open(path, "wb") as file:
        file.write(content)
    return {part: path}


def _copies(parts: Parts, folder: str) -> Parts:
    copies: Parts = {}
    for part, path in parts.items():
        with open(path, "rb") as file:
            copies |= _write(part, folder, file.read())
    return copies


def _check(name: str) -> None:
    # Debian Policy 5.6.1: what a package's name may consist of.
    if not name.startswith(PREFIX) or not all(
        c.isascii() and (c.islower() or c in "0123456789+-.") for c in name
    ):
        raise InputError(
            "is no name of a kernel package",
            where=f"debian:{name}",
            remedy="write debian:linux-image-cloud-amd64, debian:linux-image-6.12-cloud or "
            "debian:linux-image-686-pae",
        )


def _resolve(name: str, apt: Apt) -> Package:
    """The package with the kernel that ``name`` stands for. Raises HostError where there is none."""
    found = _look_up(name, apt)
    if found is None and not apt.fresh:
        apt.refresh()
        found = _look_up(name, apt)
    if found is None:
        raise apt.unknown(name)
    return found


def _look_up(name: str, apt: Apt) -> Package | None:
    from pykvm.boot.apt import newest

    for _ in range(LONGEST_CHAIN):
        package = apt.find([name]).get(name)
        if package is None:
            break
        follow = _depends_on_a_kernel(package)
        if follow is None:
            return package
        name = follow
    fitting = sorted(it for it in apt.names(PREFIX) if fits(it, name))
    kernels = [it for it in apt.find(fitting).values() if not _depends_on_a_kernel(it)] if fitting else []
    # Of equal versions, the signed package comes first: its name is the beginning of the other's.
    return newest(sorted(kernels, key=lambda it: it.name)) if kernels else None


def _depends_on_a_kernel(package: Package) -> str | None:
    return next((it for it in package.depends if it.startswith(PREFIX)), None)


def architecture_of(name: str) -> str:
    """The architecture of the kernel package ``name``, as Debian calls it."""
    return I386 if name.removesuffix(UNSIGNED).endswith(("-686", "-686-pae")) else AMD64


def fits(package: str, wanted: str) -> bool:
    """Whether ``package`` is a kernel of the series and flavour that ``wanted`` names."""
    release, flavour = _release_and_flavour(package)
    series, wanted_flavour = _release_and_flavour(wanted)
    architecture = architecture_of(package)
    if architecture != architecture_of(wanted) or flavour != wanted_flavour:
        return False
    if architecture == AMD64 and not package.removesuffix(UNSIGNED).endswith("-" + AMD64):
        return False
    return release[:1].isdigit() and (
        release == series or not series or release.startswith((series + ".", series + "-", series + "+"))
    )


def _release_and_flavour(name: str) -> tuple[str, str]:
    """``linux-image-6.12.117+deb12-cloud-amd64-unsigned`` is ("6.12.117+deb12", "cloud")."""
    rest = name.removeprefix(PREFIX).removesuffix(UNSIGNED)
    for flavour in FLAVOURS_OF_I386:
        if rest == flavour or rest.endswith("-" + flavour):
            return rest.removesuffix(flavour).removesuffix("-"), flavour
    rest = rest.removesuffix(AMD64).removesuffix("-")
    release, _, flavour = rest.rpartition("-")
    if flavour.isalpha():
        return release, flavour
    return rest, ""
