"""The cache folder and what may happen to it: two writers, a crash at any time, a full disk, damage.

::

    entries/KEY        a record: its own check, then one line a part, "SHA256 SIZE NAME"
    data/SHA256        the parts' contents, each under its own hash
    work/KEY.PID       what is being made just now
    locks/KEY          held while KEY is being made, kept as long as it is; locks/commit while records change

A part is written in ``work``, flushed to the disk and renamed to its place in ``data``; the record,
written the same way, comes last. So a crash leaves the old record or the new one, and each names
whole files. A reader takes no lock, and doesn't read contents either: a part's size is in the record,
and its time of change was set back to 1970, so that whoever writes to it gives himself away. Then, or
when the folder was copied, the content decides; a part that isn't what its name says is missing, and
who makes the entry again puts it right.
"""

from __future__ import annotations

import os
from errno import EDQUOT, ENOSPC

from pykvm.cache.digest import key_of, sha256_of_file
from pykvm.cache.lock import FileLock, held
from pykvm.errors import HostError, InternalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    #: Part name → path of its content.
    Parts = dict[str, str]
    #: What a record says of each part: SHA-256, size in bytes, name.
    Record = list[tuple[str, int, str]]

#: The name of the only part of an entry that ``put`` has made.
WHOLE = "whole"

#: The name of the lock on all records.
COMMIT = "commit"

#: Room that is left on the disk beside what an entry needs, for records and for everybody else.
MARGIN = 16 << 20

_SAFE = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._+-")


