"""Numbers in memory, for whatever reads and writes bytes by guest-physical address."""

from __future__ import annotations

TYPE_CHECKING = False


class Words:
    """Little-endian numbers, by the ``read`` and ``write`` of the class that stands on this one."""

    if TYPE_CHECKING:

        def read(self, gpa: int, size: int) -> bytes: ...
        def write(self, gpa: int, data: bytes) -> None: ...

    def u32(self, gpa: int) -> int:
        return int.from_bytes(self.read(gpa, 4), "little")

    def u64(self, gpa: int) -> int:
        return int.from_bytes(self.read(gpa, 8), "little")

    def put_u32(self, gpa: int, value: int) -> None:
        self.write(gpa, value.to_bytes(4, "little"))

    def put_u64(self, gpa: int, value: int) -> None:
        self.write(gpa, value.to_bytes(8, "little"))
