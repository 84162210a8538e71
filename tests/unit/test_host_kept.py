"""What was measured is measured once, until something changes that it depends on."""

from __future__ import annotations

import pytest
from host_doubles import FakeKvm

from pykvm.frozen import replace
from pykvm.host import kept as kept_module
from pykvm.host.backend import ring0_mips
from pykvm.host.facts import Facts, facts
from pykvm.host.kept import Kept
from pykvm.host.probe import kept_probe


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("PYKVM_CACHE", str(folder))
    return folder


def test_a_probe_is_made_once_and_anew_where_that_is_asked_for():
    kvm = FakeKvm()
    first = kept_probe(kvm)
    tried = len(kvm.tried)
    assert tried > 40
    assert kept_probe(kvm) == first
    assert len(kvm.tried) == tried
    kvm.gaps["clwb"] = "resets"
    again = kept_probe(kvm, fresh=True)
    assert again != first
    assert kept_probe(kvm) == again
    assert len(kvm.tried) == 2 * tried


def test_a_cache_that_can_not_be_written_costs_only_the_time(cache):
    cache.write_text("a file where the folder should be")
    kvm = FakeKvm()
    assert kept_probe(kvm) is not None
    assert ring0_mips(kvm) > 30


def test_a_damaged_entry_is_measured_again(cache):
    first = kept_probe(FakeKvm())
    for path in (cache / "data").iterdir():
        path.chmod(0o644)
        path.write_bytes(b"{")
    again = kept_probe(FakeKvm())
    assert again["instructions"] == first["instructions"]


def test_what_is_kept_depends_on_each_fact_of_the_host(monkeypatch):
    known = facts()
    Kept("x", "host/speed.py").write("here")
    assert Kept("x", "host/speed.py").read() == "here"
    for name in ("release", "version", "driver", "parameters", "cpu", "flags"):
        changed = replace(known, **{name: getattr(known, name) + "'"})
        monkeypatch.setattr(kept_module, "facts", lambda changed=changed: changed)
        assert Kept("x", "host/speed.py").read() is None, name


def test_what_is_kept_depends_on_what_it_was_made_by(monkeypatch, tmp_path):
    monkeypatch.setattr(kept_module, "PACKAGE", str(tmp_path))
    source = tmp_path / "room" / "inner" / "probe.py"
    source.parent.mkdir(parents=True)
    source.write_text("one")
    Kept("x", "room").write("made by one")
    assert Kept("x", "room").read() == "made by one"
    source.write_text("two")
    assert Kept("x", "room").read() is None


def test_the_speed_that_a_probe_has_measured_is_not_measured_again():
    kept_probe(FakeKvm())
    kvm = FakeKvm()
    ring0_mips(kvm)
    assert kvm.vms == 0


def host_folder(tmp_path, parameters):
    for module, values in parameters.items():
        folder = tmp_path / "module" / module / "parameters"
        folder.mkdir(parents=True)
        for name, value in values.items():
            (folder / name).write_text(value + "\n")
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "processor : 0\nmodel name : A CPU\nflags : fpu vme\n\nprocessor : 1\nmodel name : B\n"
    )
    return facts(str(tmp_path / "module"), str(cpuinfo))


def test_the_host_is_described_by_its_driver_parameters_and_processor(tmp_path):
    known = host_folder(tmp_path, {"kvm": {"nx": "Y"}, "kvm_amd": {"npt": "1", "avic": "N"}, "loop": {}})
    assert known.driver == "kvm_amd"
    assert known.parameters == "nx=Y; avic=N npt=1"
    assert (known.cpu, known.flags) == ("A CPU", "fpu vme")


def test_a_host_that_shows_nothing_of_itself_is_described_by_nothing(tmp_path):
    known = facts(str(tmp_path / "none"), str(tmp_path / "none"))
    assert isinstance(known, Facts)
    assert (known.driver, known.parameters, known.cpu, known.flags) == ("", "", "", "")
