"""What CPUID tells a guest: the models, edits by feature name, and what differs from vCPU to vCPU.

CPUID is a list of entries, as KVM takes and gives it::

    {"function", "index", "flags", "eax", "ebx", "ecx", "edx"}

The way from what a host offers to what a vCPU gets: ``for_model``, ``with_features``, ``for_vcpu``.
Every function leaves the list that it is given as it was.
"""

from __future__ import annotations

from pykvm.errors import HostError, InputError
from pykvm.x86.features import BITS, LEVELS, OPTIONAL, RUNTIME, canonical_name, dependents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Entry = dict[str, int]

SIGNIFICANT_INDEX = 1
"""The flag of an entry whose ``index`` (the subleaf, ECX) counts."""

CLOCKS = 0x15
"""The leaf that tells of crystal and TSC."""

MODELS = ("host", "baseline", *LEVELS)
"""What ``cpu.model`` may be; ``baseline`` is x86-64-v2."""

_BASELINE = "x86-64-v2"

# User state components of XSAVE (bit in XCR0) and the feature that brings each.
_COMPONENTS = {
    2: "avx",
    3: "mpx",
    4: "mpx",
    5: "avx512f",
    6: "avx512f",
    7: "avx512f",
    9: "pku",
    17: "amx_tile",
    18: "amx_tile",
}

# AMD's leaf 0x80000001 repeats these bits of leaf 1 in EDX.
_AMD_REPEATS = 0x0183_F3FF

# Family 15, model 107, stepping 1: a K8 that no kernel has a quirk for beyond what a level can do.
_SIGNATURE = 0x0006_0FB1
_LINE_SIZE = 8  # CLFLUSH line, in units of 8 bytes


def get(entries: Iterable[Entry], function: int, index: int = 0) -> Entry | None:
    """The entry that answers leaf ``function``, subleaf ``index``."""
    for entry in entries:
        if entry["function"] == function and (
            entry["index"] == index or not entry["flags"] & SIGNIFICANT_INDEX
        ):
            return entry
    return None


def has(entries: Iterable[Entry], name: str) -> bool:
    """Whether the feature with this name of /proc/cpuinfo is on."""
    leaf, subleaf, register, bit = BITS[name]
    entry = get(entries, leaf, subleaf)
    return entry is not None and bool(entry[register] >> bit & 1)


def names(entries: Sequence[Entry]) -> frozenset[str]:
    """The names of all features that are on."""
    return frozenset(name for name in BITS if has(entries, name))


def vendor(entries: Iterable[Entry]) -> str:
    """The vendor's name of leaf 0: ``GenuineIntel``, ``AuthenticAMD``, …"""
    entry = get(entries, 0)
    if entry is None:
        return ""
    raw = b"".join(entry[register].to_bytes(4, "little") for register in ("ebx", "edx", "ecx"))
    return raw.decode("latin-1").rstrip("\0")


def is_amd(entries: Iterable[Entry]) -> bool:
    """Whether the CPU is of AMD's kind."""
    return vendor(entries) in ("AuthenticAMD", "HygonGenuine")


def physical_bits(entries: Iterable[Entry]) -> int:
    """MAXPHYADDR, 36 where CPUID doesn't tell."""
    entry = get(entries, 0x8000_0008)
    return entry["eax"] & 0xFF if entry is not None else 36


def xcr0_mask(entries: Iterable[Entry]) -> int:
    """The bits of XCR0 that a guest may set."""
    entry = get(entries, 0xD)
    return entry["eax"] | entry["edx"] << 32 if entry is not None else 0


def xsave_components(entries: Iterable[Entry]) -> dict[int, tuple[int, int, bool]]:
    """By component number from 2 on: offset and size in the standard XSAVE area, and whether the compacted
    form aligns it to 64 bytes."""
    return {
        entry["index"]: (entry["ebx"], entry["eax"], bool(entry["ecx"] & 2))
        for entry in entries
        if entry["function"] == 0xD and entry["index"] >= 2 and entry["eax"] and not entry["ecx"] & 1
    }


def baseline(level: str) -> frozenset[str]:
    """The names of all features that the model ``level`` has (``x86-64-v1``, ``-v2``, ``-v3``)."""
    return LEVELS[level]


