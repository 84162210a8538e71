"""What happens on an exit: the run loop of a vCPU under KVM.

The way of one byte to the serial port: KVM_RUN returns, the reason and the port are read from the
shared page, one dict lookup finds the device's bound method, one call does the work, KVM_RUN again.
Nothing is allocated and nothing is looked up twice.
"""

from __future__ import annotations

from pykvm.kvm import abi
from pykvm.kvm.abi import KVM_EXIT_IO, KVM_EXIT_MMIO
from pykvm.kvm.run import (
    ENTRY_FAILURE,
    EXIT_REASON,
    HARDWARE_EXIT,
    IMMEDIATE_EXIT,
    INSN_BYTES,
    INSN_SIZE,
    INTERNAL_DATA,
    INTERNAL_NDATA,
    INTERNAL_SUBERROR,
    IO_COUNT,
    IO_DATA_OFFSET,
    IO_DIRECTION,
    IO_PORT,
    IO_SIZE,
    MMIO_DATA,
    MMIO_GPA,
    MMIO_IS_WRITE,
    MMIO_LEN,
    SYSTEM_EVENT_TYPE,
)
from pykvm.kvm.state import load_vcpu, save_vcpu
from pykvm.machine import verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from typing import Any

    from pykvm.devices.bus import MemoryBus, PortBus
    from pykvm.kvm.vcpu import Vcpu
    from pykvm.machine.emulate import Finisher
    from pykvm.machine.verdict import Cause
    from pykvm.memory import GuestMemory

RFLAGS_IF = 1 << 9
EMULATION = abi.CONSTANTS["KVM_INTERNAL_ERROR_EMULATION"]
HAS_BYTES = abi.CONSTANTS["KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES"]
HALTED = abi.CONSTANTS["KVM_MP_STATE_HALTED"]


