"""The probe against a KVM that has each gap alone: exactly that gap is told, and nothing else."""

from __future__ import annotations

import functools

import pytest
from host_doubles import FEATURES, PROGRAMS, FakeKvm

from pykvm.host.probe import probe
from pykvm.host.programs import INSTRUCTIONS, PAGING
from pykvm.kvm.capabilities import CAPABILITIES

WAYS = ("given-up", "fails", "hangs", "resets", "refused")


def told_of(**flaws):
    kvm = FakeKvm(**flaws)
    told = probe(kvm, kvm.clock)
    assert kvm.still_open == 0
    return told


@functools.cache
def flawless():
    return told_of()


def differences(told, expected, path=""):
    """The places where two tellings differ."""
    if isinstance(told, dict):
        assert told.keys() == expected.keys()
        return [place for key in told for place in differences(told[key], expected[key], f"{path}/{key}")]
    if path == "/instructions":
        assert [row["name"] for row in told] == [row["name"] for row in expected]
        return [f"{path}/{a['name']}" for a, b in zip(told, expected, strict=True) if a != b]
    return [path] if told != expected else []


def test_a_flawless_kvm_has_no_gap():
    told = flawless()
    assert {row["verdict"] for row in told["instructions"]} == {"works"}
    assert [row["name"] for row in told["instructions"]] == [row.name for row in INSTRUCTIONS]
    assert told["paging"] == {"32-bit": "works", "PAE": "works", "4-level": "works"}
    assert told["ring0"]["kind"] == "hardware"
    assert told["cpuid"]["changed"] == told["cpuid"]["fixed"] == []
    assert set(told["cpuid"]["features"]) >= FEATURES - {"hypervisor"}
    assert all(told["capabilities"].values())
    assert told["limits"]["tsc_khz"] == 2_000_000


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("row", INSTRUCTIONS, ids=lambda row: row.name)
def test_an_instruction_that_does_not_work_is_the_only_one_told(row, how):
    told = told_of(gaps={row.name: how})
    assert differences(told, flawless()) == [f"/instructions/{row.name}"]
    (found,) = (one for one in told["instructions"] if one["verdict"] != "works")
    assert found == {"name": row.name, "verdict": how, "finished": False}


@pytest.mark.parametrize("row", [row for row in INSTRUCTIONS if row.expect], ids=lambda row: row.name)
def test_a_wrong_result_is_told(row):
    told = told_of(gaps={row.name: "wrong"})
    assert differences(told, flawless()) == [f"/instructions/{row.name}"]
    assert {"name": row.name, "verdict": "wrong", "finished": False} in told["instructions"]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("row", PAGING, ids=lambda row: row.name)
def test_paging_that_does_not_work_is_told(row, how):
    told = told_of(gaps={row.name: how})
    assert differences(told, flawless()) == [f"/paging/{row.name}"]
    assert told["paging"][row.name] == how


@pytest.mark.parametrize(
    ("name", "code", "finished"),
    [
        ("popcnt", "f30fb8c1", True),
        ("clac", "0f01ca", True),
        ("fwait", "9b", True),
        ("clwb", "660fae36", True),
        ("cmpxchg16b", "f0480fc70e", True),
        ("swapgs", "f0f30fb8c1", False),  # lock popcnt is #UD: a fault is no finish
        ("wbinvd", "0f0fc0ff", False),  # nothing that pykvm knows
        ("rdrand", "", False),  # a KVM that doesn't tell the bytes
    ],
)
def test_what_kvm_gives_up_is_told_with_whether_pykvm_finishes_it(name, code, finished):
    told = told_of(gaps={name: "given-up"}, given_up=bytes.fromhex(code))
    assert {"name": name, "verdict": "given-up", "finished": finished} in told["instructions"]
    assert differences(told, flawless()) == [f"/instructions/{name}"]


@pytest.mark.parametrize("mips", [0.5, 1, 2, 4, 10])
def test_an_interpreter_is_known_by_its_speed(mips):
    told = told_of(mips=mips)
    assert told["ring0"]["kind"] == "interpreted"
    assert told["ring0"]["mips"] == pytest.approx(mips, rel=0.05)
    assert all(place.startswith("/ring0") for place in differences(told, flawless()))


@pytest.mark.parametrize("mips", [100, 350, 3000, 10_000])
def test_hardware_is_known_by_its_speed(mips):
    told = told_of(mips=mips)
    assert told["ring0"]["kind"] == "hardware"
    assert told["ring0"]["mips"] == pytest.approx(mips, rel=0.05)


@pytest.mark.parametrize("delays", [1, 3, 8])
def test_hardware_on_a_busy_host_is_not_taken_for_an_interpreter(delays):
    assert told_of(delays=delays) == flawless()


@pytest.mark.parametrize("name", ["smap", "avx2", "popcnt", "kvmclock"])
def test_a_feature_that_kvm_adds_can_not_be_hidden(name):
    told = told_of(adds={name}, offers=FEATURES - {name})
    assert told["cpuid"]["fixed"] == [name]
    assert told["cpuid"]["changed"] == [f"+{name}"]


def test_a_feature_of_the_local_apic_is_asked_for_though_kvm_does_not_list_it():
    assert told_of(offers=FEATURES - {"x2apic", "tsc_deadline_timer"}) == flawless()


def test_a_feature_that_is_offered_and_not_given_is_told():
    told = told_of(takes={"smap"})
    assert told["cpuid"]["changed"] == ["-smap"]
    assert told["cpuid"]["fixed"] == []


@pytest.mark.parametrize("name", sorted(CAPABILITIES))
def test_a_capability_that_is_lacking_is_told(name):
    told = told_of(lacks={name})
    assert told["capabilities"][name] == 0
    others = [place for place in differences(told, flawless()) if not place.startswith("/limits/")]
    apic = {"KVM_CAP_IRQCHIP", "KVM_CAP_TSC_DEADLINE_TIMER"}
    assert others == [f"/capabilities/{name}"] or name in apic


def test_an_instruction_that_cpuid_does_not_offer_is_not_tried():
    kvm = FakeKvm(offers=FEATURES - {"invpcid", "pse"}, gaps={"invpcid": "hangs", "32-bit": "hangs"})
    told = probe(kvm, kvm.clock)
    assert not {"invpcid", "32-bit"} & set(kvm.tried)
    assert {"clac", "PAE"} <= set(kvm.tried)
    assert "32-bit" not in told["paging"]


def test_a_signal_that_comes_early_is_no_hang():
    assert told_of(signals=7) == flawless()


def test_a_host_that_was_busy_once_is_asked_again():
    assert told_of(gaps={"clwb": "hangs once"}) == flawless()


def test_names_of_programs_are_their_own():
    assert len(PROGRAMS) == len(INSTRUCTIONS) + len(PAGING)
    assert len({row.code for row in PROGRAMS.values()}) == len(PROGRAMS)