def for_model(offered: Sequence[Entry], model: str) -> list[Entry]:
    """The entries of ``model`` (one of MODELS) on a host that offers ``offered``.

    ``host`` is what is offered, with the bit that tells of a hypervisor set. The other models are the same
    on every host of a vendor: family, brand and features by name, no leaf that describes this host's caches
    or its sleep states. HostError where the host lacks a feature of the level; InputError for no model.
    """
    if model == "host":
        return _set(_copy(offered), {"hypervisor": True})
    if model not in MODELS:
        raise InputError(
            f"'{model}' is no CPU model", where="cpus.model", remedy=f"take one of {', '.join(MODELS)}"
        )
    level = _BASELINE if model == "baseline" else model
    wanted = LEVELS[level]
    missing = sorted(wanted - names(offered) - OPTIONAL - {"hypervisor"})
    if missing:
        raise HostError(
            f"this host's KVM does not offer what {level} needs: {', '.join(missing)}",
            where="cpus.model",
            remedy="take a lower level or the model `host`",
        )
    kept = {1, 6, 7, 0xB, 0xD, 0x4000_0000, 0x4000_0001, 0x8000_0001}
    entries = [entry for entry in _copy(offered) if entry["function"] in kept]
    on = frozenset(name for name in wanted if name == "hypervisor" or has(offered, name))
    for entry in entries:
        if entry["function"] == 1:
            entry.update(eax=_SIGNATURE, ebx=_LINE_SIZE << 8, ecx=0, edx=0)
        elif entry["function"] in (6, 7, 0x8000_0001):
            entry.update(eax=0, ebx=0, ecx=0, edx=0)
        elif (entry["function"], entry["index"]) in ((0xD, 1), (0x4000_0001, 0)):
            entry.update(eax=0, edx=0)
    _set(entries, dict.fromkeys(on, True))
    host = get(offered, 0) or _leaf(0, 0, 0, 0, 0)
    entries.insert(0, host | {"eax": 0xD if "xsave" in on else 0xB})
    entries.append(_leaf(0x8000_0000, 0x8000_0008, host["ebx"], host["ecx"], host["edx"]))
    brand = f"pykvm {level}".encode().ljust(48, b"\0")
    for part in range(3):
        words = (int.from_bytes(brand[16 * part + at :][:4], "little") for at in (0, 4, 8, 12))
        entries.append(_leaf(0x8000_0002 + part, *words))
    entries.append(_leaf(0x8000_0008, 48 << 8 | min(40, physical_bits(offered)), 0, 0, 0))
    return _fit_xsave(entries)


def with_features(
    entries: Sequence[Entry], changes: Mapping[str, bool], offered: Sequence[Entry] | None = None
) -> list[Entry]:
    """``entries`` with features turned on and off by name; what needs a feature goes off with it.

    A feature may be turned on where ``offered`` (default: ``entries``) has it, else HostError. InputError
    for a name that is no feature.
    """
    if not changes:
        return _copy(entries)
    offered = entries if offered is None else offered
    wanted = {_known(name): state for name, state in changes.items()}
    missing = sorted(name for name, state in wanted.items() if state and not has(offered, name))
    if missing:
        raise HostError(
            f"this host's KVM does not offer the CPU feature {', '.join(missing)}",
            where="cpus.features",
            remedy="leave it out; `pykvm info` lists what is offered",
        )
    off = dependents(frozenset(name for name, state in wanted.items() if not state))
    clash = sorted(name for name, state in wanted.items() if state and name in off)
    if clash:
        raise InputError(
            f"the CPU feature {clash[0]} is asked for and something that it needs is turned off",
            where="cpus.features",
            remedy="turn both on or both off",
        )
    on = {name for name, state in wanted.items() if state}
    return _fit_xsave(_set(_copy(entries), {**dict.fromkeys(off, False), **dict.fromkeys(on, True)}))


def with_offers(entries: Sequence[Entry], more: Iterable[str]) -> list[Entry]:
    """``entries`` and the features ``more``, which KVM has but does not list (x2apic, tsc_deadline_timer)."""
    return _set(_copy(entries), dict.fromkeys(more, True))


def without(entries: Sequence[Entry], names: Iterable[str]) -> list[Entry]:
    """``entries`` less the features ``names``, which nothing else builds upon."""
    return _set(_copy(entries), dict.fromkeys(names, False))


