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


def offered_cpuid(kvm: Kvm) -> list[dict[str, int]]:
    """All that this host's KVM offers to guests with the local APIC in the kernel."""
    more = [feature for cap, feature in APIC_FEATURES.items() if kvm.capability(cap)]
    return cpuid.with_offers(kvm.supported_cpuid(), more)


def guest_cpuid(kvm: Kvm, cpus: CpusConfig) -> list[dict[str, int]]:
    """What to ask KVM for: the model, edited by the machine file's features.

    Raises HostError for a model or a feature that this host's KVM doesn't offer.
    """
    offered = offered_cpuid(kvm)
    return cpuid.with_features(cpuid.for_model(offered, cpus.model), dict(cpus.features), offered)
