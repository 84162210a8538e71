"""The one family of errors: where it happened, what is wrong, what to do, and the exit status."""

from __future__ import annotations


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
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}; {self.remedy}" if self.remedy else text


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
