"""Test kernels over the CPU and the PC under KVM: they print what the manuals say."""

from __future__ import annotations

import kernels
import pytest
from kernel_gaps import (
    EMULATING_KVM,
    EMULATING_KVM_CANNOT,
    KVM,
    KVM_CANNOT,
    LAB,
    LAB_CANNOT,
    LAB_STATUS,
    TCG,
)

from pykvm.host.backend import ring0_mips
from pykvm.host.speed import HARDWARE, kind
from pykvm.kvm.system import Kvm


@pytest.fixture(scope="module")
def hardware() -> bool:
    """Whether ring 0 runs on the hardware."""
    with Kvm() as kvm:
        return kind(ring0_mips(kvm)) == HARDWARE


@pytest.mark.parametrize("name", kernels.NAMES)
def test_a_kernel_prints_what_the_manuals_say(name, hardware, request):
    in_lab = request.config.getoption("inside")
    if name in KVM_CANNOT:
        pytest.skip(KVM_CANNOT[name])
    if in_lab and name in LAB_CANNOT:
        pytest.skip(LAB_CANNOT[name])
    if not hardware and name in EMULATING_KVM_CANNOT:
        pytest.skip(f"a KVM that interprets ring 0: {EMULATING_KVM_CANNOT[name]}")
    # KVM's own PIT has no null count: the kernel about it takes pykvm's.
    status, printed, said = kernels.boot(name, "--set", "backend=kvm", "--set", "pit=user")
    found = kernels.differences(name, printed)
    known = KVM.get(name, {}) | ({} if hardware else EMULATING_KVM).get(name, {})
    if in_lab:  # its CPU is QEMU's
        known |= TCG.get(name, {}) | LAB.get(name, {})
    if not hardware:
        found = {fact: values for fact, values in found.items() if not _by_int(*values)}
    unknown = {fact: values for fact, values in found.items() if fact not in known}
    assert not unknown, (unknown, said)
    right = kernels.STATUS.get(name, 0)
    assert status == (LAB_STATUS.get(name, right) if in_lab else right), said


def _by_int(wanted: str | None, came: str | None) -> bool:
    """Whether all that differs is INT from ring 3, which ends a trial: such a KVM raises #UD instead."""
    return bool(wanted and came) and wanted.startswith("2f+") and came.startswith("6+")