class KvmCpu:
    """A vCPU of KVM's, with the buses that its exits lead to."""

    handlers: dict[int, Callable[[Any], Cause | None]] = {}
    """What to do on an exit that is no access to a device, by its reason; filled below."""

    def __init__(
        self, vcpu: Vcpu, ports: PortBus, mmio: MemoryBus, memory: GuestMemory, lock: threading.Lock
    ) -> None:
        self.index = vcpu.index
        self.exits = [0] * 64
        self._vcpu = vcpu
        self._page = vcpu.page
        self._ports = ports
        self._mmio = mmio
        self._memory = memory
        self._lock = lock
        self._finisher: Finisher | None = None
        self._enter: Callable[[], int] = vcpu.run

    def run(self) -> Cause | None:
        """KVM_RUN and its exits, until a kick or the guest's end (see face.py)."""
        page = self._page
        u8, u16, u32, u64 = page.u8, page.u16, page.u32, page.u64
        ports, lock, exits = self._ports, self._lock, self.exits
        reads, writes = ports.reads, ports.writes
        enter = self._enter
        while True:
            if enter():
                u8[IMMEDIATE_EXIT] = 0
                return None
            reason = u32[EXIT_REASON]
            exits[reason] += 1
            if reason == KVM_EXIT_IO and u32[IO_COUNT] == 1:
                size = u8[IO_SIZE]
                port = u16[IO_PORT]
                at = u64[IO_DATA_OFFSET]
                if u8[IO_DIRECTION]:
                    value = u8[at] if size == 1 else u16[at >> 1] if size == 2 else u32[at >> 2]
                    writer = writes.get(size << 16 | port)
                    with lock:
                        if writer is not None:
                            writer[0](writer[1], size, value)
                        else:
                            ports.write(port, size, value)
                else:
                    reader = reads.get(size << 16 | port)
                    with lock:
                        if reader is not None:
                            value = reader[0](reader[1], size)
                        else:
                            value = ports.read(port, size)
                    if size == 1:
                        u8[at] = value & 0xFF
                    elif size == 2:
                        u16[at >> 1] = value & 0xFFFF
                    else:
                        u32[at >> 2] = value & 0xFFFFFFFF
            elif reason == KVM_EXIT_MMIO:
                self._memory_access()
            elif reason == KVM_EXIT_IO:
                self._string_access()
            else:
                cause = self._other(reason)
                if cause is not None:
                    return cause

    def _string_access(self) -> None:
        """``rep ins`` and ``rep outs`` arrive with a count and all items side by side."""
        page = self._page
        size, port = page.u8[IO_SIZE], page.u16[IO_PORT]
        at = page.u64[IO_DATA_OFFSET]
        data = page.u8[at : at + size * page.u32[IO_COUNT]]
        with self._lock:
            if page.u8[IO_DIRECTION]:
                self._ports.write_string(port, size, data)
            else:
                self._ports.read_string(port, size, data)

    def _memory_access(self) -> None:
        page = self._page
        gpa, size = page.u64[MMIO_GPA], page.u32[MMIO_LEN]
        data = page.u8[MMIO_DATA : MMIO_DATA + size]
        with self._lock:
            if page.u8[MMIO_IS_WRITE]:
                self._mmio.write(gpa, size, int.from_bytes(data, "little"))
            else:
                data[:] = self._mmio.read(gpa, size).to_bytes(size, "little")

    def _other(self, reason: int) -> Cause | None:
        handler = self.handlers.get(reason)
        if handler is not None:
            return handler(self)
        name = abi.EXIT_NAMES.get(reason, f"exit {reason}")
        return verdict.crash("internal-error", f"KVM left the guest for a reason pykvm doesn't know: {name}")

    def _again(self) -> None:
        """Leave it at that and run on."""

    def _hlt(self) -> Cause | None:
        return verdict.crash("halted", "the guest halted and no interrupt controller could wake it")

    def _shutdown(self) -> Cause:
        return verdict.crash(
            "triple-fault",
            "the guest crashed: triple fault (an exception whose handler failed, and the double fault's too)",
            "often there is no valid IDT, or its stack isn't mapped",
        )

    def _fail_entry(self) -> Cause:
        code = self._page.u64[ENTRY_FAILURE]
        return verdict.crash(
            "entry",
            f"the processor refused the guest's state (failed entry, hardware reason {code:#x})",
            "the entry state or a control register that the guest set is one that no CPU accepts",
            hardware_reason=code,
        )

    def _unknown(self) -> Cause:
        code = self._page.u64[HARDWARE_EXIT]
        return verdict.crash(
            "internal-error",
            f"KVM left the guest for a hardware reason it doesn't know: {code:#x}",
            hardware_reason=code,
        )

    def _system_event(self) -> Cause:
        event = self._page.u32[SYSTEM_EVENT_TYPE]
        if event == abi.CONSTANTS["KVM_SYSTEM_EVENT_SHUTDOWN"]:
            return verdict.poweroff()
        if event == abi.CONSTANTS["KVM_SYSTEM_EVENT_RESET"]:
            return verdict.reset()
        return verdict.crash("panic", f"the guest told KVM of a crash (system event {event})")

    def _internal_error(self) -> Cause | None:
        """Finish an instruction that KVM's emulator gave up, where ``x86/execute`` can."""
        page = self._page
        suberror = page.u32[INTERNAL_SUBERROR]
        if suberror != EMULATION:
            words = page.u64[INTERNAL_DATA : INTERNAL_DATA + min(page.u32[INTERNAL_NDATA], 16)].tolist()
            return verdict.crash(
                "internal-error",
                f"KVM failed inside (internal error, suberror {suberror})",
                suberror=suberror,
                data=words,
            )
        code = b""
        if page.u32[INTERNAL_NDATA] >= 3 and page.u64[INTERNAL_DATA] & HAS_BYTES:
            code = bytes(page.u8[INSN_BYTES : INSN_BYTES + min(page.u8[INSN_SIZE], 15)])
        if self._finisher is None:
            from pykvm.machine.emulate import Finisher  # late: most hosts never need these
            from pykvm.machine.physical import PhysicalMemory

            memory = PhysicalMemory(self._memory, self._mmio, self._lock)
            self._finisher = Finisher(self._vcpu, memory)
        return self._finisher.finish(code)

    def wake(self) -> None:
        self._page.u8[IMMEDIATE_EXIT] = 1

    def settle(self) -> None:
        """After an IN or an MMIO read, RIP and the target register are old until KVM_RUN is entered."""
        self._page.u8[IMMEDIATE_EXIT] = 1
        self._vcpu.run()
        self._page.u8[IMMEDIATE_EXIT] = 0

    def state(self) -> dict[str, Any]:
        return save_vcpu(self._vcpu)

    def load(self, state: dict[str, Any]) -> None:
        load_vcpu(self._vcpu, state)

    def halted_for_ever(self) -> bool:
        if self._vcpu.mp_state() != HALTED:
            return False
        return not self._vcpu.regs()["rflags"] & RFLAGS_IF

    def raised(self) -> list[tuple[int, int | None, int | None, int]]:
        return []  # KVM doesn't tell

    def exit_names(self) -> dict[int, str]:
        return {
            number: name.removeprefix("KVM_EXIT_").lower().replace("_", "-")
            for number, name in abi.EXIT_NAMES.items()
        }

    def close(self) -> None:
        self._vcpu.close()


KvmCpu.handlers = {
    abi.KVM_EXIT_UNKNOWN: KvmCpu._unknown,
    abi.KVM_EXIT_HLT: KvmCpu._hlt,
    abi.KVM_EXIT_INTR: KvmCpu._again,
    abi.KVM_EXIT_IRQ_WINDOW_OPEN: KvmCpu._again,
    abi.KVM_EXIT_SHUTDOWN: KvmCpu._shutdown,
    abi.KVM_EXIT_FAIL_ENTRY: KvmCpu._fail_entry,
    abi.KVM_EXIT_INTERNAL_ERROR: KvmCpu._internal_error,
    abi.KVM_EXIT_SYSTEM_EVENT: KvmCpu._system_event,
}
