"""What happens on an exit: the run loop of a vCPU under KVM.

The way of one byte to the serial port: KVM_RUN returns, the words of the run page that tell of the
access are looked up (accesses.py), which gives the device's bound method and where the value is, one
call does the work, KVM_RUN again. Nothing is looked up twice, and nothing is allocated but numbers.

Where the time of an exit goes that writes a byte to a port (CPython 3.11, the host of HOSTS.md A; of 8.6 µs):

====================================  =======  =====================================================
KVM, two instructions of the guest    7.4 µs   what a loop in C takes for all
KVM_RUN's call                        0.6      ctypes, and the interpreter's lock given up and taken
reason and its count                  0.06     a list by the reason; the machine looks at it for progress
key, look-up, place of the value      0.13     four reads of the run page, one dict
the device lock                       0.1      against the I/O thread and other vCPUs; 0.16 by ``with``
the device                            0.1–0.4  port 0x80; a serial port's THR
====================================  =======  =====================================================

What was tried and is not so: ctypes with declared argument types or ready-made C objects (0.15 µs more
than plain ints), a Python frame around the call (0.07), fields read one by one (0.1), ``errno`` kept out
(0.03 less, and then nobody knows why KVM_RUN failed), no lock for one vCPU (there is always the I/O thread).
A vCPU with its own interrupt controllers adds two comparisons and a frame (usercpu.py), 0.2 µs.

The cheapest exit is none: of a guest that prints without pause KVM keeps the bytes (coalesced.py), which
costs others a look at a dict that is empty.
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
    IO_HEAD,
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
from pykvm.machine.accesses import Accesses
from pykvm.x86.registers import MP_STATE_HALTED, MP_STATES_WAITING, RFLAGS_IF

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from typing import Any

    from pykvm.devices.bus import MemoryBus, PortBus
    from pykvm.kvm.vcpu import Vcpu
    from pykvm.machine.accesses import Access
    from pykvm.machine.coalesced import CoalescedWrites
    from pykvm.machine.emulate import Finisher
    from pykvm.machine.verdict import Cause
    from pykvm.memory import GuestMemory

EMULATION = abi.CONSTANTS["KVM_INTERNAL_ERROR_EMULATION"]
HAS_BYTES = abi.CONSTANTS["KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES"]


class KvmCpu:
    """A vCPU of KVM's, with the buses that its exits lead to."""

    handlers: dict[int, Callable[[Any], Cause | None]] = {}
    """What to do on an exit that is no access to a device, by its reason; filled below."""

    def __init__(
        self, vcpu: Vcpu, ports: PortBus, mmio: MemoryBus, memory: GuestMemory, lock: threading.Lock
    ) -> None:
        self.index = vcpu.index
        self.exits = [0] * 64
        self.coalesced: CoalescedWrites | None = None
        """What KVM keeps of the guest's writes, for all CPUs; set before the first run."""
        self._vcpu = vcpu
        self._page = vcpu.page
        self._ports = ports
        self._mmio = mmio
        self._memory = memory
        self._lock = lock
        self._accesses = Accesses(vcpu.page, ports, mmio)
        self._finisher: Finisher | None = None
        self.forgets = False
        """KVM resets the registers at a shutdown: AMD's VMCB is undefined then (APM vol. 2 §15.14.3)."""
        self._entry: dict[str, Any] | None = None
        self._noted = ""  # at which access
        self._enter: Callable[[], int] = vcpu.enter  # -1: ``vcpu.left`` tells; or an errno that it told

    def run(self) -> Cause | None:
        """KVM_RUN and its exits, until a kick or the guest's end (see face.py)."""
        page, exits = self._page, self.exits
        u8, u32, u64 = page.u8, page.u32, page.u64
        known_ports, known_memory = self._accesses.ports, self._accesses.memory
        acquire, release = self._lock.acquire, self._lock.release
        enter = self._enter
        kept, deliver = (self.coalesced.writers, self.coalesced.deliver) if self.coalesced else ({}, None)
        while True:
            left = enter()
            if left:
                u8[IMMEDIATE_EXIT] = 0
                if left < 0:
                    self._vcpu.left()
                if kept and deliver:
                    with self._lock:
                        deliver()
                return None
            if kept and deliver:  # that came before this exit
                acquire()
                try:
                    deliver()
                finally:
                    release()
            reason = u32[EXIT_REASON]
            exits[reason] += 1
            if reason == KVM_EXIT_IO:
                access = known_ports.get(u64[IO_HEAD]) or self._new_port()
                at = u64[IO_DATA_OFFSET]
            elif reason == KVM_EXIT_MMIO:
                access = known_memory.get(u64[MMIO_GPA] << 8 | u32[MMIO_LEN] << 1 | u8[MMIO_IS_WRITE])
                access = access or self._new_memory()
                at = MMIO_DATA
            else:
                cause = self._other(reason)
                if cause is not None:
                    return cause
                continue
            if access is None:  # done already
                continue
            is_write, call, offset, size, cells, shift, mask = access
            acquire()  # by hand: a with statement looks up two methods, which costs as much as the lock
            try:
                if is_write:
                    call(offset, size, cells[at >> shift])
                else:
                    cells[at >> shift] = call(offset, size) & mask
            finally:
                release()

    def _new_port(self) -> Access | None:
        """A port that was not used so before; or ``rep ins`` or ``rep outs``, which are done here.

        They arrive with a count and all items side by side.
        """
        page = self._page
        size, port, is_write = page.u8[IO_SIZE], page.u16[IO_PORT], page.u8[IO_DIRECTION]
        count = page.u32[IO_COUNT]
        with self._lock:
            if count == 1:
                if self.forgets:
                    self._note(is_write, f"port {port:#x}")
                return self._accesses.bind_port(size, port, bool(is_write))
            at = page.u64[IO_DATA_OFFSET]
            data = page.u8[at : at + size * count]
            if is_write:
                self._ports.write_string(port, size, data)
            else:
                self._ports.read_string(port, size, data)
            return None

    def _new_memory(self) -> Access | None:
        """An address that was not used so before; or an access of an odd size, which is done here."""
        page = self._page
        with self._lock:
            access = self._accesses.bind_memory()
            gpa, size = page.u64[MMIO_GPA], page.u32[MMIO_LEN]
            if self.forgets:
                self._note(page.u8[MMIO_IS_WRITE], f"device memory at {gpa:#x}")
            if access is None:
                data = page.u8[MMIO_DATA : MMIO_DATA + size]
                if page.u8[MMIO_IS_WRITE]:
                    self._mmio.write(gpa, size, int.from_bytes(data, "little"))
                else:
                    data[:] = self._mmio.read(gpa, size).to_bytes(size, "little")
            return access

    def _note(self, is_write: int, place: str) -> None:
        """Keep the registers for a post-mortem. At each exit they would cost more than the exit itself."""
        self._vcpu.note()
        self._noted = f"first {'wrote to' if is_write else 'read'} {place}"

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
            from pykvm.devices.physical import PhysicalMemory  # late: most hosts never need these
            from pykvm.machine.emulate import Finisher

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
        self._entry = state
        load_vcpu(self._vcpu, state)

    def halted_for_ever(self) -> bool:
        state = self._vcpu.mp_state()
        if state in MP_STATES_WAITING:
            return True
        if state != MP_STATE_HALTED or self._vcpu.regs()["rflags"] & RFLAGS_IF:
            return False
        return not self._vcpu.events()["nmi"]["pending"]  # another CPU may have sent one

    def raised(self) -> list[tuple[int, int | None, int | None, int]]:
        return []  # KVM doesn't tell

    def earlier(self) -> tuple[dict[str, Any], str] | None:
        noted = self._vcpu.noted()
        if noted is not None:
            return noted, f"when it {self._noted}"
        return None if self._entry is None else (self._entry, "when it was started")

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
