"""The archive that Linux unpacks into its first root file system: cpio's "newc" format.

An archive says what a file is (also a device node) without such a file having to exist here, so it
takes no root to make one. Nothing in it depends on where and when it was made: same content, same bytes.

Linux takes several archives one after the other; a later one adds to the earlier ones, and replaces
files of the same name. Source: Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

from pykvm.errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

MAGIC = b"070701"
LAST_NAME = "TRAILER!!!"

#: c_mode: the kind of a file, above its twelve permission bits (<linux/stat.h>).
S_IFCHR = 0o020000
S_IFDIR = 0o040000
S_IFBLK = 0o060000
S_IFREG = 0o100000
S_IFLNK = 0o120000

#: A header's 13 numbers have eight hexadecimal digits each.
LARGEST = 0xFFFFFFFF


class Archive:
    """Writes an archive to ``out``, in the order of the calls; a folder has to come before its content.

    Paths are relative to the root (``bin/sh``). Everything belongs to root. Raises InputError for a
    path or a content that the format can't carry.
    """

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._size = 0
        self._inode = 0

    def directory(self, path: str, mode: int = 0o755) -> None:
        self._entry(path, S_IFDIR | mode, links=2)

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        self._entry(path, S_IFREG | mode, content)

    def link(self, path: str, target: str) -> None:
        """A symbolic link at ``path`` that says ``target``."""
        self._entry(path, S_IFLNK | 0o777, target.encode())

    def character_device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        self._entry(path, S_IFCHR | mode, device=(major, minor))

    def block_device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        self._entry(path, S_IFBLK | mode, device=(major, minor))

    def close(self) -> None:
        """Write the archive's end. ``out`` stays open."""
        self._inode = -1
        self._entry(LAST_NAME, 0)
        self._pad(512)

    def _entry(
        self,
        path: str,
        mode: int,
        content: bytes = b"",
        *,
        links: int = 1,
        device: tuple[int, int] = (0, 0),
    ) -> None:
        name = path.encode()
        if not name or name.startswith(b"/") or b"\0" in name or (path == LAST_NAME and mode):
            raise InputError("no name for a file in an archive", where=repr(path))
        if len(content) > LARGEST:
            raise InputError(f"{len(content)} bytes are more than an archive's file can have", where=path)
        self._inode += 1
        numbers = (
            self._inode,
            mode,
            0,  # c_uid
            0,  # c_gid
            links,
            0,  # c_mtime
            len(content),
            0,  # c_devmajor, c_devminor: of the file system it came from
            0,
            *device,  # c_rdevmajor, c_rdevminor
            len(name) + 1,
            0,  # c_check: of use in another format only
        )
        self._write(MAGIC + b"".join(b"%08X" % number for number in numbers) + name + b"\0")
        self._pad(4)
        self._write(content)
        self._pad(4)

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self._size += len(data)

    def _pad(self, boundary: int) -> None:
        self._write(bytes(-self._size % boundary))
