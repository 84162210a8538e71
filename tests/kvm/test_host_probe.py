"""The probe and ``pykvm info`` on whichever KVM this host has."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from pykvm.host.guest import DATA, GIVEN_UP, HANGS, RESETS, WORKS, ProbeGuest
from pykvm.host.probe import probe
from pykvm.host.speed import kind, mips
from pykvm.kvm.system import Kvm

INFO = [sys.executable, "-m", "pykvm", "info"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PYKVM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def kvm():
    with Kvm() as kvm:
        yield kvm


@pytest.fixture
def guest(kvm):
    guest = ProbeGuest(kvm)
    guest.show(kvm.supported_cpuid())
    yield guest
    guest.close()


def test_the_speed_of_ring_0_means_the_same_each_time(guest):
    speeds = [mips(guest) for _ in range(4)]
    assert len({kind(speed) for speed in speeds}) == 1, speeds


@pytest.mark.parametrize("mode", ["real", "protected", "long"])
def test_a_guest_that_ends_as_it_should_has_worked(guest, mode):
    assert guest.run(mode, b"\x90").how == WORKS


def test_a_guest_that_does_not_end_is_left(guest):
    assert guest.run("long", b"\xeb\xfe").how == HANGS
    assert guest.run("long", b"\x90").how == WORKS


def test_a_guest_that_crashes_resets_and_the_next_one_runs(guest):
    assert guest.run("long", bytes.fromhex("0f0b")).how == RESETS  # ud2 without an IDT
    assert guest.run("real", b"\x90").how == WORKS


def test_a_guest_leaves_its_registers(guest):
    assert guest.run("long", bytes.fromhex("b878563412")).how == WORKS
    regs = guest.regs()
    assert (regs["rax"], regs["rsi"]) == (0x1234_5678, DATA)


def test_the_instructions_that_pykvm_finishes_are_those_that_kvm_gives_up(kvm):
    told = probe(kvm)
    names = [row["name"] for row in told["instructions"]]
    assert {"int3", "iretq", "fwait", "rep movsb"} <= set(names)
    assert all(row["verdict"] == GIVEN_UP for row in told["instructions"] if row["finished"])
    assert told["paging"]["4-level"] == WORKS
    if told["ring0"]["kind"] == "hardware":
        assert set(told["paging"].values()) == {WORKS}
        assert GIVEN_UP not in {row["verdict"] for row in told["instructions"]}


def test_a_probe_leaves_no_descriptor(kvm):
    before = os.listdir("/proc/self/fd")
    probe(kvm)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_info_tells_the_same_from_its_cache_and_anew_on_demand():
    told = json.loads(subprocess.run([*INFO, "--json"], capture_output=True, text=True, check=True).stdout)
    assert set(told) == {"host", "kvm", "translation", "backend", "why", "boots", "error"}
    assert set(told["host"]) == {"kernel", "driver", "parameters", "cpu"}
    parts = {"ring0", "instructions", "paging", "cpuid", "capabilities", "limits"}
    assert set(told["kvm"]) == parts
    assert told["host"]["kernel"] == os.uname().release
    assert told["boots"]["linux"] == (told["kvm"]["ring0"]["kind"] == "hardware" or not told["translation"])
    assert told["kvm"]["limits"]["vcpus"] >= 1
    kept = json.loads(subprocess.run([*INFO, "--json"], capture_output=True, text=True, check=True).stdout)
    assert kept == told
    words = subprocess.run([*INFO, "--fresh"], capture_output=True, text=True, check=True).stdout
    assert ("All guests run here." in words) == told["boots"]["linux"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize("option", [(), ("--json",)])
def test_info_tells_what_it_knows_where_there_is_no_kvm(option):
    script = f"mount --bind /dev/null /dev/kvm && exec {' '.join((*INFO, *option))}"
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True)
    assert done.stderr == ""
    assert "it is not KVM" in done.stdout
    assert os.uname().release in done.stdout
    if option:
        told = json.loads(done.stdout)
        assert told["kvm"] is None
        assert told["backend"] == (None if told["translation"] else "translate")
        assert done.returncode == (69 if told["translation"] else 0)
