"""A first root file system from a package's files and the recipe's own."""

from __future__ import annotations

import os

from pykvm.boot.apt import files_in
from pykvm.boot.cpio import Archive
from pykvm.errors import HostError, InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.boot.apt import Apt, Package
    from pykvm.cache import Cache
    from pykvm.guests.table import Table
    from pykvm.progress import Progress


class Initramfs:
    """Makes the archive that ``recipe`` (kind "initramfs") describes."""

    def __init__(self, recipe: Table, folder: str) -> None:
        self._folder = folder
        self.package = recipe.text("package")
        self._directories = recipe.texts("directories")
        self._from_package = recipe.pairs("from_package")
        self._files = recipe.pairs("files")
        self._links = recipe.pairs("links")
        self._devices = recipe.devices("devices")

    def prepare(self, *, yes: bool, progress: Progress) -> None:
        """An archive needs no tool but apt and dpkg."""

    def make(self, work: str, apt: Apt, cache: Cache, progress: Progress) -> tuple[str, Package]:
        """Write the archive into the folder ``work``; its path, and the package that went into it."""

        def choose() -> Package:
            package = apt.get(self.package)
            cache.ask_for_room(package.size + 2 * package.unpacked)
            return package

        package, deb = apt.fetch(choose, work)
        progress.step("making the initramfs")
        wanted = set(self._from_package.values())
        contents = {path: content.read() for path, _, content in files_in(deb) if path in wanted}
        missing = wanted - contents.keys()
        if missing:
            raise HostError(
                f"has no {min(missing)}",
                where=f"{package.name} {package.version}",
                remedy="change the recipe",
            )
        made = os.path.join(work, "initramfs.cpio")
        with open(made, "wb") as out:
            archive = Archive(out)
            for path in self._directories:
                archive.directory(path)
            for path, (major, minor) in self._devices.items():
                archive.character_device(path, major, minor)
            for path, source in self._from_package.items():
                archive.file(path, contents[source], 0o755)
            for path, target in self._links.items():
                archive.link(path, target)
            for path, name in self._files.items():
                archive.file(path, self._read(name), 0o755)
            archive.close()
        return made, package

    def _read(self, name: str) -> bytes:
        path = os.path.join(self._folder, name)
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise InputError(
                (error.strerror or "").lower(), where=path, remedy="change the recipe"
            ) from error
