"""In a guest under KVM programs compute what they compute on its host: self-checking ones and busybox."""

from __future__ import annotations

from pathlib import Path

import guest_programs as guests
import pytest
from guest_programs import Guests, Ran

pytestmark = [pytest.mark.fast_kvm, pytest.mark.images("linux", "programs")]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return guests.kept(tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="module")
def here(programs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    return guests.all_native(programs, tmp_path_factory.mktemp("smoke"))


@pytest.fixture(scope="module")
def there(programs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Guests:
    return guests.run_all("kvm", [*programs, guests.SMOKE], programs, tmp_path_factory.mktemp("guest"))


@pytest.mark.parametrize("name", [*guests.PROGRAMS, guests.SMOKE])
def test_a_program_prints_in_a_guest_what_it_prints_here(name, here, there):
    assert there.faults(name, here[name]) == []


def test_one_guest_runs_them_all_and_powers_off(there):
    assert there.ends() == [0], there.said()