def with_clocks(entries: Sequence[Entry], crystal_hz: int, tsc_hz: int) -> list[Entry]:
    """``entries`` that tell in leaf 0x15 how fast the TSC is, and the crystal that the APIC's timer counts.

    TSC Hz = ECX * EBX / EAX, with the crystal in ECX (SDM vol. 2, CPUID, leaf 0x15).
    """
    from fractions import Fraction  # late: 2 ms that only the translator pays

    # Linux multiplies the crystal's kHz by EBX in 32 bits (native_calibrate_tsc): the closest that fits.
    most = (1 << 32) // (crystal_hz // 1000) - 1
    denominator = most
    while True:
        ratio = Fraction(tsc_hz, crystal_hz).limit_denominator(denominator)
        if ratio.numerator <= most:
            break
        denominator = min(ratio.denominator, denominator * most // ratio.numerator + 1) - 1
    clocks = _leaf(CLOCKS, ratio.denominator, ratio.numerator, crystal_hz, 0)
    result = [entry for entry in _copy(entries) if entry["function"] != CLOCKS]
    for entry in result:
        if entry["function"] == 0:
            entry["eax"] = max(entry["eax"], CLOCKS)
    return [*result, clocks]


def difference(asked: Sequence[Entry], got: Sequence[Entry]) -> list[str]:
    """What a guest sees and wasn't asked for (``+avx``), or was and isn't there (``-x2apic``).

    ``asked`` went into KVM_SET_CPUID2, ``got`` came from KVM_GET_CPUID2 (KVM may put back what was off).
    """
    before, after = names(asked) - RUNTIME, names(got) - RUNTIME
    return sorted(f"+{name}" for name in after - before) + sorted(f"-{name}" for name in before - after)


def for_vcpu(entries: Sequence[Entry], apic_id: int, count: int) -> list[Entry]:
    """The entries of the vCPU with ``apic_id``, in one package of ``count`` cores with a thread each."""
    result = [entry for entry in _copy(entries) if entry["function"] not in (0xB, 0x1F, 0x8000_0026)]
    shift = (count - 1).bit_length()
    amd = is_amd(entries)
    for entry in result:
        function = entry["function"]
        if function == 1:
            entry["ebx"] = entry["ebx"] & 0xFFFF | min(count, 255) << 16 | (apic_id & 0xFF) << 24
        elif function == 4 and entry["eax"] & 31:
            sharing = (1 << shift) - 1 if entry["eax"] >> 5 & 7 >= 3 else 0  # caches from L3 on are shared
            entry["eax"] = entry["eax"] & 0x3FFF | sharing << 14 | min((1 << shift) - 1, 63) << 26
        elif function == 0x8000_001D and entry["eax"] & 31:
            sharing = count - 1 if entry["eax"] >> 5 & 7 >= 3 else 0
            entry["eax"] = entry["eax"] & 0x3FFF | sharing << 14
        elif function == 0x8000_0008 and amd:
            entry["ecx"] = min(count - 1, 255) | shift << 12
        elif function == 0x8000_001E:
            entry.update(eax=apic_id, ebx=apic_id & 0xFF, ecx=0)
    _set(result, {"ht": count > 1})
    if amd:
        _set(result, {"cmp_legacy": count > 1})
    leaf0 = get(result, 0)
    for function in (0xB, 0x1F):
        if leaf0 is not None and leaf0["eax"] >= function:
            # Subleaf 0 is the threads of a core, 1 the cores of the package, 2 ends the list.
            result.append(_leaf(function, 0, 1, 1 << 8, apic_id, index=0))
            result.append(_leaf(function, shift, count, 2 << 8 | 1, apic_id, index=1))
            result.append(_leaf(function, 0, 0, 2, apic_id, index=2))
    return result


def _known(name: str) -> str:
    plain = canonical_name(name)
    if plain not in BITS:
        # difflib is only needed for a mistake.
        import difflib

        near = difflib.get_close_matches(plain, BITS, n=1)
        raise InputError(
            f"'{name}' is not a CPU feature",
            where="cpus.features",
            remedy=f"write {near[0]}" if near else "names are those of /proc/cpuinfo",
        )
    return plain


def _leaf(function: int, eax: int, ebx: int, ecx: int, edx: int, index: int | None = None) -> Entry:
    flags = 0 if index is None else SIGNIFICANT_INDEX
    registers = {"eax": eax, "ebx": ebx, "ecx": ecx, "edx": edx}
    return {"function": function, "index": index or 0, "flags": flags, **registers}


def _copy(entries: Iterable[Entry]) -> list[Entry]:
    return [dict(entry) for entry in entries]


def _set(entries: list[Entry], states: Mapping[str, bool]) -> list[Entry]:
    """Set feature bits in place; one whose leaf isn't there stays off."""
    for name, state in states.items():
        leaf, subleaf, register, bit = BITS[name]
        entry = get(entries, leaf, subleaf)
        if entry is not None:
            entry[register] = entry[register] & ~(1 << bit) | state << bit
    first, extended = get(entries, 1), get(entries, 0x8000_0001)
    if first is not None and extended is not None and vendor(entries) != "GenuineIntel":
        extended["edx"] &= ~(_AMD_REPEATS & ~first["edx"])
    return entries


def _fit_xsave(entries: list[Entry]) -> list[Entry]:
    """Make leaf 0xD tell of the state components that the features bring, and of no others."""
    gone = {bit for bit, name in _COMPONENTS.items() if not has(entries, name)}
    if not has(entries, "xsave"):
        return [entry for entry in entries if entry["function"] != 0xD]
    entries = [entry for entry in entries if entry["function"] != 0xD or entry["index"] not in gone]
    first = get(entries, 0xD)
    if first is not None:
        mask = xcr0_mask(entries) & ~sum(1 << bit for bit in gone)
        ends = [offset + size for offset, size, _ in xsave_components(entries).values()]
        first.update(eax=mask & 0xFFFF_FFFF, edx=mask >> 32, ecx=max([576, *ends]))
    return entries
