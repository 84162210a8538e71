"""Whether this host's KVM can carry a machine, decided by what was measured and never by a name."""

from __future__ import annotations

import os

from pykvm.cache import Cache
from pykvm.cache.digest import key_of
from pykvm.errors import HostError, PykvmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pykvm.kvm.system import Kvm

VERSION = "1"
"""Counts up when the measurement changes: what was kept of older ones is then forgotten."""


def ring0_mips(kvm: Kvm, *, fresh: bool = False) -> float:
    """Million instructions a second in the guest's ring 0: measured once on a host, then remembered."""
    from pykvm.host.facts import facts

    cache = Cache()
    key = key_of("ring 0 speed", VERSION, *facts().key)
    if fresh:
        cache.remove(key)
    path = cache.get(key)
    if path is not None:
        with open(path, encoding="ascii") as file:
            return float(file.read())
    measured = _measure(kvm)
    try:
        cache.put(key, lambda file: _write(file, measured), 64)
    except PykvmError:  # a full disk is no reason not to boot
        return measured
    return measured


def _write(file: Any, measured: float) -> None:
    file.write(f"{measured:.1f}".encode())


def _measure(kvm: Kvm) -> float:
    from pykvm.host.guest import ProbeGuest
    from pykvm.host.speed import mips

    guest = ProbeGuest(kvm, kvm.supported_cpuid())
    try:
        return mips(guest)
    finally:
        guest.close()


def require_kvm(kvm: Kvm, *, needs_ring0: bool) -> dict[str, Any]:
    """What the report says of the host. Raises HostError where its KVM is no place for this guest.

    ``needs_ring0``: the guest does so much in ring 0 (an operating system) that only hardware will do.
    """
    told: dict[str, Any] = {"backend": "kvm", "kernel": os.uname().release}
    if needs_ring0:
        from pykvm.host.speed import INTERPRETED, kind

        measured = ring0_mips(kvm)
        told["ring0"] = kind(measured)
        if told["ring0"] == INTERPRETED:
            raise HostError(
                f"this host's KVM interprets a guest's kernel, at {measured:.1f} million instructions a "
                "second, where hardware does thousands: too slow, and too incomplete, for Linux",
                where="/dev/kvm",
                remedy="boot it where KVM has hardware virtualization, or nested virtualization is on",
            )
    return told
