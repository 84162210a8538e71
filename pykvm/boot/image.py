"""An image to load (a kernel, an initramfs): a file or bytes, read in parts straight into guest memory."""

from __future__ import annotations

import os
from stat import S_ISREG

from pykvm.errors import InputError, refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    Bytes = bytes | bytearray | memoryview


class Image:
    """``size`` bytes; ``name`` says in messages which. A file is closed by ``close`` or ``with``.

    Files are read, not mapped: a file that is cut short meanwhile is then an error and no SIGBUS, and
    ``read_into`` fills guest memory without a copy between.
    """

    def __init__(self, name: str, size: int, *, data: memoryview | None = None, fd: int = -1) -> None:
        self.name = name
        self.size = size
        self._data = data
        self._fd = fd

    @classmethod
    def of(cls, data: Bytes, name: str) -> Image:
        """The image that ``data`` holds."""
        view = memoryview(data).cast("B")
        return cls(name, len(view), data=view)

    @classmethod
    def open(cls, path: str, name: str = "") -> Image:
        """The image in the regular file at ``path``; messages call it ``name``. Raises InputError."""
        name = name or path
        try:
            # Without O_NONBLOCK, opening a FIFO would wait for its writer.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            what = f"cannot be read: {error.strerror}"
            remedy = "check the path and its permissions"
            raise refusal(error) or InputError(what, where=name, remedy=remedy) from None
        status = os.fstat(fd)
        if not S_ISREG(status.st_mode):
            os.close(fd)
            raise InputError("is not a regular file", where=name, remedy="name the file that holds the image")
        return cls(name, status.st_size, fd=fd)

    def close(self) -> None:
        """Close the file; twice is once."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Image:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes at ``offset``, or fewer where the image ends before."""
        if self._data is not None:
            return bytes(self._data[offset : offset + size])
        buffer = bytearray(max(min(size, self.size - offset), 0))
        self._fill(offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill ``target`` with the bytes from ``offset`` on; all of them must be there."""
        if offset + len(target) > self.size:
            raise self.error(f"is truncated: bytes up to {offset + len(target)} are needed")
        if self._data is not None:
            target[:] = self._data[offset : offset + len(target)]
        else:
            self._fill(offset, target)

    def sha256(self) -> str:
        """The SHA-256 of the whole image, in hexadecimal."""
        from hashlib import sha256  # OpenSSL's; only compressed kernels need it

        whole = sha256()
        for offset in range(0, self.size, 1 << 20):
            whole.update(self.read(offset, 1 << 20))
        return whole.hexdigest()

    def error(self, what: str, remedy: str = "") -> InputError:
        """An InputError about this image."""
        return InputError(what, where=self.name, remedy=remedy)

    def _fill(self, offset: int, target: memoryview) -> None:
        done = 0
        while done < len(target):
            try:
                count = os.preadv(self._fd, [target[done:]], offset + done)
            except OSError as error:
                raise refusal(error) or self.error(f"cannot be read: {error.strerror}") from None
            if count == 0:
                raise self.error("was cut short while it was read")
            done += count
