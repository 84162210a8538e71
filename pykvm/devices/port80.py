"""Port 0x80: where firmware tells how far it has come, and where kernels write to lose a microsecond.

Source: IBM PC AT Technical Reference, "Power-On Self Test": the manufacturing checkpoints.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.devices.device import State

# offset, name, access, value after reset, source
REGISTERS = ((0, "CODE", "RW", 0x00, "port 0x80"),)


class Port80:
    """One port; ``code`` is what was written last, which is where a guest that hangs had come to."""

    def __init__(self) -> None:
        self.code = 0

    def read(self, offset: int, size: int) -> int:
        return self.code

    def write(self, offset: int, size: int, value: int) -> None:
        self.code = value

    def save(self) -> State:
        return {"version": 1, "code": self.code}

    def load(self, state: State) -> None:
        self.code = state["code"]
