"""Packages as apt knows them: found, downloaded with their hash checked, read without being installed.

Nothing here needs root or changes the system: where the system's package lists don't know a package
(a bare machine has none) or are so old that the package is gone, private lists are fetched into the
cache folder, by apt with its own check of signatures.
"""

from __future__ import annotations

import os
import subprocess
import tarfile
from errno import ENOSPC
from functools import cmp_to_key

from pykvm.boot.versions import compare
from pykvm.cache import Cache, sha256_of_file
from pykvm.errors import HostError
from pykvm.frozen import frozen
from pykvm.libc.processes import running
from pykvm.progress import Progress, size_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import IO

#: Room for private lists: Debian's own take this much, unpacked and packed.
LISTS_SIZE = 100_000_000

NO_APT = "without apt, give a kernel image of your own: --kernel PATH"


@frozen
class Package:
    """A version of a package; ``size`` (of the download) and ``unpacked`` in bytes."""

    name: str
    version: str
    sha256: str
    size: int
    unpacked: int
    depends: tuple[str, ...]


class Apt:
    """apt with the system's package lists or, from ``refresh()`` on, with private ones.

    For an ``architecture`` (as Debian calls it) other than the system's all lists are private.
    """

    def __init__(self, cache: Cache, progress: Progress, architecture: str = "") -> None:
        self._cache = cache
        self._progress = progress
        self._architecture = architecture
        self._options: tuple[str, ...] = self._private() if architecture else ()
        #: Whether the lists have been fetched just now.
        self.fresh = False
        self._failure: HostError | None = None

    def find(self, names: Iterable[str]) -> dict[str, Package]:
        """The newest version of each of these packages that apt knows of."""
        found: dict[str, Package] = {}
        result = self._run("apt-cache", "show", *names)
        for stanza in result.stdout.split("\n\n"):
            package = _package_of(stanza)
            if package and (
                package.name not in found or compare(package.version, found[package.name].version) > 0
            ):
                found[package.name] = package
        return found

    def names(self, prefix: str) -> list[str]:
        """The names of all packages that begin with ``prefix``."""
        return self._run("apt-cache", "pkgnames", prefix).stdout.split()

    def refresh(self) -> None:
        """Fetch the newest package lists into the cache folder and use them from now on.

        One source that fails is no harm as long as another has the package; what it said is kept for
        ``unknown()``. Raises HostError where none gave a list.
        """
        self._options = self._private()
        folder = self._folder()
        for name in ("lists/partial", "cache/archives/partial"):
            os.makedirs(os.path.join(folder, name), exist_ok=True)
        self._cache.ask_for_room(LISTS_SIZE)
        self._progress.step("fetching the lists of packages")
        try:
            self._get("update", folder=folder)
        except HostError as error:
            if not any("_Packages" in name for name in os.listdir(os.path.join(folder, "lists"))):
                raise
            self._failure = error
        self.fresh = True

    def _folder(self) -> str:
        return os.path.join(self._cache.folder, f"apt-{self._architecture}" if self._architecture else "apt")

    def _private(self) -> tuple[str, ...]:
        """Options for lists in the cache folder."""
        folder = self._folder()
        options = (
            f"-oDir::State::Lists={folder}/lists",
            f"-oDir::Cache={folder}/cache",
            "-oDir::State::Status=/var/lib/dpkg/status",
            "-oDebug::NoLocking=true",
            # Root's apt would fetch as user _apt, who may not write into root's cache folder.
            "-oAPT::Sandbox::User=root",
        )
        if not self._architecture:
            return options
        return (
            *options,
            f"-oAPT::Architecture={self._architecture}",
            f"-oAPT::Architectures::={self._architecture}",
        )

    def get(self, name: str) -> Package:
        """The newest version of ``name``; new lists are fetched where it isn't known. Raises HostError."""
        found = self.find([name])
        if not found and not self.fresh:
            self.refresh()
            found = self.find([name])
        if not found:
            raise self.unknown(name)
        return found[name]

    def unknown(self, name: str) -> HostError:
        """The error for a package that apt doesn't know of."""
        if self._failure is not None:
            return self._failure
        return HostError(
            "apt knows no such package",
            where=name,
            remedy="is the network up, and does /etc/apt name its suite (such as bookworm-security)?",
        )

    def fetch(self, choose: Callable[[], Package], folder: str) -> tuple[Package, str]:
        """Download the package that ``choose()`` finds; returns it and the path of its .deb.

        An archive keeps a version only until the next one is there, so where it can't be downloaded,
        new lists are fetched and ``choose()`` is asked once more. Raises HostError.
        """
        package = choose()
        try:
            return package, self._download(package, folder)
        except HostError:
            if self.fresh:
                raise
        self.refresh()
        package = choose()
        return package, self._download(package, folder)

    def _download(self, package: Package, folder: str) -> str:
        self._progress.step(f"fetching {package.name} ({size_of(package.size)})")
        self._get("download", f"{package.name}={package.version}", folder=folder)
        for name in os.listdir(folder):
            if name.startswith(f"{package.name}_") and name.endswith(".deb"):
                path = os.path.join(folder, name)
                if sha256_of_file(path) != package.sha256:
                    raise HostError(
                        "the downloaded package is not the one that apt's lists name",
                        where=f"{package.name} {package.version}",
                        remedy="try again; if it stays so, look at the mirror in /etc/apt/sources.list",
                    )
                return path
        raise HostError("apt has downloaded nothing", where=package.name, remedy="try again")

    def _get(self, *words: str, folder: str) -> None:
        """Run apt-get in ``folder``, with its progress shown. Raises HostError with apt's own last words."""
        reader, writer = os.pipe()
        command = ["apt-get", "-q", f"-oAPT::Status-Fd={writer}", *self._options, *words]
        log = os.path.join(folder, "apt.log")
        with open(log, "w+b") as output:
            try:
                with running(
                    command,
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(writer,),
                    env=_environment(),
                ) as process:
                    os.close(writer)
                    writer = -1
                    self._follow(reader)
            except FileNotFoundError:
                raise _no_apt("apt-get") from None
            finally:
                for fd in (reader, writer):
                    if fd >= 0:
                        os.close(fd)
            if process.returncode:
                output.seek(0)
                said = output.read().decode(errors="replace")
                reasons = [line[3:] for line in said.splitlines() if line.startswith("E: ")]
                full = os.strerror(ENOSPC) in said
                raise HostError(
                    reasons[0] if reasons else f"it ended with status {process.returncode}",
                    where=f"apt-get {words[0]}",
                    remedy="make room on the disk"
                    if full
                    else "is the network up, and are its sources right?",
                )

    def _follow(self, reader: int) -> None:
        """Show the progress that apt tells on its status descriptor, until it ends."""
        with open(reader, encoding="utf-8", errors="replace", closefd=False) as status:
            for line in status:  # dlstatus:1:42.5:Retrieving file 1 of 1 (5s remaining)
                fields = line.split(":")
                if fields[0] == "dlstatus" and len(fields) > 2:
                    self._progress.at(_number(fields[2]), 100)

    def _run(self, program: str, *words: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [program, *self._options, *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                env=_environment(),
            )
        except FileNotFoundError:
            raise _no_apt(program) from None


def files_in(deb: str) -> Iterator[tuple[str, int, IO[bytes]]]:
    """The regular files of a .deb in its own order: path (relative), size in bytes, content to read."""
    command = ["dpkg-deb", "--fsys-tarfile", deb]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        raise _no_apt("dpkg-deb") from None
    assert process.stdout is not None
    with process:
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|", bufsize=1 << 18) as archive:
                for member in archive:
                    content = archive.extractfile(member) if member.isreg() else None
                    if content is not None:
                        yield member.name.removeprefix("./"), member.size, content
        except tarfile.TarError as error:
            raise HostError(f"is damaged: {error}", where=deb, remedy="try again") from error
        finally:
            process.stdout.close()  # who has seen enough leaves dpkg-deb with a broken pipe


def newest(packages: Iterable[Package]) -> Package:
    """The package with the highest version; of several, the first."""

    def order(a: Package, b: Package) -> int:
        return compare(a.version, b.version)

    return max(packages, key=cmp_to_key(order))


def _package_of(stanza: str) -> Package | None:
    """The package that a stanza of apt-cache show describes, or None where it lacks what one must have."""
    fields: dict[str, str] = {}
    for line in stanza.splitlines():
        if line and not line[0].isspace():
            name, _, value = line.partition(":")
            fields[name] = value.strip()
    try:
        return Package(
            name=fields["Package"],
            version=fields["Version"],
            sha256=fields["SHA256"],
            size=int(fields["Size"]),
            unpacked=int(fields.get("Installed-Size", "0")) * 1024,
            depends=tuple(
                first.split()[0] for first in fields.get("Depends", "").split(",") if first.strip()
            ),
        )
    except (KeyError, ValueError):
        return None


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C.UTF-8"}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _no_apt(program: str) -> HostError:
    return HostError("is not on this host", where=program, remedy=NO_APT)
