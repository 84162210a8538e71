"""CPU features by the names of /proc/cpuinfo: which CPUID bit each one is, and the levels built of them.

Bits are those of the Intel SDM vol. 2 (CPUID) and the AMD APM vol. 3 (appendix E); those of leaf
0x40000001 are KVM's (Documentation/virt/kvm/x86/cpuid.rst); the levels are the x86-64 psABI's.
"""

from __future__ import annotations

# By (leaf, subleaf, register): the name of each bit from 0 up, "-" where a bit is none of ours.
_WORDS: dict[tuple[int, int, str], str] = {
    (1, 0, "edx"): (
        "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov "
        "pat pse36 pn clflush - dts acpi mmx fxsr sse sse2 ss ht tm ia64 pbe"
    ),
    (1, 0, "ecx"): (
        "pni pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm "
        "- pcid dca sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave osxsave avx f16c "
        "rdrand hypervisor"
    ),
    (6, 0, "eax"): "dtherm ida arat - pln - pts hwp hwp_notify hwp_act_window hwp_epp hwp_pkg_req",
    (7, 0, "ebx"): (
        "fsgsbase tsc_adjust sgx bmi1 hle avx2 - smep bmi2 erms invpcid rtm cqm - mpx rdt_a "
        "avx512f avx512dq rdseed adx smap avx512ifma - clflushopt clwb intel_pt avx512pf avx512er avx512cd "
        "sha_ni avx512bw avx512vl"
    ),
    (7, 0, "ecx"): (
        "- avx512vbmi umip pku ospke waitpkg avx512_vbmi2 shstk gfni vaes vpclmulqdq avx512_vnni "
        "avx512_bitalg tme avx512_vpopcntdq - la57 - - - - - rdpid - bus_lock_detect cldemote - movdiri "
        "movdir64b enqcmd sgx_lc pks"
    ),
    (7, 0, "edx"): (
        "- - avx512_4vnniw avx512_4fmaps fsrm uintr - - avx512_vp2intersect srbds_ctrl md_clear "
        "rtm_always_abort - tsx_force_abort serialize hybrid_cpu tsxldtrk - pconfig arch_lbr ibt - amx_bf16 "
        "avx512_fp16 amx_tile amx_int8 spec_ctrl intel_stibp flush_l1d arch_capabilities core_capabilities "
        "spec_ctrl_ssbd"
    ),
    (7, 1, "eax"): (
        "sha512 sm3 sm4 - avx_vnni avx512_bf16 - cmpccxadd - - fzrm fsrs fsrc - - - - fred lkgs - - "
        "amx_fp16 - avx_ifma - - lam"
    ),
    (0xD, 1, "eax"): "xsaveopt xsavec xgetbv1 xsaves xfd",
    (0x4000_0001, 0, "eax"): (
        "kvmclock kvm_nopiodelay kvm_mmu kvmclock2 kvm_asyncpf kvm_steal_time kvm_pv_eoi kvm_pv_unhalt "
        "- kvm_pv_tlb_flush kvm_asyncpf_vmexit kvm_pv_ipi kvm_poll_control kvm_pv_sched_yield "
        "kvm_asyncpf_int kvm_msi_ext_dest_id kvm_hc_map_gpa_range kvm_migration_control "
        "- - - - - - kvmclock_stable_bit"
    ),
    (0x8000_0001, 0, "edx"): (
        "- - - - - - - - - - - syscall - - - - - - - mp nx - mmxext - - fxsr_opt pdpe1gb rdtscp "
        "- lm 3dnowext 3dnow"
    ),
    (0x8000_0001, 0, "ecx"): (
        "lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop "
        "skinit wdt - lwp fma4 tce - nodeid_msr - tbm topoext perfctr_core perfctr_nb - bpext ptsc "
        "perfctr_llc mwaitx"
    ),
    (0x8000_0007, 0, "edx"): "- - - - - - - - nonstop_tsc cpb - aperfmperf",
    (0x8000_0008, 0, "ebx"): (
        "clzero irperf xsaveerptr - rdpru - - - - wbnoinvd - - amd_ibpb - amd_ibrs amd_stibp "
        "- amd_stibp_always_on - - - - - amd_ppin amd_ssbd virt_ssbd amd_ssb_no cppc amd_psfd btc_no"
    ),
    (0x8000_000A, 0, "edx"): (
        "npt lbrv svm_lock nrip_save tsc_scale vmcb_clean flushbyasid decodeassists - - pausefilter "
        "- pfthreshold avic - v_vmsave_vmload vgif x2avic"
    ),
}

