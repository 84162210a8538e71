"""A file that is there whole or not at all, and nothing beside it, whatever ends its writer, and when.

Until it is whole the file has no name (open(2), O_TMPFILE), so the kernel drops it with its process. Linux
can give it a name that is free (linkat(2)), not one that is taken: there it is called ``.NAME.pykvm-new``
from one system call to the next, rename(2). Who is killed between the two leaves that, and ``require_room``
and ``replace`` remove it the next time. On a file system without O_TMPFILE (NFS, FAT), the file has a name
with the process's number in it while it is being written. Where the folder is closed to us, or the file is
a mount of its own, as containers have them, nothing can take the file's place: there it is written to itself.
"""

from __future__ import annotations

import os
import stat
from errno import EACCES, EBUSY, EISDIR, ENOENT, EOPNOTSUPP, EPERM, EROFS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

UNNAMED_REFUSED = (EOPNOTSUPP, EISDIR, ENOENT, EPERM)
"""open(2) on O_TMPFILE: not this file system; EISDIR, ENOENT: a kernel that doesn't know the flag.

ENOENT, and from ext4 EPERM, may be the folder's, which is gone: the other way says so.
"""

FIXED = (EACCES, EBUSY, EPERM, EROFS)
"""open(2) and rename(2): nothing new in this folder; not in the place of a mount, nor of another's file."""


def require_room(path: str) -> None:
    """Raise the OSError that ``replace`` would; leaves nothing, and writes nothing to ``path``."""
    try:
        _require_place(path)
    except OSError as error:
        if error.errno not in FIXED or not _is_writable(path):
            raise


def replace(path: str, content: bytes) -> None:
    """Have a file of ``content`` at ``path``, and on the disk; raises OSError.

    It is a new one, its mode 0666 less the umask; what was there, a symbolic link too, is gone.
    """
    try:
        _replace(path, content)
    except OSError as error:
        if error.errno not in FIXED or not _is_writable(path):
            raise
        flags = os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(path, flags), "wb") as file:
            _fill(file, content)


def _is_writable(path: str) -> bool:
    return os.path.isfile(path) and not os.path.islink(path) and os.access(path, os.W_OK)


def _require_place(path: str) -> None:
    fd = _unnamed(path)
    if fd is not None:
        os.close(fd)
        _remove(_spare(path))  # also tells a name that is too long
        _require_no_others(path)
        return
    temporary = _temporary(path)
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    os.unlink(temporary)


def _replace(path: str, content: bytes) -> None:
    fd = _unnamed(path)
    if fd is not None:
        with open(fd, "wb") as file:
            _fill(file, content)
            if _give_name(fd, path):
                return
    temporary = _temporary(path)
    try:
        with open(temporary, "wb") as file:
            _fill(file, content)
        os.replace(temporary, path)
    finally:
        _remove(temporary)


def _require_no_others(path: str) -> None:
    """Raise PermissionError where another's file is in a folder like /tmp: inode(7), the sticky bit."""
    folder = os.stat(os.path.dirname(path) or ".")
    if not folder.st_mode & stat.S_ISVTX or not os.path.lexists(path):
        return
    if os.geteuid() not in (0, folder.st_uid, os.lstat(path).st_uid):
        raise PermissionError(EPERM, os.strerror(EPERM))


def _unnamed(path: str) -> int | None:
    """A new file in the folder of ``path``; None where the file system has no files without a name."""
    try:
        return os.open(os.path.dirname(path) or ".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in UNNAMED_REFUSED:
            return None
        raise


def _fill(file: BinaryIO, content: bytes) -> None:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


def _give_name(fd: int, path: str) -> bool:
    """Call the unnamed file ``path``; False where that failed, and the other way may do or say why."""
    try:
        try:
            _link(fd, path)
        except FileExistsError:
            spare = _spare(path)
            _remove(spare)
            try:
                _link(fd, spare)
                os.rename(spare, path)
            except BaseException:
                _remove(spare)
                raise
    except OSError:  # no links there, no /proc; or another process writes the same file in this moment
        return False
    return True


def _link(fd: int, name: str) -> None:
    # Python follows the link in /proc only where it calls linkat, which it does for a directory's descriptor;
    # to an absolute path it doesn't matter which one.
    os.link(f"/proc/self/fd/{fd}", name, src_dir_fd=fd, follow_symlinks=True)


def _spare(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.pykvm-new")


def _temporary(path: str) -> str:
    return f"{path}.{os.getpid()}.tmp"


def _remove(name: str) -> None:
    try:
        os.unlink(name)
    except FileNotFoundError:
        pass
