"""A run of guest-physical addresses that is backed by host memory."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.libc.calls import Mapping


class Region:
    """``size`` bytes at guest-physical ``gpa``, in this process at ``hva``.

    A read-only region is ROM to the guest: its writes go to no memory. ``view`` may write it.
    """

    __slots__ = ("end", "gpa", "hva", "mapping", "name", "readonly", "size", "view")

    def __init__(self, gpa: int, mapping: Mapping, *, readonly: bool = False, name: str = "ram") -> None:
        self.gpa = gpa
        self.mapping = mapping
        self.size = mapping.size
        self.end = gpa + mapping.size
        self.hva = mapping.address
        self.view = mapping.view
        self.readonly = readonly
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.name} {self.gpa:#x}-{self.end - 1:#x}>"
