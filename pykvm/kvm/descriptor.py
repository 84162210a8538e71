"""A file descriptor of KVM's: what /dev/kvm, a VM and a vCPU have in common."""

from __future__ import annotations

import os
from ctypes import byref, get_errno

from pykvm.kvm.abi import IOCTLS
from pykvm.kvm.errors import KvmError
from pykvm.libc.calls import ioctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctypes import Structure
    from types import TracebackType
    from typing import Any, TypeVar

    Self = TypeVar("Self", bound="Descriptor")


class Descriptor:
    """An open descriptor and the two ways to call an ioctl on it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def number(self, name: str, argument: int = 0, *, detail: str = "") -> int:
        """Call ioctl ``name`` with a plain number; its result. Raises KvmError."""
        result: int = ioctl(self.fd, IOCTLS[name], argument)
        if result < 0:
            raise KvmError(name, get_errno(), detail)
        return result

    def struct(self, name: str, argument: Structure | Any, *, detail: str = "") -> int:
        """Call ioctl ``name`` with the address of a structure; its result. Raises KvmError."""
        result: int = ioctl(self.fd, IOCTLS[name], byref(argument))
        if result < 0:
            raise KvmError(name, get_errno(), detail)
        return result

    def close(self) -> None:
        """Close the descriptor; twice is once."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
