"""Numbers of <linux/kvm.h> for x86-64, with the kernel's names: ioctls, exits, the run page, flags.

A test compiles every number against the installed header. Number and direction of an ioctl are the
header's, not what its name suggests: KVM_SET_IRQCHIP is an _IOR there.
"""

from __future__ import annotations

from ctypes import sizeof

from pykvm.kvm import structs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KVM_API_VERSION = 12
KVMIO = 0xAE


def _io(number: int) -> int:
    return KVMIO << 8 | number


def _iow(number: int, argument: Any) -> int:
    return 1 << 30 | _size(argument) << 16 | _io(number)


def _ior(number: int, argument: Any) -> int:
    return 2 << 30 | _size(argument) << 16 | _io(number)


def _iowr(number: int, argument: Any) -> int:
    return 3 << 30 | _size(argument) << 16 | _io(number)


def _size(argument: Any) -> int:
    return argument if isinstance(argument, int) else sizeof(argument)


IOCTLS = {
    # /dev/kvm
    "KVM_GET_API_VERSION": _io(0x00),
    "KVM_CREATE_VM": _io(0x01),
    "KVM_GET_MSR_INDEX_LIST": _iowr(0x02, structs.MSR_LIST_HEAD),
    "KVM_CHECK_EXTENSION": _io(0x03),
    "KVM_GET_VCPU_MMAP_SIZE": _io(0x04),
    "KVM_GET_SUPPORTED_CPUID": _iowr(0x05, structs.CPUID2_HEAD),
    "KVM_GET_MSR_FEATURE_INDEX_LIST": _iowr(0x0A, structs.MSR_LIST_HEAD),
    # a VM
    "KVM_CREATE_VCPU": _io(0x41),
    "KVM_GET_DIRTY_LOG": _iow(0x42, structs.kvm_dirty_log),
    "KVM_SET_USER_MEMORY_REGION": _iow(0x46, structs.kvm_userspace_memory_region),
    "KVM_SET_TSS_ADDR": _io(0x47),
    "KVM_SET_IDENTITY_MAP_ADDR": _iow(0x48, 8),
    "KVM_CREATE_IRQCHIP": _io(0x60),
    "KVM_IRQ_LINE": _iow(0x61, structs.kvm_irq_level),
    "KVM_GET_IRQCHIP": _iowr(0x62, structs.kvm_irqchip),
    "KVM_SET_IRQCHIP": _ior(0x63, structs.kvm_irqchip),
    "KVM_REGISTER_COALESCED_MMIO": _iow(0x67, structs.kvm_coalesced_mmio_zone),
    "KVM_UNREGISTER_COALESCED_MMIO": _iow(0x68, structs.kvm_coalesced_mmio_zone),
    "KVM_SET_GSI_ROUTING": _iow(0x6A, structs.IRQ_ROUTING_HEAD),
    "KVM_IRQFD": _iow(0x76, structs.kvm_irqfd),
    "KVM_CREATE_PIT2": _iow(0x77, structs.kvm_pit_config),
    "KVM_IOEVENTFD": _iow(0x79, structs.kvm_ioeventfd),
    "KVM_SET_CLOCK": _iow(0x7B, structs.kvm_clock_data),
    "KVM_GET_CLOCK": _ior(0x7C, structs.kvm_clock_data),
    "KVM_GET_PIT2": _ior(0x9F, structs.kvm_pit_state2),
    "KVM_SET_PIT2": _iow(0xA0, structs.kvm_pit_state2),
    "KVM_ENABLE_CAP": _iow(0xA3, structs.kvm_enable_cap),
    "KVM_SIGNAL_MSI": _iow(0xA5, structs.kvm_msi),
    # a vCPU
    "KVM_RUN": _io(0x80),
    "KVM_GET_REGS": _ior(0x81, structs.kvm_regs),
    "KVM_SET_REGS": _iow(0x82, structs.kvm_regs),
    "KVM_GET_SREGS": _ior(0x83, structs.kvm_sregs),
    "KVM_SET_SREGS": _iow(0x84, structs.kvm_sregs),
    "KVM_TRANSLATE": _iowr(0x85, structs.kvm_translation),
    "KVM_INTERRUPT": _iow(0x86, structs.kvm_interrupt),
    "KVM_GET_MSRS": _iowr(0x88, structs.MSRS_HEAD),
    "KVM_SET_MSRS": _iow(0x89, structs.MSRS_HEAD),
    "KVM_GET_LAPIC": _ior(0x8E, structs.kvm_lapic_state),
    "KVM_SET_LAPIC": _iow(0x8F, structs.kvm_lapic_state),
    "KVM_SET_CPUID2": _iow(0x90, structs.CPUID2_HEAD),
    "KVM_GET_CPUID2": _iowr(0x91, structs.CPUID2_HEAD),
    "KVM_GET_MP_STATE": _ior(0x98, structs.kvm_mp_state),
    "KVM_SET_MP_STATE": _iow(0x99, structs.kvm_mp_state),
    "KVM_NMI": _io(0x9A),
    "KVM_SET_GUEST_DEBUG": _iow(0x9B, structs.kvm_guest_debug),
    "KVM_GET_VCPU_EVENTS": _ior(0x9F, structs.kvm_vcpu_events),
    "KVM_SET_VCPU_EVENTS": _iow(0xA0, structs.kvm_vcpu_events),
    "KVM_GET_DEBUGREGS": _ior(0xA1, structs.kvm_debugregs),
    "KVM_SET_DEBUGREGS": _iow(0xA2, structs.kvm_debugregs),
    "KVM_GET_TSC_KHZ": _io(0xA3),
    "KVM_GET_XSAVE": _ior(0xA4, structs.kvm_xsave),
    "KVM_SET_XSAVE": _iow(0xA5, structs.kvm_xsave),
    "KVM_GET_XCRS": _ior(0xA6, structs.kvm_xcrs),
    "KVM_SET_XCRS": _iow(0xA7, structs.kvm_xcrs),
    "KVM_KVMCLOCK_CTRL": _io(0xAD),
}
KVM_RUN = IOCTLS["KVM_RUN"]
KVM_IRQ_LINE = IOCTLS["KVM_IRQ_LINE"]

