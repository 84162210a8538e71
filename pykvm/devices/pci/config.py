"""A PCI function's configuration space: 256 bytes, of which a mask says what a guest may write.

Source: PCI Local Bus Specification 3.0, §6.1 (type 0 header, figure 6-1).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.devices.device import State

CONFIG_SIZE = 256

# The type 0 header: offsets.
VENDOR_ID = 0x00
DEVICE_ID = 0x02
REVISION_ID = 0x08
CLASS_CODE = 0x09  # three bytes: programming interface, sub-class, class
HEADER_TYPE = 0x0E

HEADER_TYPE_MULTIFUNCTION = 0x80


class ConfigSpace:
    """The space as a device sees it: little-endian fields, all read-only until ``define`` says else."""

    def __init__(self, *, vendor: int, device: int, class_code: int, revision: int = 0) -> None:
        """``class_code`` is class, sub-class and programming interface, as in 0x060000."""
        self._data = bytearray(CONFIG_SIZE)
        self._mask = bytearray(CONFIG_SIZE)
        self.define(VENDOR_ID, 2, vendor)
        self.define(DEVICE_ID, 2, device)
        self.define(REVISION_ID, 1, revision)
        self.define(CLASS_CODE, 3, class_code)

    def define(self, offset: int, size: int, value: int, *, writable: int = 0) -> None:
        """Give the ``size`` bytes at ``offset`` a value, and the bits of it that a guest may change."""
        self._data[offset : offset + size] = value.to_bytes(size, "little")
        self._mask[offset : offset + size] = writable.to_bytes(size, "little")

    def read(self, offset: int, size: int) -> int:
        return int.from_bytes(self._data[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        mask = int.from_bytes(self._mask[offset : offset + size], "little")
        value = self.read(offset, size) & ~mask | value & mask
        self._data[offset : offset + size] = value.to_bytes(size, "little")

    def save(self) -> State:
        return {"version": 1, "data": self._data.hex()}

    def load(self, state: State) -> None:
        """Take back the writable bits; the others are this function's own."""
        for offset, byte in enumerate(bytes.fromhex(state["data"])):
            self.write(offset, 1, byte)
