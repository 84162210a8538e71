"""``pykvm info`` in words: what can be booted first, and then each gap by name, with what it means."""

from __future__ import annotations

import pytest
from host_doubles import FakeKvm

from pykvm.cli.info import words
from pykvm.host.probe import probe

HOST = {"kernel": "6.12.0", "driver": "kvm_amd", "parameters": "", "cpu": "A CPU"}


def text_of(**flaws):
    kvm = FakeKvm(**flaws)
    told = probe(kvm, kvm.clock)
    boots = {"small": True, "linux": told["ring0"]["kind"] == "hardware"}
    lines = words({"host": HOST, "kvm": told, "backend": "kvm", "boots": boots, "error": None})
    assert all(len(line) <= 100 for line in lines)
    return " ".join(" ".join(lines).split())


def test_a_flawless_host_is_told_in_a_few_lines():
    text = text_of()
    assert "Linux 6.12.0 on A CPU" in text
    assert "KVM kvm_amd" in text
    assert "All guests run here." in text
    for word in ("can't carry out", "does not work", "turn off", "adds to", "does not offer"):
        assert word not in text


def test_an_interpreting_host_is_told_what_runs_and_where_linux_does():
    text = text_of(mips=2)
    assert "Small guests run here" in text
    assert "Linux does not; run it where" in text
    assert "2.0 million instructions a second" in text
    assert "All guests run here" not in text


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


def test_a_host_without_kvm_is_told_with_the_reason():
    lines = words(
        {"host": HOST, "kvm": None, "backend": None, "boots": {}, "error": "/dev/kvm: there is none; load it"}
    )
    assert lines[-1] == "/dev/kvm: there is none; load it"
    assert any("none can run here" in line for line in lines)
    assert lines[0].endswith("Linux 6.12.0 on A CPU")
