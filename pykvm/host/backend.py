"""Whether this host's KVM can carry a machine, decided by what was measured and never by a name."""

from __future__ import annotations

import os

from pykvm.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pykvm.host.kept import Kept
    from pykvm.kvm.system import Kvm


def require_kvm(kvm: Kvm, *, needs_ring0: bool) -> dict[str, Any]:
    """What the report says of the host. Raises HostError where its KVM is no place for this guest.

    ``needs_ring0``: the guest does so much in ring 0 (an operating system) that only hardware will do. Other
    guests don't wait for a measurement, nor for the reading of a kept one.
    """
    told: dict[str, Any] = {"backend": "kvm", "kernel": os.uname().release, "ring0": "unknown"}
    if needs_ring0:
        from pykvm.host.speed import INTERPRETED, kind

        measured = ring0_mips(kvm)
        told["ring0"] = kind(measured)
        told["ring0_mips"] = round(measured, 1)
        if told["ring0"] == INTERPRETED:
            raise HostError(
                "this host's KVM interprets the guest's kernel code (about "
                f"{measured:.1f} million instructions a second, where hardware does thousands), too slow and "
                "incomplete for Linux",
                where="/dev/kvm",
                remedy="run it where KVM has hardware virtualization, nested or not (translation, which will "
                "carry Linux here, comes with a later version)",
            )
    return told


def ring0_mips(kvm: Kvm, *, fresh: bool = False) -> float:
    """Million instructions a second in the guest's ring 0: measured once on a host, then remembered."""
    kept = kept_speed()
    text = None if fresh else kept.read()
    if text is not None:
        return float(text)
    measured = _measure(kvm)
    kept.write(f"{measured:.1f}")
    return measured


def kept_speed() -> Kept:
    """Where the speed of ring 0 is remembered."""
    from pykvm.host.kept import Kept  # late: a guest that isn't measured shouldn't wait for it

    return Kept("the speed of ring 0", "host/speed.py", "host/guest.py")


def _measure(kvm: Kvm) -> float:
    from pykvm.host.guest import ProbeGuest
    from pykvm.host.speed import mips

    guest = ProbeGuest(kvm)
    try:
        guest.show(kvm.supported_cpuid())
        return mips(guest)
    finally:
        guest.close()
