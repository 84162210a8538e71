"""Capabilities that pykvm asks KVM for: number, whether it can go without, and what each is for."""

from __future__ import annotations

# name: (number, needed, what it gives)
CAPABILITIES = {
    "KVM_CAP_IRQCHIP": (0, True, "PIC, IOAPIC and local APIC in the kernel"),
    "KVM_CAP_USER_MEMORY": (3, True, "guest memory in our address space"),
    "KVM_CAP_SET_TSS_ADDR": (4, False, "place of the TSS that Intel's real mode needs"),
    "KVM_CAP_EXT_CPUID": (7, True, "CPUID leaves with sub-leaves"),
    "KVM_CAP_NR_VCPUS": (9, False, "vCPUs that KVM recommends at most"),
    "KVM_CAP_NR_MEMSLOTS": (10, False, "memory slots"),
    "KVM_CAP_MP_STATE": (14, False, "reading whether a vCPU is halted"),
    "KVM_CAP_COALESCED_MMIO": (15, False, "writes to memory collected without an exit each"),
    "KVM_CAP_SET_GUEST_DEBUG": (23, False, "single steps and breakpoints"),
    "KVM_CAP_IRQ_ROUTING": (25, False, "routes from interrupt numbers to controllers, MSI"),
    "KVM_CAP_IRQFD": (32, False, "interrupts raised by an eventfd"),
    "KVM_CAP_PIT2": (33, False, "the PIT in the kernel"),
    "KVM_CAP_PIT_STATE2": (35, False, "saving and loading the kernel's PIT"),
    "KVM_CAP_IOEVENTFD": (36, False, "doorbells: writes that signal an eventfd without an exit"),
    "KVM_CAP_SET_IDENTITY_MAP_ADDR": (37, False, "place of the page table that Intel's real mode needs"),
    "KVM_CAP_ADJUST_CLOCK": (39, False, "saving and loading the guest's KVM clock"),
    "KVM_CAP_INTERNAL_ERROR_DATA": (40, False, "details of an instruction that KVM gave up"),
    "KVM_CAP_VCPU_EVENTS": (41, True, "injecting exceptions"),
    "KVM_CAP_DEBUGREGS": (50, False, "saving debug registers"),
    "KVM_CAP_ENABLE_CAP": (54, False, "switching capabilities on"),
    "KVM_CAP_XSAVE": (55, False, "the FPU's and vector registers' state"),
    "KVM_CAP_XCRS": (56, False, "XCR0"),
    "KVM_CAP_TSC_CONTROL": (60, False, "a TSC rate of our choice"),
    "KVM_CAP_GET_TSC_KHZ": (61, False, "the TSC's rate"),
    "KVM_CAP_MAX_VCPUS": (66, False, "vCPUs that KVM allows at most"),
    "KVM_CAP_TSC_DEADLINE_TIMER": (72, False, "the local APIC's TSC deadline timer"),
    "KVM_CAP_SYNC_REGS": (74, False, "registers in the run page"),
    "KVM_CAP_READONLY_MEM": (81, False, "ROM: memory that the guest can't write"),
    "KVM_CAP_IRQFD_RESAMPLE": (82, False, "level interrupts by eventfd"),
    "KVM_CAP_ENABLE_CAP_VM": (98, False, "switching capabilities of a VM on"),
    "KVM_CAP_X86_SMM": (117, False, "system management mode"),
    "KVM_CAP_GUEST_DEBUG_HW_BPS": (119, False, "breakpoints in debug registers"),
    "KVM_CAP_SPLIT_IRQCHIP": (121, False, "only the local APIC in the kernel"),
    "KVM_CAP_IMMEDIATE_EXIT": (136, True, "leaving KVM_RUN at once, without a lost signal"),
    "KVM_CAP_X86_DISABLE_EXITS": (143, False, "HLT and MWAIT without exits"),
    "KVM_CAP_NESTED_STATE": (157, False, "virtualization inside the guest"),
    "KVM_CAP_COALESCED_PIO": (162, False, "writes to ports collected without an exit each"),
    "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2": (168, False, "dirty logs cleared by us"),
    "KVM_CAP_X86_USER_SPACE_MSR": (188, False, "unknown MSRs answered by us"),
    "KVM_CAP_X86_MSR_FILTER": (189, False, "chosen MSRs answered by us"),
    "KVM_CAP_DIRTY_LOG_RING": (192, False, "dirty pages in a ring"),
    "KVM_CAP_EXIT_ON_EMULATION_FAILURE": (204, False, "an exit in place of #UD when KVM gives up"),
    "KVM_CAP_XSAVE2": (208, False, "vector state beyond 4 KiB"),
}


def number(name: str) -> int:
    """The number of the capability ``name``."""
    return CAPABILITIES[name][0]
