"""Guest-physical memory."""

from pykvm.memory.guest import GuestMemory, MemoryFault
from pykvm.memory.region import Region

__all__ = ["GuestMemory", "MemoryFault", "Region"]
