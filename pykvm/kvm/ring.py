"""Byte writes that KVM keeps instead of leaving the guest (struct kvm_coalesced_mmio_ring).

A VM has one ring; each vCPU's run page holds it, on the page that KVM_CAP_COALESCED_MMIO tells. KVM puts
writes in at ``last``, whoever carries them out moves ``first``. A write that finds it full leaves the
guest as ever. Nothing tells that there is something in it.

Source: Documentation/virt/kvm/api.rst, KVM_REGISTER_COALESCED_MMIO.
"""

from __future__ import annotations

from ctypes import sizeof

from pykvm.kvm import structs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.kvm.run import RunPage

    Writer = Callable[[int, int, int], None]

PAGE_SIZE = 4096
ENTRY = structs.kvm_coalesced_mmio
HEAD = sizeof(structs.coalesced_mmio_ring(0))
WORDS = sizeof(ENTRY) // 8
ENTRIES = (PAGE_SIZE - HEAD) // sizeof(ENTRY)
"""KVM_COALESCED_MMIO_MAX; one is always free."""


class Ring:
    """The ring on page ``number`` of the run page ``page``."""

    def __init__(self, page: RunPage, number: int) -> None:
        start = number * PAGE_SIZE
        self._u8, self._u32, self._u64 = page.u8, page.u32, page.u64
        self._first, self._last = start // 4, start // 4 + 1  # u32
        self._ports = (start + HEAD + ENTRY.phys_addr.offset) // 8  # u64
        self._values = start + HEAD + ENTRY.data.offset  # u8

    def deliver(self, writers: dict[int, tuple[Writer, int]]) -> None:
        """Carry out all writes, oldest first, by who takes them at their port, and as which offset."""
        u32, first, last = self._u32, self._first, self._last
        at = u32[first]
        while at != u32[last]:
            word = WORDS * at
            write, offset = writers[self._u64[self._ports + word]]
            value = self._u8[self._values + 8 * word]
            u32[first] = at = (at + 1) % ENTRIES
            write(offset, 1, value)