EXITS = {
    "KVM_EXIT_UNKNOWN": 0,
    "KVM_EXIT_EXCEPTION": 1,
    "KVM_EXIT_IO": 2,
    "KVM_EXIT_HYPERCALL": 3,
    "KVM_EXIT_DEBUG": 4,
    "KVM_EXIT_HLT": 5,
    "KVM_EXIT_MMIO": 6,
    "KVM_EXIT_IRQ_WINDOW_OPEN": 7,
    "KVM_EXIT_SHUTDOWN": 8,
    "KVM_EXIT_FAIL_ENTRY": 9,
    "KVM_EXIT_INTR": 10,
    "KVM_EXIT_SET_TPR": 11,
    "KVM_EXIT_TPR_ACCESS": 12,
    "KVM_EXIT_NMI": 16,
    "KVM_EXIT_INTERNAL_ERROR": 17,
    "KVM_EXIT_SYSTEM_EVENT": 24,
    "KVM_EXIT_IOAPIC_EOI": 26,
    "KVM_EXIT_X86_RDMSR": 29,
    "KVM_EXIT_X86_WRMSR": 30,
    "KVM_EXIT_DIRTY_RING_FULL": 31,
    "KVM_EXIT_X86_BUS_LOCK": 33,
    "KVM_EXIT_NOTIFY": 37,
}
KVM_EXIT_UNKNOWN = EXITS["KVM_EXIT_UNKNOWN"]
KVM_EXIT_IO = EXITS["KVM_EXIT_IO"]
KVM_EXIT_MMIO = EXITS["KVM_EXIT_MMIO"]
KVM_EXIT_HLT = EXITS["KVM_EXIT_HLT"]
KVM_EXIT_INTR = EXITS["KVM_EXIT_INTR"]
KVM_EXIT_IRQ_WINDOW_OPEN = EXITS["KVM_EXIT_IRQ_WINDOW_OPEN"]
KVM_EXIT_SET_TPR = EXITS["KVM_EXIT_SET_TPR"]
KVM_EXIT_SHUTDOWN = EXITS["KVM_EXIT_SHUTDOWN"]
KVM_EXIT_FAIL_ENTRY = EXITS["KVM_EXIT_FAIL_ENTRY"]
KVM_EXIT_INTERNAL_ERROR = EXITS["KVM_EXIT_INTERNAL_ERROR"]
KVM_EXIT_SYSTEM_EVENT = EXITS["KVM_EXIT_SYSTEM_EVENT"]
KVM_EXIT_IOAPIC_EOI = EXITS["KVM_EXIT_IOAPIC_EOI"]

