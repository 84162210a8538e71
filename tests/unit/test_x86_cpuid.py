"""CPU models, features by name, and what each vCPU is told."""

from __future__ import annotations

import pytest

from pykvm.errors import HostError, InputError
from pykvm.x86 import cpuid
from pykvm.x86.execute import (
    bits,
    descriptors,
    integers,
    interrupts,
    iret,
    state,
    system,
    vector_moves,
    vectors,
)
from pykvm.x86.features import ALIASES, BITS, LEVELS, NEEDS, OPTIONAL, RUNTIME


def leaf(function: int, index: int = 0, flags: int = 0, **registers: int) -> dict[str, int]:
    none = {"eax": 0, "ebx": 0, "ecx": 0, "edx": 0}
    return {"function": function, "index": index, "flags": flags} | none | registers


def word(text: str) -> int:
    return int.from_bytes(text.encode(), "little")


def host(*names: str, maker: tuple[str, str, str] = ("Genu", "ineI", "ntel")) -> list[dict[str, int]]:
    """What a KVM with these features offers."""
    ebx, edx, ecx = (word(part) for part in maker)
    entries = [
        leaf(0, eax=0x1F, ebx=ebx, ecx=ecx, edx=edx),
        leaf(1, eax=0x000A0655, ebx=0x07100800),
        leaf(4, 0, 1, eax=0x7C004121, ebx=0x01C0003F),
        leaf(4, 2, 1, eax=0x7C01C163),
        leaf(6),
        leaf(7, 0, 1, eax=1),
        leaf(7, 1, 1),
        leaf(0xB, 0, 1, edx=9),
        leaf(0xD, 0, 1, eax=0x207, ebx=576, ecx=2696),
        leaf(0xD, 1, 1),
        leaf(0xD, 2, 1, eax=256, ebx=576),
        leaf(0xD, 9, 1, eax=8, ebx=2688),
        leaf(0x40000000, eax=0x40000001, ebx=word("KVMK"), ecx=word("VMKV"), edx=word("M")),
        leaf(0x40000001),
        leaf(0x80000000, eax=0x8000001F),
        leaf(0x80000001),
        leaf(0x80000007),
        leaf(0x80000008, eax=0x3030),
        leaf(0x8000001E),
    ]
    for name in names:
        function, index, register, bit = BITS[name]
        entry = cpuid.get(entries, function, index)
        assert entry is not None
        entry[register] |= 1 << bit
    return entries


V2 = LEVELS["x86-64-v2"]
V3 = LEVELS["x86-64-v3"]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("fpu", (1, 0, "edx", 0)),
        ("sse2", (1, 0, "edx", 26)),
        ("pbe", (1, 0, "edx", 31)),
        ("cx16", (1, 0, "ecx", 13)),
        ("x2apic", (1, 0, "ecx", 21)),
        ("popcnt", (1, 0, "ecx", 23)),
        ("xsave", (1, 0, "ecx", 26)),
        ("hypervisor", (1, 0, "ecx", 31)),
        ("arat", (6, 0, "eax", 2)),
        ("avx2", (7, 0, "ebx", 5)),
        ("invpcid", (7, 0, "ebx", 10)),
        ("smap", (7, 0, "ebx", 20)),
        ("clflushopt", (7, 0, "ebx", 23)),
        ("avx512vl", (7, 0, "ebx", 31)),
        ("umip", (7, 0, "ecx", 2)),
        ("la57", (7, 0, "ecx", 16)),
        ("rdpid", (7, 0, "ecx", 22)),
        ("pks", (7, 0, "ecx", 31)),
        ("fsrm", (7, 0, "edx", 4)),
        ("serialize", (7, 0, "edx", 14)),
        ("arch_capabilities", (7, 0, "edx", 29)),
        ("spec_ctrl_ssbd", (7, 0, "edx", 31)),
        ("avx512_bf16", (7, 1, "eax", 5)),
        ("fred", (7, 1, "eax", 17)),
        ("lam", (7, 1, "eax", 26)),
        ("xsaves", (0xD, 1, "eax", 3)),
        ("kvmclock_stable_bit", (0x40000001, 0, "eax", 24)),
        ("kvm_pv_unhalt", (0x40000001, 0, "eax", 7)),
        ("syscall", (0x80000001, 0, "edx", 11)),
        ("nx", (0x80000001, 0, "edx", 20)),
        ("lm", (0x80000001, 0, "edx", 29)),
        ("abm", (0x80000001, 0, "ecx", 5)),
        ("topoext", (0x80000001, 0, "ecx", 22)),
        ("nonstop_tsc", (0x80000007, 0, "edx", 8)),
        ("rdpru", (0x80000008, 0, "ebx", 4)),
        ("wbnoinvd", (0x80000008, 0, "ebx", 9)),
        ("virt_ssbd", (0x80000008, 0, "ebx", 25)),
        ("vgif", (0x8000000A, 0, "edx", 16)),
    ],
)
def test_a_feature_name_stands_for_its_bit(name: str, place: tuple[int, int, str, int]):
    assert BITS[name] == place


