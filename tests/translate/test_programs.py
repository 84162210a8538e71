"""A guest computes what this host computes: self-checking programs and busybox, in a Linux guest.

One guest a back end runs all of them (tests/programs), and where it dies of one another goes on;
`tests/programs/run` does the same from a shell.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import guest_programs as guests
import pytest
from guest_programs import Ran

LONG = 900  # seconds for the guest; a busy host is slow
SEVERAL_CPUS = ("cpus", "memory", "processes", "selfmod", "signals", "threads")


def lacks(backend: str) -> str:
    """Why this back end can't run a Linux here, or nothing."""
    if backend == "translate":
        found = importlib.util.find_spec("pykvm.translate.cpu")
        return "" if found else "no translator yet: pykvm.translate.cpu is missing"
    words = [sys.executable, "-m", "pykvm", "info", "--json"]
    told = json.loads(subprocess.run(words, capture_output=True, text=True, timeout=LONG).stdout)
    if not told["kvm"]:
        return f"no KVM: {told['error']}"
    ring0 = told["kvm"]["ring0"]["kind"]
    return "" if ring0 == "hardware" else f"this host's KVM runs ring 0 as: {ring0}"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return guests.compiled(tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="module")
def here(programs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    """Each run on this host."""
    ran = {name: guests.native(program) for name, program in programs.items()}
    return ran | {guests.SMOKE: guests.native_smoke(tmp_path_factory.mktemp("smoke"))}


@dataclass(frozen=True)
class Guests:
    """What the programs printed in a back end's guests, and how each guest ended."""

    backend: str
    ran: dict[str, Ran]
    boots: list[subprocess.CompletedProcess[str]]
    names: list[str]


@pytest.fixture(scope="module", params=["kvm", "translate", "translate-4"])
def there(
    request: pytest.FixtureRequest, programs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Guests:
    """One guest, if it survives, has run all of them; one of four CPUs those for which that matters."""
    backend, _, cpus = request.param.partition("-")
    if reason := lacks(backend):
        pytest.skip(reason)
    names = list(SEVERAL_CPUS) if cpus else [*programs, guests.SMOKE]
    folder = tmp_path_factory.mktemp("guest")
    image = guests.kernel("linux")
    ran, boots = guests.run_in_guest(
        backend, image, names, programs, folder, timeout=LONG, cpus=int(cpus or 1)
    )
    return Guests(backend, ran, boots, names)


@pytest.mark.parametrize("name", [*guests.PROGRAMS, guests.SMOKE])
def test_a_program_prints_in_a_guest_what_it_prints_here(name, here, there):
    if name not in there.names:
        pytest.skip(f"{name} is run on one CPU only")
    assert name in there.ran, f"{name} wasn't reached:\n{there.boots[-1].stdout[-2000:]}"
    assert guests.differences(here[name], there.ran[name]) == []


def test_one_guest_runs_them_all_and_powers_off(there):
    ends = [(done.returncode, done.stdout[-1000:], done.stderr[-1000:]) for done in there.boots]
    assert [status for status, _, _ in ends] == [0], ends


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
