"""``pykvm info`` in words: what can be booted first, and then each gap by name, with what it means."""

from __future__ import annotations

import pytest
from host_doubles import FakeKvm

from pykvm.cli.info import words
from pykvm.host.backend import with_kvm
from pykvm.host.probe import probe

HOST = {"kernel": "6.12.0", "driver": "kvm_amd", "parameters": "", "cpu": "A CPU"}


def text_of(impossible="no, it is not", **flaws):
    kvm = FakeKvm(**flaws)
    told = probe(kvm, kvm.clock)
    choice = with_kvm(told["ring0"]["mips"], lambda: impossible)
    boots = {"small": True, "linux": not choice.for_linux}
    lines = words(
        {
            "host": HOST,
            "kvm": told,
            "translation": impossible,
            "backend": choice.backend,
            "why": choice.why,
            "boots": boots,
            "error": None,
        }
    )
    assert all(len(line) <= 100 for line in lines)
    return " ".join(" ".join(lines).split())


def test_a_flawless_host_is_told_in_a_few_lines():
    text = text_of()
    assert "Linux 6.12.0 on A CPU" in text
    assert "KVM kvm_amd" in text
    assert "back end KVM: it runs a guest's kernel on the hardware" in text
    assert "All guests run here." in text
    for word in ("can't carry out", "does not work", "turn off", "adds to", "does not offer"):
        assert word not in text


def test_an_interpreting_host_is_told_what_runs_and_where_linux_does():
    text = text_of(mips=2)
    assert "Small guests run here" in text
    assert "Linux does not; run it where" in text
    assert "2.0 million instructions a second" in text
    assert "All guests run here" not in text
    assert "translation is impossible here: no, it is not" in text


def test_an_interpreting_host_runs_all_by_translation():
    text = text_of(mips=2, impossible=None)
    assert "back end translation: this host's KVM interprets a guest's kernel" in text
    assert "All guests run here." in text
    assert "Linux does not" not in text


@pytest.mark.parametrize(
    ("flaws", "sentence"),
    [
        ({"gaps": {"clwb": "resets"}}, "the guest crashes: clwb"),
        ({"gaps": {"clwb": "hangs"}}, "the guest hangs: clwb"),
        ({"gaps": {"clwb": "refused"}}, "KVM refuses the guest's state: clwb"),
        ({"gaps": {"clwb": "fails"}}, "KVM fails: clwb"),
        ({"gaps": {"tzcnt": "wrong"}}, "the result is wrong: tzcnt"),
        ({"gaps": {"clwb": "given-up"}}, "KVM gives up, and the guest ends: clwb"),
        (
            {"gaps": {"clwb": "given-up"}, "given_up": bytes.fromhex("660fae36")},
            "KVM gives up, pykvm finishes: clwb",
        ),
        ({"gaps": {"PAE": "resets"}}, "PAE paging does not work: the guest crashes."),
        ({"adds": {"smap"}, "offers": {"fpu", "msr"}}, "can't turn off: smap"),
        ({"takes": {"smap"}}, "-smap"),
        ({"lacks": {"KVM_CAP_X86_SMM"}}, "KVM_CAP_X86_SMM system management mode"),
    ],
)
def test_a_gap_is_told_by_name(flaws, sentence):
    assert sentence in text_of(**flaws)
    assert sentence not in text_of()


def without(backend, why):
    return words(
        {
            "host": HOST,
            "kvm": None,
            "translation": None,
            "backend": backend,
            "why": why,
            "boots": {},
            "error": "/dev/kvm: there is none; load it",
        }
    )


def test_a_host_without_kvm_is_told_with_the_reason():
    lines = without(None, None)
    assert lines[-1] == "/dev/kvm: there is none; load it"
    assert any("none can run here" in line for line in lines)
    assert lines[0].endswith("Linux 6.12.0 on A CPU")


def test_a_host_without_kvm_runs_guests_by_translation():
    lines = without("translate", "/dev/kvm: there is none")
    assert lines[-1] == "/dev/kvm: there is none; load it"
    assert "back end  translation: /dev/kvm: there is none" in lines
    assert "guests    All guests run here." in lines
