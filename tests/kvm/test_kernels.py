"""Test kernels over the CPU and the PC under KVM: they print what the manuals say."""

from __future__ import annotations

import kernels
import pytest
from kernel_gaps import (
    EMULATING_KVM,
    EMULATING_KVM_BY_PLACE,
    EMULATING_KVM_CANNOT,
    EMULATING_KVM_SPLIT_CANNOT,
    KVM,
    KVM_BY_PLACE,
    KVM_CANNOT,
    LAB,
    LAB_CANNOT,
    LAB_STATUS,
    TCG,
    USER_CANNOT,
)

from pykvm.host.backend import ring0_mips
from pykvm.host.speed import HARDWARE, kind
from pykvm.kvm.system import Kvm


@pytest.fixture(scope="module")
def hardware() -> bool:
    """Whether ring 0 runs on the hardware."""
    with Kvm() as kvm:
        return kind(ring0_mips(kvm)) == HARDWARE


PLACES = ("kernel", "split", "user")
"""Where the interrupt controllers are."""


def case(name: str, place: str) -> object:
    marks = []
    if name in EMULATING_KVM_CANNOT or (place == "split" and name in EMULATING_KVM_SPLIT_CANNOT):
        marks.append(pytest.mark.fast_kvm)
    if name in LAB_CANNOT:
        marks.append(pytest.mark.no_lab(LAB_CANNOT[name]))
    return pytest.param(name, place, marks=marks)


CASES = [
    case(name, place)
    for name in kernels.NAMES
    for place in PLACES[: 3 if name in kernels.INTERRUPTED else 1]
    if name not in KVM_CANNOT and not (place == "user" and name in USER_CANNOT)
]


@pytest.mark.parametrize(("name", "place"), CASES)
def test_a_kernel_prints_what_the_manuals_say(name, place, hardware, request):
    in_lab = request.config.getoption("inside")
    # KVM's own PIT has no null count: the kernel about it takes pykvm's.
    where = ("--set", f"interrupts={place}", "--set", "pit=user")
    status, printed, said = kernels.boot(name, "--set", "backend=kvm", *where)
    found = kernels.differences(name, printed)
    tables = [KVM, KVM_BY_PLACE.get(place, {})]
    if not hardware:
        tables += [EMULATING_KVM, EMULATING_KVM_BY_PLACE.get(place, {})]
        found = {fact: values for fact, values in found.items() if not _by_int(*values)}
    if in_lab:  # its CPU is QEMU's
        tables += [TCG, LAB]
    known = {fact for table in tables for fact in table.get(name, {})}
    unknown = {fact: values for fact, values in found.items() if fact not in known}
    assert not unknown, (unknown, said)
    right = kernels.STATUS.get(name, 0)
    assert status == (LAB_STATUS.get(name, right) if in_lab else right), said


def _by_int(wanted: str | None, came: str | None) -> bool:
    """Whether all that differs is INT from ring 3, which ends a trial: such a KVM raises #UD instead."""
    return bool(wanted and came) and wanted.startswith("2f+") and came.startswith("6+")
