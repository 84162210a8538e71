"""The one family of errors: where it happened, what is wrong, what to do, and the exit status."""

from __future__ import annotations

from errno import EDQUOT, EIO, EMFILE, ENFILE, ENOENT, ENOMEM, ENOSPC, EROFS


class PykvmError(Exception):
    """An error that a user can read: ``where: what; remedy``.

    ``status`` is the exit status of ``pykvm`` (sysexits.h numbers; see README, "Exit status").
    """

    status = 70

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(what, where, remedy)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{printable(self.where)}: {self.what}" if self.where else self.what
        return f"{text}; {self.remedy}" if self.remedy else text


def printable(name: str) -> str:
    """A file's name for a terminal: what it can't print, or would obey, is there as an escape of Python's."""
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


class UsageError(PykvmError):
    """The command line is wrong (EX_USAGE)."""

    status = 64


class InputError(PykvmError):
    """The machine file, a kernel or another image is wrong (EX_DATAERR)."""

    status = 65


class HostError(PykvmError):
    """The host can't: no /dev/kvm, no permission, no memory, no package (EX_UNAVAILABLE)."""

    status = 69


class InternalError(PykvmError):
    """A fault of pykvm itself (EX_SOFTWARE)."""

    status = 70


# What the host may refuse to anybody at any time, and what to do about it.
REFUSALS = {
    EMFILE: "raise the limit that `ulimit -n` shows",
    ENFILE: "end some other programs",
    ENOMEM: "free some, or give the machine less",
    ENOSPC: "make room, or write elsewhere",
    EDQUOT: "make room, or write elsewhere",
    EROFS: "write elsewhere",
    EIO: "look at what the host's kernel says of its disks (dmesg)",
}
NO_THREAD = "can't start new thread"  # what Python calls an EAGAIN of pthread_create


def refusal(error: BaseException) -> HostError | None:
    """``error``, which nobody expected, as the host's refusal, where it is one and no fault of ours."""
    if isinstance(error, OSError) and error.errno in REFUSALS:
        what = (error.strerror or str(error)).lower()
        where = error.filename if isinstance(error.filename, str) else ""
        return HostError(what, where=where, remedy=REFUSALS[error.errno])
    if isinstance(error, OSError) and error.errno == ENOENT and str(error.filename).startswith("/proc/"):
        return HostError("there is no such file", where=error.filename, remedy="mount -t proc proc /proc")
    if isinstance(error, MemoryError):
        return HostError("the host has no memory left", remedy=REFUSALS[ENOMEM])
    if isinstance(error, RuntimeError) and str(error) == NO_THREAD:
        return HostError(
            "the host lets no more threads start",
            remedy="raise the limits that `ulimit -u` and `ulimit -v` show, or the container's on processes",
        )
    return None
