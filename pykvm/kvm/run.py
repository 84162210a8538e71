"""The page that KVM_RUN shares with us (struct kvm_run), read through casts of one memoryview.

A field of a ctypes union costs 75–150 ns, an index into a cast memoryview 20 (CPython 3.11), and an
exit reads five of them: so the run loop indexes ``u8``, ``u16``, ``u32``, ``u64`` by the numbers below,
each the field's offset divided by its size.
"""

from __future__ import annotations

from pykvm.kvm.abi import RUN_PAGE
from pykvm.libc.calls import shared

IMMEDIATE_EXIT = RUN_PAGE["immediate_exit"]  # u8
REQUEST_INTERRUPT_WINDOW = RUN_PAGE["request_interrupt_window"]  # u8
READY_FOR_INTERRUPT_INJECTION = RUN_PAGE["ready_for_interrupt_injection"]  # u8
IF_FLAG = RUN_PAGE["if_flag"]  # u8
CR8 = RUN_PAGE["cr8"] // 8  # u64
APIC_BASE = RUN_PAGE["apic_base"] // 8  # u64
EXIT_REASON = RUN_PAGE["exit_reason"] // 4  # u32
IO_HEAD = RUN_PAGE["io.direction"] // 8  # u64: direction, size, port and count, from the lowest byte up
IO_DIRECTION = RUN_PAGE["io.direction"]  # u8
IO_SIZE = RUN_PAGE["io.size"]  # u8
IO_PORT = RUN_PAGE["io.port"] // 2  # u16
IO_COUNT = RUN_PAGE["io.count"] // 4  # u32
IO_DATA_OFFSET = RUN_PAGE["io.data_offset"] // 8  # u64
MMIO_GPA = RUN_PAGE["mmio.phys_addr"] // 8  # u64
MMIO_DATA = RUN_PAGE["mmio.data"]  # u8
MMIO_LEN = RUN_PAGE["mmio.len"] // 4  # u32
MMIO_IS_WRITE = RUN_PAGE["mmio.is_write"]  # u8
INTERNAL_SUBERROR = RUN_PAGE["internal.suberror"] // 4  # u32
INTERNAL_NDATA = RUN_PAGE["internal.ndata"] // 4  # u32
INTERNAL_DATA = RUN_PAGE["internal.data"] // 8  # u64
EMULATION_FLAGS = RUN_PAGE["emulation_failure.flags"] // 8  # u64
INSN_SIZE = RUN_PAGE["emulation_failure.insn_size"]  # u8
INSN_BYTES = RUN_PAGE["emulation_failure.insn_bytes"]  # u8
ENTRY_FAILURE = RUN_PAGE["fail_entry.hardware_entry_failure_reason"] // 8  # u64
HARDWARE_EXIT = RUN_PAGE["hw.hardware_exit_reason"] // 8  # u64
EOI_VECTOR = RUN_PAGE["eoi.vector"]  # u8
SYSTEM_EVENT_TYPE = RUN_PAGE["system_event.type"] // 4  # u32


class RunPage:
    """The mapped page of one vCPU; ``close`` before the vCPU's descriptor is."""

    def __init__(self, fd: int, size: int) -> None:
        self._mapping = shared(fd, size)
        self.u8 = self._mapping.view
        self.u16 = self.u8.cast("H")
        self.u32 = self.u8.cast("I")
        self.u64 = self.u8.cast("Q")

    def close(self) -> None:
        self.u16.release()
        self.u32.release()
        self.u64.release()
        self._mapping.close()
