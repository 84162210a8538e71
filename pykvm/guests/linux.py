"""A Linux kernel from the source that Debian ships as a package: unpack, configure, make."""

from __future__ import annotations

import os
import shlex
import subprocess
import tarfile
from collections import deque
from threading import Thread

from pykvm.boot.apt import files_in
from pykvm.errors import HostError, InputError
from pykvm.guests import tools
from pykvm.libc.processes import running
from pykvm.progress import size_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO

    from pykvm.boot.apt import Apt, Package
    from pykvm.cache import Cache
    from pykvm.guests.table import Table
    from pykvm.progress import Progress

#: What make prints last, that an error shows.
LAST_LINES = 12
CHUNK = 1 << 18

# Who built it, where and when is in a kernel's version; so that the same source makes the same kernel:
BUILT_BY = {
    "KBUILD_BUILD_USER": "pykvm",
    "KBUILD_BUILD_HOST": "pykvm",
    "KBUILD_BUILD_TIMESTAMP": "1970-01-01 00:00 UTC",
}


class Kernel:
    """Makes the bzImage that ``recipe`` (kind "kernel") describes."""

    def __init__(self, recipe: Table, folder: str) -> None:
        self.package = recipe.text("package")
        self._tarball = recipe.text("tarball")
        self._config = os.path.join(os.path.abspath(folder), recipe.text("config"))
        self._disk = recipe.size("disk")
        self._lines = recipe.number("lines")
        self._everywhere = tuple(recipe.texts("everywhere"))
        self._folders = frozenset(recipe.texts("folders"))
        self._flat = frozenset(recipe.texts("flat"))
        self._tools = recipe.pairs("tools")

    def prepare(self, *, yes: bool, progress: Progress) -> None:
        """See that the build tools are there, before anything is fetched."""
        tools.require(self._tools, yes=yes, progress=progress)

    def make(self, work: str, apt: Apt, cache: Cache, progress: Progress) -> tuple[str, Package]:
        """Build in the folder ``work``; the image's path, and the package that went into it."""

        def choose() -> Package:
            package = apt.get(self.package)
            progress.note(
                f"building a kernel from {package.name} {package.version}: {size_of(package.size)} to fetch, "
                f"{size_of(package.size + self._disk)} of disk in {cache.folder} until it is done"
            )
            cache.ask_for_room(package.size + self._disk)
            return package

        package, deb = apt.fetch(choose, work)
        source = os.path.join(work, "source")
        os.mkdir(source)
        progress.step("unpacking the source")
        self._unpack_source(deb, source, progress)
        os.unlink(deb)
        log = os.path.join(cache.folder, f"{package.name}.log")
        with open(log, "w", encoding="utf-8") as output:
            progress.step("configuring the kernel")
            _make(["allnoconfig", f"KCONFIG_ALLCONFIG={self._config}"], source, output)
            self._check_config(os.path.join(source, ".config"))
            progress.step("building the kernel")
            jobs = len(os.sched_getaffinity(0))
            _make([f"-j{jobs}", "bzImage"], source, output, lambda done: progress.at(done, self._lines))
        os.unlink(log)
        return os.path.join(source, "arch/x86/boot/bzImage"), package

    def _unpack_source(self, deb: str, source: str, progress: Progress) -> None:
        for path, size, content in files_in(deb):
            if path == self._tarball:
                self._unpack_tarball(content, size, source, progress)
                return
        raise HostError(f"has no {self._tarball}", where=self.package, remedy="change the recipe")

    def _unpack_tarball(self, content: IO[bytes], size: int, source: str, progress: Progress) -> None:
        """Through xz (on all cores); what the recipe names is written below ``source``."""
        with subprocess.Popen(["xz", "-dc", "-T0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as xz:
            assert xz.stdin is not None and xz.stdout is not None
            feeder = Thread(target=_feed, args=(content, xz.stdin, lambda done: progress.at(done, size)))
            feeder.start()
            try:
                with tarfile.open(fileobj=xz.stdout, mode="r|", bufsize=CHUNK) as archive:
                    for member in archive:
                        path = member.name.partition("/")[2]
                        if self._is_wanted(path):
                            _write(archive, member, os.path.join(source, path))
            except tarfile.TarError as error:
                raise HostError(
                    f"is damaged: {error}", where=self._tarball, remedy="try again; xz may have said why"
                ) from error
            finally:
                xz.stdout.close()
                feeder.join()

    def _is_wanted(self, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        if name.startswith(self._everywhere) or (folder or ".") in self._flat:
            return ".." not in path
        while folder and folder not in self._folders:
            folder = folder.rpartition("/")[0]
        return bool(folder) and ".." not in path

    def _check_config(self, made: str) -> None:
        """Every line of the recipe's configuration has to be in the kernel's: a symbol that was renamed, or
        lacks what it depends on, would be left out without a word."""
        with open(made, encoding="utf-8") as file:
            taken = {line.strip() for line in file}
        with open(self._config, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.startswith("CONFIG_") and line.strip() not in taken:
                    raise InputError(
                        f"this kernel doesn't take {line.strip()}",
                        where=f"{self._config}:{number}",
                        remedy="its name or what it depends on is another one in this version",
                    )


def _feed(content: IO[bytes], pipe: IO[bytes], at: Callable[[int], None]) -> None:
    """Copy ``content`` into ``pipe``, as far as anybody reads it; ``at(bytes)`` counts them."""
    done = 0
    try:
        with pipe:
            while chunk := content.read(CHUNK):
                pipe.write(chunk)
                done += len(chunk)
                at(done)
    except BrokenPipeError:
        return


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
    """A file or a link of the archive at ``path``; its folder is made before it."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if member.issym():
        os.symlink(member.linkname, path)
    elif member.isreg():
        content = archive.extractfile(member)
        assert content is not None
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, member.mode & 0o777), "wb") as file:
            file.write(content.read())


def _make(
    words: list[str], source: str, output: IO[str], at: Callable[[int], None] = lambda done: None
) -> None:
    """Run make in ``source``, its messages to ``output``; ``at(lines)`` counts them.

    Raises HostError with the last of them where it fails.
    """
    # Nothing of the user's own builds (MAKEFLAGS, ARCH, CROSS_COMPILE, KBUILD_…) may change this one.
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", **BUILT_BY}
    command = ["make", "ARCH=x86_64", *words]
    last: deque[str] = deque(maxlen=LAST_LINES)
    with running(
        command,
        session=True,  # with its compilers: what they write is going away
        cwd=source,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as make:
        assert make.stdout is not None
        for count, line in enumerate(make.stdout, 1):
            output.write(line)
            last.append(line.rstrip())
            at(count)
    if make.returncode:
        output.flush()
        lines = "\n".join(f"  {line}" for line in last)
        raise HostError(
            f"failed with status {make.returncode}",
            where=shlex.join(command),
            remedy=f"all its messages are in {output.name}, the last of them:\n{lines}",
        )