class Cache:
    """The cache in ``folder``; by default $PYKVM_CACHE, $XDG_CACHE_HOME/pykvm or ~/.cache/pykvm.

    Nothing is created before the first entry is made. What the host refuses (no permission, no room)
    is a HostError.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder or default_folder()

    def get(self, key: str) -> str | None:
        """The path of the file kept under ``key``, or None where there is none or it is damaged."""
        parts = self.parts(key)
        return None if parts is None else parts.get(WHOLE)

    def put(self, key: str, write: Callable[[BinaryIO], None], size_hint: int) -> str:
        """The path of the file kept under ``key``, which ``write(file)`` fills if there is none yet.

        ``size_hint`` is how many bytes that will be at most, to ask for the room beforehand.
        """

        def fill(folder: str) -> Parts:
            path = os.path.join(folder, WHOLE)
            with open(path, "wb") as file:
                write(file)
            return {WHOLE: path}

        return self.make(key, fill, size_hint)[WHOLE]

    def parts(self, key: str, *, thorough: bool = False) -> Parts | None:
        """The parts kept under ``key``, or None where there are none or one of them is damaged.

        ``thorough`` reads them all: a disk that forgets leaves sizes and times as they were.
        """
        record = self._read_record(key)
        if not record or not all(self._is_whole(digest, size, thorough) for digest, size, _ in record):
            return None
        return {name: self._path("data", digest) for digest, _, name in record}

    def make(
        self, key: str, fill: Callable[[str], Parts], needs: int, *, again: bool = False, what: str = ""
    ) -> Parts:
        """The parts kept under ``key``; where there are none, or with ``again``, make them.

        ``fill(folder)`` gets an empty folder to work in and returns the parts by name, each a file in
        that folder; the folder goes away afterwards, whatever happens. ``needs`` is the room on the
        disk, in bytes, that it takes meanwhile. While another process makes the same entry, this one
        waits (and says so at a terminal, naming ``what``) and then takes what that one has made.
        """
        self._check_key(key)
        with refusals_of_the_host(self.folder):
            for name in ("entries", "data", "work", "locks"):
                os.makedirs(os.path.join(self.folder, name), exist_ok=True)
            with self._lock(key, what) as lock:
                if (lock.waited or not again) and (kept := self.parts(key)) is not None:
                    return kept
                self._sweep(key)
                self.ask_for_room(needs)
                return self._make(key, fill)

    def remove(self, key: str, *, what: str = "") -> bool:
        """Forget the entry of ``key``; False if there is none."""
        self._check_key(key)
        if not os.path.exists(self._path("entries", key)):
            return False
        with refusals_of_the_host(self.folder), self._lock(key, what):
            self._sweep(key)
            with FileLock(self._path("locks", COMMIT)):
                os.unlink(self._path("entries", key))
                self._drop_unnamed_data()
        return True

    def ask_for_room(self, needs: int) -> None:
        """Raise HostError unless ``needs`` bytes are free on the disk of the cache folder."""
        disk = os.statvfs(self.folder)
        free = disk.f_bavail * disk.f_frsize
        if free < needs + MARGIN:
            from pykvm.progress import size_of

            raise HostError(
                f"{size_of(needs + MARGIN)} are needed on this disk, {size_of(free)} are free",
                where=self.folder,
                remedy="make room, or set PYKVM_CACHE to a folder on another disk",
            )

    def _make(self, key: str, fill: Callable[[str], Parts]) -> Parts:
        from shutil import rmtree  # imports the compressors; only who makes something needs it

        folder = self._path("work", f"{key}.{os.getpid()}")
        os.mkdir(folder)
        try:
            made = fill(folder)
            record: Record = []
            for name, path in made.items():
                _flush(path)
                os.utime(path, (0, 0))
                record.append((sha256_of_file(path), os.stat(path).st_size, name))
            with FileLock(self._path("locks", COMMIT)):
                for digest, _, name in record:
                    os.rename(made[name], self._path("data", digest))
                _flush(self._path("data"))
                self._write_record(key, folder, record)
                self._drop_unnamed_data()
        finally:
            rmtree(folder, ignore_errors=True)
        return {name: self._path("data", digest) for digest, _, name in record}

    def _write_record(self, key: str, folder: str, record: Record) -> None:
        path = os.path.join(folder, "record")
        with open(path, "w", encoding="utf-8") as file:
            lines = "".join(f"{digest} {size} {name}\n" for digest, size, name in record)
            file.write(f"{key_of(lines)}\n{lines}")
        _flush(path)
        os.rename(path, self._path("entries", key))
        _flush(self._path("entries"))

    def _read_record(self, key: str) -> Record:
        """What the record of ``key`` says; nothing where there is none, or one that makes no sense."""
        record: Record = []
        try:
            with open(self._path("entries", key), encoding="utf-8") as file:
                check, newline, lines = file.read().partition("\n")
                if " " in check:  # a record of the time before they had one
                    lines = check + newline + lines
                elif check != key_of(lines):
                    return []
                for line in lines.splitlines():
                    digest, size, name = line.split(" ", 2)
                    if not _SAFE.issuperset(digest):
                        return []
                    record.append((digest, int(size), name))
        except (OSError, ValueError):
            return []
        return record

    def _is_whole(self, digest: str, size: int, thorough: bool) -> bool:
        path = self._path("data", digest)
        try:
            status = os.stat(path)
            if status.st_size != size:
                return False
            if status.st_mtime_ns == 0 and not thorough:
                return True
            if sha256_of_file(path) != digest:
                return False
        except OSError:
            return False
        try:
            os.utime(path, (0, 0))
        except OSError:
            pass  # a cache that can only be read: its parts are looked at each time
        return True

    def _sweep(self, key: str) -> None:
        """Remove what processes that were killed have left: of ``key``, whose lock this one holds,
        and of every key that nobody holds."""
        from shutil import rmtree

        for name in os.listdir(self._path("work")):
            owner = name.rpartition(".")[0]
            if owner == key:
                rmtree(self._path("work", name), ignore_errors=True)
            elif self._path("locks", owner) not in held:  # this process's own locks wouldn't stop it
                lock = FileLock(self._path("locks", owner))
                if lock.acquire(wait=False):
                    rmtree(self._path("work", name), ignore_errors=True)
                    lock.release()
        self._sweep_locks()

    def _sweep_locks(self) -> None:
        """Remove the locks of keys that have no entry any more, or never had one."""
        kept = {COMMIT, *os.listdir(self._path("entries"))}
        for name in os.listdir(self._path("locks")):
            path = self._path("locks", name)
            if name in kept or path in held:
                continue
            lock = FileLock(path)
            try:
                if lock.acquire(wait=False):
                    lock.release(remove=True)
            except PermissionError:  # another user's, in a folder that is shared
                continue

    def _drop_unnamed_data(self) -> None:
        named = {
            digest for key in os.listdir(self._path("entries")) for digest, _, _ in self._read_record(key)
        }
        for digest in os.listdir(self._path("data")):
            if digest not in named:
                os.unlink(self._path("data", digest))

    def _lock(self, key: str, what: str) -> FileLock:
        def waiting(pid: str) -> None:
            from pykvm.progress import Progress  # only who waits has something to say

            Progress().note(f"pykvm: process {pid} is making {what or 'the same'} just now; waiting for it")

        return FileLock(self._path("locks", key), waiting)

    def _path(self, *names: str) -> str:
        return os.path.join(self.folder, *names)

    @staticmethod
    def _check_key(key: str) -> None:
        if not key or not _SAFE.issuperset(key) or key.startswith(".") or len(key) > 128:
            raise InternalError(f"{key!r} is no key of the cache")


def default_folder() -> str:
    """The user's cache folder for pykvm."""
    if own := os.environ.get("PYKVM_CACHE"):
        return os.path.abspath(own)
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    # XDG Base Directory Specification: a relative path in these variables is to be ignored.
    base = xdg if os.path.isabs(xdg) else os.path.expanduser("~/.cache")
    return os.path.join(base, "pykvm")


class refusals_of_the_host:
    """Turns an OSError about the cache folder into a HostError that says what to do."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError):
            return
        remedy = "set PYKVM_CACHE to a folder that can be written"
        if error.errno in (ENOSPC, EDQUOT):
            remedy = "make room, or set PYKVM_CACHE to a folder on another disk"
        where = error.filename if isinstance(error.filename, str) else self.folder
        raise HostError((error.strerror or str(error)).lower(), where=where, remedy=remedy) from error


def _flush(path: str) -> None:
    """Have a file's content, or a folder's names, on the disk before going on."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
