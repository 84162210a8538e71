"""A guest computes what this host computes: self-checking programs and busybox, in a Linux guest.

One guest runs all of them (tests/programs), and where it dies of one another goes on;
`tests/programs/run` does the same from a shell.
"""

from __future__ import annotations

from pathlib import Path

import guest_programs as guests
import pytest
from guest_programs import Guests, Ran

SEVERAL_CPUS = ("cpus", "memory", "processes", "selfmod", "signals", "threads")
"""For these it matters how many CPUs there are: they run on four too."""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return guests.kept(tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="module")
def here(programs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    return guests.all_native(programs, tmp_path_factory.mktemp("smoke"))


@pytest.fixture(scope="module")
def one_cpu(programs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Guests:
    """One guest, if it survives, has run all of them."""
    return guests.run_all("translate", [*programs, guests.SMOKE], programs, tmp_path_factory.mktemp("guest"))


@pytest.fixture(scope="module")
def four_cpus(programs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Guests:
    return guests.run_all("translate", list(SEVERAL_CPUS), programs, tmp_path_factory.mktemp("guest"), cpus=4)


@pytest.mark.parametrize("name", [*guests.PROGRAMS, guests.SMOKE])
def test_a_program_prints_in_a_guest_what_it_prints_here(name, here, one_cpu):
    assert one_cpu.faults(name, here[name]) == []


@pytest.mark.parametrize("name", SEVERAL_CPUS)
def test_a_program_prints_the_same_in_a_guest_of_four_cpus(name, here, four_cpus):
    assert four_cpus.faults(name, here[name]) == []


def test_one_guest_runs_them_all_and_powers_off(one_cpu):
    assert one_cpu.ends() == [0], one_cpu.said()


def test_one_of_four_cpus_does_too(four_cpus):
    assert four_cpus.ends() == [0], four_cpus.said()


@pytest.mark.parametrize("name", guests.PROGRAMS)
def test_a_program_is_right_here_and_the_same_again(name, here, programs):
    assert here[name].status == 0
    assert "not so" not in here[name].output
    assert here[name].output.count("\n") >= 4
    assert guests.native(programs[name]) == here[name]


def test_the_smoke_test_reaches_its_end_and_has_its_applets(here):
    output = here[guests.SMOKE].output
    assert output.endswith("== end\n")
    assert "not found" not in output


def test_the_guests_output_is_taken_apart_by_program():
    console = (
        "noise\r\n#### begin one\r\none: a 1\r\none: b 2\r\n\r\n#### end one 0\r\n"
        "\r\n#### begin two\r\nhalf of it"
    )
    assert guests.parsed(console) == {
        "one": Ran("one: a 1\none: b 2\n", 0),
        "two": Ran("half of it", None),  # the guest stopped here
    }


@pytest.mark.parametrize(
    "guest, count",
    [
        (Ran("x: a 1\nx: b 2\n", 0), 0),
        (Ran("x: a 1\nx: b absent\n", 0), 0),  # its CPU may have less than this host's
        (Ran("x: a 1\nx: b 3\n", 0), 1),
        (Ran("x: a 1\n", 0), 1),
        (Ran("x: a 1\nx: b 2\nx: c 3\n", 0), 1),
        (Ran("x: a 1\nx: b 2\n", 139), 1),
        (Ran("", None), 3),
    ],
)
def test_what_differs_is_told(guest, count):
    assert len(guests.differences(Ran("x: a 1\nx: b 2\n", 0), guest)) == count
