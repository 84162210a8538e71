"""Which back end `auto` takes, and what a user is told where there is none."""

from __future__ import annotations

import pytest
from host_doubles import FakeKvm

from pykvm.config import load
from pykvm.errors import HostError
from pykvm.host import backend
from pykvm.host.backend import choose, kept_speed, require_linux


class Device(FakeKvm):
    """/dev/kvm that is opened and closed."""

    opened = 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        return None


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PYKVM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def host(monkeypatch):
    """Makes this a host whose KVM runs ring 0 at so many MIPS, or fails, where translation works or not."""

    class Host:
        opened = 0
        device = None

        def __call__(self, *, mips=None, error=None, impossible=None):
            def open_device():
                self.opened += 1
                if error is not None:
                    raise error
                self.device = Device()
                return self.device

            if mips is not None:
                kept_speed().write(str(mips))
            monkeypatch.setattr(backend, "Kvm", open_device)
            monkeypatch.setattr(backend, "translation_impossible", lambda: impossible)
            return self

    return Host()


@pytest.fixture
def machine(tmp_path):
    def make(more=""):
        (tmp_path / "machine.yaml").write_text("kernel: k\n" + more)
        return load(str(tmp_path / "machine.yaml"))

    return make


MISSING = HostError("there is no KVM on this host", where="/dev/kvm", remedy="load it")


def test_auto_takes_kvm_where_ring_0_runs_on_the_hardware(host, machine):
    host(mips=350.0)
    choice = choose(machine())
    require_linux(choice)
    assert choice.backend == "kvm"
    told = choice.report()
    assert (told["backend"], told["ring0"], told["ring0_mips"]) == ("kvm", "hardware", 350.0)
    assert "on the hardware" in told["why"]


def test_auto_translates_where_kvm_interprets(host, machine):
    host(mips=2.4)
    choice = choose(machine())
    require_linux(choice)
    assert choice.backend == "translate"
    told = choice.report()
    assert told["why"] == "this host's KVM interprets a guest's kernel, at 2.4 million instructions a second"
    assert (told["ring0"], told["ring0_mips"]) == ("interpreted", 2.4)


def test_auto_translates_where_kvm_is_missing_forbidden_or_broken(host, machine):
    host(error=MISSING)
    choice = choose(machine())
    require_linux(choice)
    assert (choice.backend, choice.why) == ("translate", "/dev/kvm: there is no KVM on this host")
    assert choice.report()["ring0"] == "unknown"


def test_a_kvm_that_is_never_measured_to_its_end_is_broken(host, machine, monkeypatch):
    def broken(kvm):
        raise HostError("KVM_CREATE_VM failed: EBUSY", where="/dev/kvm")

    host()
    monkeypatch.setattr(backend, "ring0_mips", broken)
    assert choose(machine()).backend == "translate"


def test_where_neither_works_both_reasons_are_told(host, machine):
    host(error=MISSING, impossible="this host's processor is mips")
    with pytest.raises(HostError) as raised:
        choose(machine())
    assert raised.value.status == 69
    assert str(raised.value) == (
        "/dev/kvm: there is no KVM on this host, and translation is impossible here: "
        "this host's processor is mips; load it"
    )


def test_an_interpreting_kvm_without_translation_is_for_small_guests(host, machine):
    host(mips=2.4, impossible="no memory is executable")
    choice = choose(machine())
    assert choice.backend == "kvm"
    with pytest.raises(HostError) as raised:
        require_linux(choice)
    assert raised.value.status == 69
    sentence = str(raised.value)
    assert sentence.startswith("/dev/kvm: this host's KVM interprets the guest's kernel code")
    assert "2.4 million instructions a second" in sentence
    assert "too slow and incomplete for Linux" in sentence
    assert "no memory is executable" in sentence
    assert "; run it where" in sentence
    assert "\n" not in sentence


def test_kvm_that_is_asked_for_is_taken_unmeasured_and_for_linux_too(host, machine):
    here = host(impossible="never mind")
    choice = choose(machine("backend: kvm"))
    require_linux(choice)
    assert (choice.backend, choice.why, choice.report()["ring0"]) == (
        "kvm",
        "the machine asks for it",
        "unknown",
    )
    assert here.opened == 1
    assert here.device.vms == 0


def test_kvm_that_is_asked_for_and_missing_is_an_error(host, machine):
    host(error=MISSING)
    with pytest.raises(HostError, match="there is no KVM on this host; load it"):
        choose(machine("backend: kvm"))


def test_for_translation_the_device_is_not_opened(host, machine):
    here = host(error=MISSING)
    choice = choose(machine("backend: translate"))
    assert (choice.backend, choice.why) == ("translate", "the machine asks for it")
    assert here.opened == 0


def test_translation_that_is_asked_for_and_impossible_is_an_error(host, machine):
    host(mips=350.0, impossible="this host's processor is mips")
    with pytest.raises(HostError) as raised:
        choose(machine("backend: translate"))
    assert raised.value.status == 69
    assert "can't run translated code: this host's processor is mips" in str(raised.value)


@pytest.mark.parametrize("key", ["interrupts", "pit"])
def test_what_only_kvm_has_makes_auto_take_it(host, machine, key):
    host(mips=2.4)
    choice = choose(machine(f"{key}: kernel"))
    assert (choice.backend, choice.why) == ("kvm", f"`{key}: kernel` asks for it")
    with pytest.raises(
        HostError, match=f"too slow and incomplete for Linux, and `{key}: kernel` asks for it"
    ):
        require_linux(choice)


def test_what_only_kvm_has_is_an_error_where_there_is_none(host, machine):
    host(error=MISSING)
    with pytest.raises(HostError) as raised:
        choose(machine("pit: kernel"))
    assert str(raised.value) == (
        "/dev/kvm: there is no KVM on this host, and `pit: kernel` asks for KVM; leave that out, or load it"
    )