def test_every_feature_that_is_named_has_a_bit():
    named = {*NEEDS, *OPTIONAL, *RUNTIME, *ALIASES.values(), *LEVELS["x86-64-v3"]}
    named |= {need for needs in NEEDS.values() for need in needs}
    topics = (bits, descriptors, integers, interrupts, iret, state, system, vector_moves, vectors)
    named |= {row[3] for topic in topics for row in topic.INSTRUCTIONS} - {""}
    assert named - set(BITS) == set()


def test_names_are_what_the_entries_have():
    assert cpuid.names(host("fpu", "avx2", "nx")) == {"fpu", "avx2", "nx"}


def test_get_looks_at_the_subleaf_only_where_it_counts():
    entries = host()
    assert cpuid.get(entries, 0xD, 2) == leaf(0xD, 2, 1, eax=256, ebx=576)
    assert cpuid.get(entries, 0xD, 3) is None
    assert cpuid.get(entries, 0x80000008, 7) == leaf(0x80000008, eax=0x3030)


def test_a_feature_is_turned_off_and_nothing_else_changes():
    entries = host("fpu", "sse2", "rdrand")
    got = cpuid.with_features(entries, {"rdrand": False})
    assert cpuid.names(entries) - cpuid.names(got) == {"rdrand"}
    assert cpuid.has(entries, "rdrand")  # the list that was given stays as it was


def test_turning_a_feature_off_takes_what_needs_it():
    got = cpuid.with_features(host("xsave", "avx", "avx2", "fma", "bmi1"), {"avx": False})
    assert cpuid.names(got) == {"xsave", "bmi1"}


def test_without_avx_leaf_0xd_has_no_avx_state():
    got = cpuid.with_features(host("xsave", "avx", "pku"), {"avx": False})
    assert cpuid.xcr0_mask(got) == 0x203
    assert cpuid.xsave_components(got) == {9: (2688, 8, False)}
    got = cpuid.with_features(host("xsave", "avx", "pku"), {"pku": False})
    assert cpuid.get(got, 0xD)["ecx"] == 576 + 256


def test_without_xsave_leaf_0xd_is_gone():
    assert cpuid.get(cpuid.with_features(host("xsave", "avx"), {"xsave": False}), 0xD) is None


def test_a_feature_that_the_host_lacks_is_an_error():
    with pytest.raises(HostError, match="does not offer the CPU feature avx2") as caught:
        cpuid.with_features(host("fpu"), {"avx2": True})
    assert caught.value.status == 69


def test_a_model_without_a_feature_gets_it_back_where_the_host_has_it():
    offered = host(*V2, "aes")
    got = cpuid.with_features(cpuid.for_model(offered, "x86-64-v2"), {"aes": True}, offered)
    assert cpuid.has(got, "aes")


def test_an_unknown_feature_is_an_error_with_the_nearest_name():
    with pytest.raises(InputError, match="'avx3' is not a CPU feature; write avx"):
        cpuid.with_features(host(), {"avx3": False})


@pytest.mark.parametrize(
    ("alias", "name"), [("sse3", "pni"), ("SSE4.2", "sse4_2"), ("lzcnt", "abm"), ("tsc-deadline", "")]
)
def test_other_spellings_of_a_feature_are_understood(alias: str, name: str):
    name = name or "tsc_deadline_timer"
    got = cpuid.with_features(host(name), {alias: False})
    assert not cpuid.has(got, name)


def test_a_feature_on_without_its_base_is_a_contradiction():
    with pytest.raises(InputError, match="avx2 is asked for"):
        cpuid.with_features(host("xsave", "avx", "avx2"), {"avx": False, "avx2": True})


def test_levels_grow_and_name_their_features():
    assert LEVELS["x86-64-v1"] < V2 < V3
    assert {"cx16", "popcnt", "sse4_2", "ssse3", "lahf_lm", "pni", "sse4_1"} <= V2 - LEVELS["x86-64-v1"]
    assert {"avx2", "bmi2", "movbe", "abm", "f16c", "fma", "xsave"} <= V3 - V2
    assert cpuid.baseline("x86-64-v3") == V3


def test_a_baseline_is_the_same_on_two_hosts_of_a_vendor():
    one = cpuid.for_model(host(*V2), "baseline")
    other = host(*V2, "avx2", "xsave", "avx", "aes", "monitor", "ida", "nonstop_tsc")
    cpuid.get(other, 1)["eax"] = 0x000B06A2
    cpuid.get(other, 0x80000008)["eax"] = 0x3934
    assert cpuid.for_model(other, "baseline") == one
    assert cpuid.names(one) == V2


