"""A VM: memory slots, interrupt controllers, timers, and its vCPUs."""

from __future__ import annotations

from ctypes import addressof, c_uint64
from errno import EPERM

from pykvm.kvm import structs
from pykvm.kvm.abi import CONSTANTS
from pykvm.kvm.capabilities import number
from pykvm.kvm.descriptor import Descriptor
from pykvm.kvm.errors import KvmError
from pykvm.kvm.vcpu import Vcpu

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CHIPS = ("KVM_IRQCHIP_PIC_MASTER", "KVM_IRQCHIP_PIC_SLAVE", "KVM_IRQCHIP_IOAPIC")


class Vm(Descriptor):
    """One ioctl a method; addresses and sizes in bytes. All raise KvmError."""

    def __init__(self, fd: int, run_page_size: int) -> None:
        super().__init__(fd)
        self._run_page_size = run_page_size

    def capability(self, name: str) -> int:
        """KVM_CHECK_EXTENSION, as it holds for this VM."""
        return self.number("KVM_CHECK_EXTENSION", number(name))

    def enable(self, name: str, *args: int) -> None:
        """KVM_ENABLE_CAP."""
        cap = structs.kvm_enable_cap(cap=number(name))
        for index, value in enumerate(args):
            cap.args[index] = value
        self.struct("KVM_ENABLE_CAP", cap, detail=name)

    def set_memory(
        self, slot: int, gpa: int, size: int, hva: int, *, readonly: bool = False, dirty_log: bool = False
    ) -> None:
        """Map ``size`` bytes at ``hva`` of this process to ``gpa``; size 0 takes the slot away."""
        flags = readonly * CONSTANTS["KVM_MEM_READONLY"] | dirty_log * CONSTANTS["KVM_MEM_LOG_DIRTY_PAGES"]
        region = structs.kvm_userspace_memory_region(slot, flags, gpa, size, hva)
        self.struct("KVM_SET_USER_MEMORY_REGION", region, detail=f"slot {slot}, {size:#x} bytes at {gpa:#x}")

    def dirty_log(self, slot: int, size: int) -> bytes:
        """The pages of the slot written since the last call: a bit a page, in 64-bit words."""
        words = (c_uint64 * -(-size // (4096 * 64)))()
        self.struct("KVM_GET_DIRTY_LOG", structs.kvm_dirty_log(slot=slot, dirty_bitmap=addressof(words)))
        return bytes(words)

    def set_tss_address(self, gpa: int) -> None:
        """Three pages that KVM on Intel uses for real mode."""
        self.number("KVM_SET_TSS_ADDR", gpa)

    def set_identity_map_address(self, gpa: int) -> None:
        """One page that KVM on Intel uses for real mode."""
        self.struct("KVM_SET_IDENTITY_MAP_ADDR", c_uint64(gpa))

    def create_irqchip(self) -> None:
        """PIC pair, IOAPIC, and a local APIC for each vCPU made later, all in the kernel."""
        self.number("KVM_CREATE_IRQCHIP")

    def split_irqchip(self, pins: int) -> None:
        """A local APIC in the kernel for each vCPU made later, and nothing else of the controllers.

        GSIs 0 to ``pins`` - 1 are those of an IOAPIC of ours, whose EOIs are told (``set_msi_routes``).
        """
        self.enable("KVM_CAP_SPLIT_IRQCHIP", pins)

    def create_pit(self) -> None:
        """The i8254 in the kernel, with a dummy for port 0x61."""
        self.struct("KVM_CREATE_PIT2", structs.kvm_pit_config(CONSTANTS["KVM_PIT_SPEAKER_DUMMY"]))

    def irq_line(self, gsi: int, level: bool) -> None:
        """Set the level of an interrupt controller's input."""
        self.struct("KVM_IRQ_LINE", structs.kvm_irq_level(gsi, level))

    def set_routes(self, routes: list[tuple[int, str, int]]) -> None:
        """All routes of interrupts: GSI, chip (KVM_IRQCHIP_ name), pin. A GSI may have several."""
        table = structs.irq_routing(len(routes))
        for entry, (gsi, chip, pin) in zip(table.entries, routes, strict=True):
            entry.gsi = gsi
            entry.type = CONSTANTS["KVM_IRQ_ROUTING_IRQCHIP"]
            entry.u.irqchip.irqchip = CONSTANTS[chip]
            entry.u.irqchip.pin = pin
        self.struct("KVM_SET_GSI_ROUTING", table)

    def set_msi_routes(self, routes: list[tuple[int, int, int]]) -> None:
        """All routes of interrupts, each a message: GSI, address, data.

        Where the chip is split, KVM leaves the guest (KVM_EXIT_IOAPIC_EOI) at the EOI of a vector that a
        level-triggered message of these has.
        """
        table = structs.irq_routing(len(routes))
        for entry, (gsi, address, data) in zip(table.entries, routes, strict=True):
            entry.gsi = gsi
            entry.type = CONSTANTS["KVM_IRQ_ROUTING_MSI"]
            entry.u.msi.address_lo = address
            entry.u.msi.data = data
        self.struct("KVM_SET_GSI_ROUTING", table)

    def signal_msi(self, address: int, data: int) -> bool:
        """Send a message to the local APICs in the kernel; True where one took it."""
        try:
            return self.struct("KVM_SIGNAL_MSI", structs.kvm_msi(address_lo=address, data=data)) > 0
        except KvmError as error:
            if error.errno != EPERM:  # -1, which is EPERM, is what KVM has for a destination that isn't there
                raise
            return False

    def irqfd(self, fd: int, gsi: int, *, assign: bool = True) -> None:
        """Let writes to the eventfd ``fd`` raise an edge on ``gsi``."""
        flags = 0 if assign else CONSTANTS["KVM_IRQFD_FLAG_DEASSIGN"]
        self.struct("KVM_IRQFD", structs.kvm_irqfd(fd=fd, gsi=gsi, flags=flags))

    def coalesce(self, port: int, *, on: bool = True) -> None:
        """Put writes of a byte to ``port`` into the ring (ring.py) without leaving the guest; or no more.

        When ``on=False`` returns, no write is on its way there, which takes some milliseconds.
        """
        name = "KVM_REGISTER_COALESCED_MMIO" if on else "KVM_UNREGISTER_COALESCED_MMIO"
        self.struct(name, structs.kvm_coalesced_mmio_zone(port, 1, 1), detail=f"port {port:#x}")

    def irqchips(self) -> dict[str, Any]:
        """The states of both PICs and the IOAPIC, as bytes by name."""
        chips = {}
        for name in CHIPS:
            chip = structs.kvm_irqchip(chip_id=CONSTANTS[name])
            self.struct("KVM_GET_IRQCHIP", chip)
            chips[name] = bytes(chip.chip)
        return chips

    def set_irqchips(self, chips: dict[str, bytes]) -> None:
        """Load what ``irqchips`` gave."""
        for name, state in chips.items():
            chip = structs.kvm_irqchip(chip_id=CONSTANTS[name])
            chip.chip[:] = state
            self.struct("KVM_SET_IRQCHIP", chip)

    def pit(self) -> dict[str, Any]:
        """The kernel's PIT."""
        state = structs.kvm_pit_state2()
        self.struct("KVM_GET_PIT2", state)
        return structs.to_dict(state)

    def set_pit(self, state: dict[str, Any]) -> None:
        """Load what ``pit`` gave."""
        self.struct("KVM_SET_PIT2", structs.from_dict(structs.kvm_pit_state2(), state))

    def clock(self) -> int:
        """The guest's KVM clock in nanoseconds."""
        data = structs.kvm_clock_data()
        self.struct("KVM_GET_CLOCK", data)
        return int(data.clock)

    def set_clock(self, ns: int) -> None:
        """Set the guest's KVM clock."""
        self.struct("KVM_SET_CLOCK", structs.kvm_clock_data(clock=ns))

    def create_vcpu(self, index: int) -> Vcpu:
        """A vCPU with its run page mapped."""
        return Vcpu(self.number("KVM_CREATE_VCPU", index, detail=f"vCPU {index}"), index, self._run_page_size)
