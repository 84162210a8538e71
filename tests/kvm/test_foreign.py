"""Kernels that others wrote, out of Debian's packages: they run where README's table says that they do."""

from __future__ import annotations

import foreign
import pytest
from kernel_gaps import EMULATING_KVM_CANNOT, KVM_CANNOT

ON_HARDWARE, INTERPRETING, TRANSLATED = foreign.COLUMNS
OURS = "the kernels of `guests/tests`"
GUESTS = ("`hello`, `ticks`", "`linux`, `debian`")


def case(image: foreign.Foreign) -> object:
    """Every host has a back end that runs it, or only such whose KVM runs on hardware."""
    everywhere = foreign.stated()[image.name][TRANSLATED] == foreign.RUNS
    where = pytest.mark.any_backend if everywhere else pytest.mark.fast_kvm
    return pytest.param(image, id=image.name, marks=[where, pytest.mark.images(f"foreign:{image.name}")])


@pytest.mark.parametrize("image", [case(image) for image in foreign.IMAGES if not image.by_hand])
def test_a_kernel_out_of_a_package_runs_as_readme_says(image, tmp_path):
    status, said = foreign.boot(image, tmp_path)
    assert not foreign.fault(image, status, said), said[-3000:]


@pytest.mark.any_backend
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