def test_a_baseline_has_no_more_address_bits_than_the_host():
    assert cpuid.physical_bits(cpuid.for_model(host(*V2), "baseline")) == 40
    small = host(*V2)
    cpuid.get(small, 0x80000008)["eax"] = 0x3024
    assert cpuid.physical_bits(cpuid.for_model(small, "baseline")) == 36


def test_a_baseline_tells_its_own_name_as_brand():
    entries = cpuid.for_model(host(*V2), "x86-64-v2")
    brand = b"".join(
        cpuid.get(entries, 0x80000002 + part)[register].to_bytes(4, "little")
        for part in range(3)
        for register in ("eax", "ebx", "ecx", "edx")
    )
    assert brand.rstrip(b"\0") == b"pykvm x86-64-v2"
    assert cpuid.vendor(entries) == "GenuineIntel"


def test_v3_has_avx_state_and_nothing_beyond_it():
    entries = cpuid.for_model(host(*V3, "pku"), "x86-64-v3")
    assert cpuid.xcr0_mask(entries) == 7
    assert list(cpuid.xsave_components(entries)) == [2]


def test_a_level_that_the_host_cannot_give_is_an_error_that_names_what_lacks():
    with pytest.raises(HostError, match="what x86-64-v3 needs: avx2, bmi2"):
        cpuid.for_model(host(*(V3 - {"avx2", "bmi2"})), "x86-64-v3")


def test_an_unknown_model_is_an_error():
    with pytest.raises(InputError, match="'skylake' is no CPU model; take one of host, baseline, x86-64-v1"):
        cpuid.for_model(host(), "skylake")


def test_the_host_model_tells_of_a_hypervisor_and_keeps_the_rest():
    offered = host("fpu", "avx512f", "monitor")
    got = cpuid.for_model(offered, "host")
    assert cpuid.names(got) == {"fpu", "avx512f", "monitor", "hypervisor"}
    assert cpuid.get(got, 0x40000000) == cpuid.get(offered, 0x40000000)


def test_features_that_kvm_has_and_does_not_list_can_be_added():
    assert cpuid.names(cpuid.with_offers(host(), ("x2apic",))) == {"x2apic"}


def test_difference_names_what_came_back_and_what_was_lost():
    asked = host("fpu", "x2apic", "sse2")
    got = host("fpu", "sse2", "avx", "smap", "osxsave")
    assert cpuid.difference(asked, got) == ["+avx", "+smap", "-x2apic"]


def test_amd_repeats_leaf_1_in_the_extended_leaf():
    entries = host("fpu", "tsc", "mtrr", "nx", maker=("Auth", "enti", "cAMD"))
    cpuid.get(entries, 0x80000001)["edx"] |= cpuid.get(entries, 1)["edx"]
    got = cpuid.with_features(entries, {"mtrr": False})
    assert not cpuid.get(got, 0x80000001)["edx"] >> 12 & 1
    assert cpuid.get(got, 0x80000001)["edx"] & 1


def test_each_vcpu_finds_its_own_apic_id_everywhere():
    entries = cpuid.for_vcpu(host(*V2), apic_id=3, count=6)
    assert cpuid.get(entries, 1)["ebx"] == 3 << 24 | 6 << 16 | 0x0800
    assert cpuid.has(entries, "ht")
    for function in (0xB, 0x1F):
        threads, cores, end = (cpuid.get(entries, function, index) for index in range(3))
        assert (threads["eax"], threads["ebx"], threads["ecx"], threads["edx"]) == (0, 1, 0x100, 3)
        assert (cores["eax"], cores["ebx"], cores["ecx"], cores["edx"]) == (3, 6, 0x201, 3)
        assert (end["eax"], end["ebx"], end["ecx"], end["edx"]) == (0, 0, 2, 3)


def test_the_cores_share_the_last_cache_and_no_other():
    entries = cpuid.for_vcpu(host(), apic_id=0, count=4)
    first, last = cpuid.get(entries, 4, 0)["eax"], cpuid.get(entries, 4, 2)["eax"]
    assert (first >> 26, first >> 14 & 0xFFF, first & 0x3FFF) == (3, 0, 0x0121)
    assert (last >> 26, last >> 14 & 0xFFF) == (3, 3)


def test_amd_counts_cores_in_its_own_leaves():
    entries = cpuid.for_vcpu(host(maker=("Auth", "enti", "cAMD")), apic_id=2, count=4)
    assert cpuid.get(entries, 0x80000008)["ecx"] == 3 | 2 << 12
    assert cpuid.get(entries, 0x8000001E)["eax"] == 2
    assert cpuid.has(entries, "cmp_legacy")


def test_a_single_vcpu_has_no_siblings():
    entries = cpuid.for_vcpu(host("ht"), apic_id=0, count=1)
    assert not cpuid.has(entries, "ht")
    assert cpuid.get(entries, 0xB, 1)["ebx"] == 1
