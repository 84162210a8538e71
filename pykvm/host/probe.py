"""What this host's KVM can and can't, tried with guests of a few instructions where it can't be asked."""

from __future__ import annotations

import time

from pykvm.host.cpuid import offered_cpuid
from pykvm.host.guest import GIVEN_UP, HANGS, WORKS, ProbeGuest
from pykvm.host.programs import INSTRUCTIONS, PAGING
from pykvm.host.speed import kind, mips
from pykvm.kvm.capabilities import CAPABILITIES
from pykvm.x86 import cpuid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pykvm.host.programs import Program
    from pykvm.kvm.system import Kvm

WRONG = "wrong"
"""The guest went on, with another result than the processor's manual gives."""


def kept_probe(kvm: Kvm, *, fresh: bool = False) -> dict[str, Any]:
    """What ``probe`` told on this host before; where it hasn't, or with ``fresh``, what it tells now."""
    import json  # late: `boot` looks into this room without it

    from pykvm.host.backend import kept_speed
    from pykvm.host.kept import Kept

    kept = Kept("the probe of KVM", "host", "x86", "kvm/capabilities.py")
    text = None if fresh else kept.read()
    if text is not None:
        told: dict[str, Any] = json.loads(text)
        return told
    told = probe(kvm)
    kept.write(json.dumps(told))
    kept_speed().write(str(told["ring0"]["mips"]))
    return told


def probe(kvm: Kvm, clock: Callable[[], int] = time.perf_counter_ns) -> dict[str, Any]:
    """Everything, as plain data. Main thread only. Raises HostError where no guest can be made at all."""
    offered = offered_cpuid(kvm)
    capabilities = {name: kvm.capability(name) for name in CAPABILITIES}
    guest = ProbeGuest(kvm, clock)
    try:
        least = _least(offered)
        fixed = cpuid.difference(least, guest.show(least))
        seen = guest.show(offered)
        features = cpuid.names(seen)
        measured = mips(guest)
        instructions = [_try(guest, row) for row in INSTRUCTIONS if not row.needs or row.needs in features]
        paging = [_try(guest, row) for row in PAGING if row.needs in features]
        tsc_khz = guest.tsc_khz() if capabilities["KVM_CAP_GET_TSC_KHZ"] else None
    finally:
        guest.close()
    return {
        "ring0": {"kind": kind(measured), "mips": round(measured, 1)},
        "instructions": instructions,
        "paging": {row["name"]: row["verdict"] for row in paging},
        "cpuid": {
            "features": sorted(features),
            "changed": cpuid.difference(offered, seen),
            "fixed": [name[1:] for name in fixed if name.startswith("+")],
        },
        "capabilities": capabilities,
        "limits": {
            "vcpus": capabilities["KVM_CAP_MAX_VCPUS"] or capabilities["KVM_CAP_NR_VCPUS"],
            "memory_slots": capabilities["KVM_CAP_NR_MEMSLOTS"],
            "tsc_khz": tsc_khz,
        },
    }


def _least(offered: list[dict[str, int]]) -> list[dict[str, int]]:
    """As few features as a PC of 64 bits can have: those that a guest sees all the same can't be hidden."""
    more = cpuid.names(offered) - cpuid.baseline("x86-64-v1")
    return cpuid.with_features(offered, dict.fromkeys(more, False))


def _try(guest: ProbeGuest, row: Program) -> dict[str, Any]:
    """How it went: the verdict, and whether pykvm finishes what KVM gives up."""
    ending = guest.run(row.mode, row.code)
    if ending.how == HANGS:  # or the host had no time for us: nobody is busy twice
        ending = guest.run(row.mode, row.code)
    verdict, finished = ending.how, False
    if verdict == GIVEN_UP:
        finished = guest.finishes(ending.code)
    elif verdict == WORKS and row.expect:
        regs = guest.regs()
        if any(regs[name] != value for name, value in row.expect.items()):
            verdict = WRONG
    return {"name": row.name, "verdict": verdict, "finished": finished}
