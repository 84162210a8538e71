"""The CPUID that a machine's CPUs get on this host, from its machine file."""

from __future__ import annotations

from pykvm.x86 import cpuid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.config.model import CpusConfig
    from pykvm.kvm.system import Kvm

# Features of the in-kernel local APIC: KVM has them but KVM_GET_SUPPORTED_CPUID doesn't say so
# (Documentation/virt/kvm/api.rst, KVM_GET_SUPPORTED_CPUID).
APIC_FEATURES = {"KVM_CAP_IRQCHIP": "x2apic", "KVM_CAP_TSC_DEADLINE_TIMER": "tsc_deadline_timer"}

# What KVM does by that APIC alone, so that it goes where the APIC is ours; KVM offers it all the same.
NEEDS_APIC = (
    *("x2apic", "tsc_deadline_timer", "kvm_asyncpf", "kvm_asyncpf_vmexit", "kvm_asyncpf_int"),
    *("kvm_pv_eoi", "kvm_pv_unhalt", "kvm_pv_ipi", "kvm_pv_sched_yield", "kvm_msi_ext_dest_id"),
)


def offered_cpuid(kvm: Kvm, *, own_apic: bool = False) -> list[dict[str, int]]:
    """All that this host's KVM offers to guests, whose local APIC is in the kernel or (``own_apic``) ours."""
    if own_apic:
        return cpuid.without(kvm.supported_cpuid(), NEEDS_APIC)
    more = [feature for cap, feature in APIC_FEATURES.items() if kvm.capability(cap)]
    return cpuid.with_offers(kvm.supported_cpuid(), more)


def guest_cpuid(kvm: Kvm, cpus: CpusConfig, *, own_apic: bool = False) -> list[dict[str, int]]:
    """What to ask KVM for: the model, edited by the machine file's features.

    Raises HostError for a model or a feature that this host's KVM doesn't offer.
    """
    offered = offered_cpuid(kvm, own_apic=own_apic)
    return cpuid.with_features(cpuid.for_model(offered, cpus.model), dict(cpus.features), offered)