BITS: dict[str, tuple[int, int, str, int]] = {
    name: (leaf, subleaf, register, bit)
    for (leaf, subleaf, register), names in _WORDS.items()
    for bit, name in enumerate(names.split())
    if name != "-"
}
"""Each feature's leaf, subleaf, register and bit number."""

ALIASES = {
    "sse3": "pni",
    "lzcnt": "abm",
    "tsc_deadline": "tsc_deadline_timer",
    "invtsc": "nonstop_tsc",
    "sha": "sha_ni",
    "kvm_pv_clock": "kvmclock",
}
"""Other names under which features are known."""

RUNTIME = frozenset(("osxsave", "ospke"))
"""Features that follow CR4 of the running guest and not what was set."""

NEEDS: dict[str, tuple[str, ...]] = {
    "sse2": ("sse",),
    "pni": ("sse2",),
    "ssse3": ("pni",),
    "sse4_1": ("ssse3",),
    "sse4_2": ("sse4_1",),
    "aes": ("sse2",),
    "pclmulqdq": ("sse2",),
    "sha_ni": ("sse2",),
    "gfni": ("sse2",),
    "xsaveopt": ("xsave",),
    "xsavec": ("xsave",),
    "xgetbv1": ("xsave",),
    "xsaves": ("xsavec",),
    "avx": ("xsave", "sse4_2"),
    "pku": ("xsave",),
    "mpx": ("xsave",),
    "amx_tile": ("xsave",),
    "amx_int8": ("amx_tile",),
    "amx_bf16": ("amx_tile",),
    "amx_fp16": ("amx_tile",),
    "f16c": ("avx",),
    "fma": ("avx",),
    "fma4": ("avx",),
    "xop": ("avx",),
    "vaes": ("avx",),
    "vpclmulqdq": ("avx",),
    "avx2": ("avx",),
    "avx_vnni": ("avx2",),
    "avx_ifma": ("avx2",),
    "avx512f": ("avx2",),
    **{
        name: ("avx512f",)
        for name in BITS
        if name.startswith("avx512") and name not in ("avx512f", "avx512_bf16", "avx512_fp16")
    },
    "avx512_bf16": ("avx512bw",),
    "avx512_fp16": ("avx512bw",),
    "syscall": ("lm",),
    "pcid": ("lm",),
    "invpcid": ("pcid",),
    "x2apic": ("apic",),
    "tsc_deadline_timer": ("apic",),
}
"""Features that each feature is of no use without: to turn one off turns off what needs it."""

# The x86-64 psABI's levels; each has those before it too.
_LEVEL_FEATURES = {
    "x86-64-v1": "cmov cx8 fpu fxsr mmx syscall sse sse2 lm",
    "x86-64-v2": "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3",
    "x86-64-v3": "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave",
}

# What no level names, but any PC of 64 bits has and a kernel looks for, and what KVM adds to any CPU.
_PC_FEATURES = (
    "vme de pse tsc msr pae mce apic sep mtrr pge mca pat pse36 clflush nx hypervisor "
    "x2apic tsc_deadline_timer arat kvmclock kvm_nopiodelay kvmclock2 kvm_pv_eoi kvmclock_stable_bit"
)
OPTIONAL = frozenset(("x2apic", "tsc_deadline_timer", "arat", "vme", "sep")) | frozenset(
    name for name, place in BITS.items() if place[0] == 0x4000_0001
)
"""Features of the levels that depend on how KVM is set up; a host without one is no error."""

LEVELS: dict[str, frozenset[str]] = {}
"""The features of each level, those of a PC included."""
_so_far = frozenset(_PC_FEATURES.split())
for _level, _names in _LEVEL_FEATURES.items():
    _so_far = LEVELS[_level] = _so_far | frozenset(_names.split())


def canonical_name(name: str) -> str:
    """The name of /proc/cpuinfo for ``name``: small letters, ``_`` for ``-`` and ``.``, aliases resolved."""
    plain = name.lower().replace("-", "_").replace(".", "_")
    return ALIASES.get(plain, plain)


def dependents(names: frozenset[str]) -> frozenset[str]:
    """``names`` and all features that need one of them, directly or through others."""
    found = set(names)
    while True:
        more = {name for name, needs in NEEDS.items() if name not in found and found.intersection(needs)}
        if not more:
            return frozenset(found)
        found |= more