# struct kvm_run: the offset of each field that pykvm reads or writes.
RUN_PAGE = {
    "request_interrupt_window": 0,
    "immediate_exit": 1,
    "exit_reason": 8,
    "ready_for_interrupt_injection": 12,
    "if_flag": 13,
    "flags": 14,
    "cr8": 16,
    "apic_base": 24,
    "hw.hardware_exit_reason": 32,
    "fail_entry.hardware_entry_failure_reason": 32,
    "fail_entry.cpu": 40,
    "io.direction": 32,
    "io.size": 33,
    "io.port": 34,
    "io.count": 36,
    "io.data_offset": 40,
    "mmio.phys_addr": 32,
    "mmio.data": 40,
    "mmio.len": 48,
    "mmio.is_write": 52,
    "internal.suberror": 32,
    "internal.ndata": 36,
    "internal.data": 40,
    "emulation_failure.flags": 40,
    "emulation_failure.insn_size": 48,
    "emulation_failure.insn_bytes": 49,
    "eoi.vector": 32,
    "system_event.type": 32,
}

CONSTANTS = {
    "KVM_API_VERSION": 12,
    "KVM_EXIT_IO_IN": 0,
    "KVM_EXIT_IO_OUT": 1,
    "KVM_INTERNAL_ERROR_EMULATION": 1,
    "KVM_INTERNAL_ERROR_SIMUL_EX": 2,
    "KVM_INTERNAL_ERROR_DELIVERY_EV": 3,
    "KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON": 4,
    "KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES": 1,
    "KVM_MEM_LOG_DIRTY_PAGES": 1,
    "KVM_MEM_READONLY": 2,
    "KVM_MP_STATE_RUNNABLE": 0,
    "KVM_MP_STATE_UNINITIALIZED": 1,
    "KVM_MP_STATE_INIT_RECEIVED": 2,
    "KVM_MP_STATE_HALTED": 3,
    "KVM_MP_STATE_SIPI_RECEIVED": 4,
    "KVM_IRQCHIP_PIC_MASTER": 0,
    "KVM_IRQCHIP_PIC_SLAVE": 1,
    "KVM_IRQCHIP_IOAPIC": 2,
    "KVM_IRQ_ROUTING_IRQCHIP": 1,
    "KVM_IRQ_ROUTING_MSI": 2,
    "KVM_PIT_SPEAKER_DUMMY": 1,
    "KVM_IRQFD_FLAG_DEASSIGN": 1,
    "KVM_IRQFD_FLAG_RESAMPLE": 2,
    "KVM_IOEVENTFD_FLAG_DATAMATCH": 1,
    "KVM_IOEVENTFD_FLAG_PIO": 2,
    "KVM_IOEVENTFD_FLAG_DEASSIGN": 4,
    "KVM_GUESTDBG_ENABLE": 1,
    "KVM_GUESTDBG_SINGLESTEP": 2,
    "KVM_GUESTDBG_USE_SW_BP": 0x10000,
    "KVM_GUESTDBG_USE_HW_BP": 0x20000,
    "KVM_CPUID_FLAG_SIGNIFCANT_INDEX": 1,
    "KVM_VCPUEVENT_VALID_NMI_PENDING": 1,
    "KVM_VCPUEVENT_VALID_SIPI_VECTOR": 2,
    "KVM_VCPUEVENT_VALID_SHADOW": 4,
    "KVM_SYSTEM_EVENT_SHUTDOWN": 1,
    "KVM_SYSTEM_EVENT_RESET": 2,
    "KVM_SYSTEM_EVENT_CRASH": 3,
}

EXIT_NAMES = {number: name for name, number in EXITS.items()}
MP_STATE_NAMES = {value: name for name, value in CONSTANTS.items() if name.startswith("KVM_MP_STATE_")}
