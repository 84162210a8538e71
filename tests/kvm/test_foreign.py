"""Kernels that others wrote, out of Debian's packages: they run where README's table says that they do."""

from __future__ import annotations

import foreign
import pytest
from kernel_gaps import EMULATING_KVM_CANNOT, KVM_CANNOT

from pykvm.errors import HostError
from pykvm.host.backend import ring0_mips
from pykvm.host.speed import HARDWARE, kind
from pykvm.kvm.system import Kvm

pytestmark = pytest.mark.any_backend

ON_HARDWARE, INTERPRETING, TRANSLATED = foreign.COLUMNS
OURS = "the kernels of `guests/tests`"
GUESTS = ("`hello`, `ticks`", "`linux`, `debian`")


@pytest.fixture(scope="module")
def column() -> str:
    """What ``backend: auto`` takes here."""
    try:
        with Kvm() as kvm:
            return ON_HARDWARE if kind(ring0_mips(kvm)) == HARDWARE else TRANSLATED
    except HostError:
        return TRANSLATED


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            image.name,
            marks=[pytest.mark.images(f"foreign:{image.name}")] if image.tested == foreign.LAB else [],
        )
        for image in foreign.IMAGES
        if image.tested != foreign.BY_HAND
    ],
)
def test_a_kernel_out_of_a_package_runs_as_readme_says(name, column, tmp_path, request):
    image = foreign.named(name)
    if request.config.getoption("inside") and image.tested != foreign.LAB:
        pytest.skip("the lab takes its time: tests/programs/foreign.py boots it there by hand")
    stated = foreign.stated()[name][column]
    if stated != foreign.RUNS:
        pytest.skip(f"{name} by {column}: {stated}")
    status, said = foreign.boot(image, tmp_path)
    assert not foreign.fault(image, status, said), said[-3000:]


def test_readmes_table_has_each_kernel_and_counts_ours():
    stated = foreign.stated()
    assert tuple(stated) == (*GUESTS, OURS, *foreign.NAMES)
    cannot = {
        ON_HARDWARE: KVM_CANNOT.keys(),
        INTERPRETING: KVM_CANNOT.keys() | EMULATING_KVM_CANNOT.keys(),
        TRANSLATED: set(),
    }
    counted = {column: f"all but {len(names)}" if names else "all" for column, names in cannot.items()}
    assert stated[OURS] == counted
