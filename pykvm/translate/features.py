"""The CPUID of the translated CPU: exactly what is implemented.

Features that emitted code borrows from the host's processor (SSE up to 4.2, AES, SHA) are offered where the
host has them. The vendor is Intel, whose kernels take the clocks' frequencies from leaf 0x15.
"""

from __future__ import annotations

from pykvm.x86 import cpuid as models
from pykvm.x86.features import BITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Protocol

    Entry = dict[str, int]

    class Cpus(Protocol):
        @property
        def model(self) -> str: ...

        @property
        def features(self) -> Iterable[tuple[str, bool]]: ...


OWN = frozenset(
    [
        "fpu",
        "vme",
        "de",
        "pse",
        "tsc",
        "msr",
        "pae",
        "mce",
        "cx8",
        "apic",
        "sep",
        "mtrr",
        "pge",
        "mca",
        "cmov",
        "pat",
        "pse36",
        "clflush",
        "mmx",
        "fxsr",
        "sse",
        "sse2",
        "syscall",
        "nx",
        "pdpe1gb",
        "rdtscp",
        "lm",
        "nonstop_tsc",
        "cx16",
        "tsc_deadline_timer",
        "rdrand",
        "lahf_lm",
        "hypervisor",
        "x2apic",
        "smep",
        "smap",
        "erms",
        "spec_ctrl",
        "arch_capabilities",
        "arat",
        "fsgsbase",
    ]
)
"""What this CPU does by itself."""
BORROWED = frozenset(["pni", "ssse3", "sse4_1", "sse4_2", "popcnt", "pclmulqdq", "aes", "sha_ni"])
"""What it does where the host's processor does."""

BHI_CTRL = 1 << 4
"""Of leaf 7, subleaf 2: IA32_SPEC_CTRL.BHI_DIS_S, which spares a kernel a loop at each system call."""

PHYSICAL_BITS = 40
_SIGNATURE = 0x0002_06A7  # family 6, model 42, stepping 7: a kernel has no quirk for it that would matter
_BRAND = "pykvm translated CPU"


def host_features() -> frozenset[str]:
    """The host's features, as /proc/cpuinfo names them."""
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("flags"):
                return frozenset(line.split(":", 1)[1].split())
    return frozenset()


def offered(host: frozenset[str]) -> list[Entry]:
    """All entries, on a host with the features ``host``."""
    vendor = tuple(int.from_bytes(b"GenuineIntel"[at : at + 4], "little") for at in (0, 8, 4))
    entries = [
        _leaf(0, 0x16, *vendor),
        _leaf(1, _SIGNATURE, 8 << 8, 0, 0),
        _leaf(2, 0, 0, 0, 0),
        _leaf(4, 0, 0, 0, 0, index=0),
        _leaf(6, 0, 0, 0, 0),
        _leaf(7, 2, 0, 0, 0, index=0),
        _leaf(7, 0, 0, 0, BHI_CTRL, index=2),
        _leaf(0x4000_0000, 0x4000_0000, *_words(b"pykvm-translate", 3)),
        _leaf(0x8000_0000, 0x8000_0008, *vendor),
        _leaf(0x8000_0001, 0, 0, 0, 0),
        *(
            _leaf(0x8000_0002 + part, *_words(_BRAND.encode().ljust(48, b"\0")[16 * part :], 4))
            for part in range(3)
        ),
        _leaf(0x8000_0007, 0, 0, 0, 0),
        _leaf(0x8000_0008, 48 << 8 | PHYSICAL_BITS, 0, 0, 0),
    ]
    for name in OWN | BORROWED & host:
        leaf, subleaf, register, bit = BITS[name]
        entry = models.get(entries, leaf, subleaf)
        if entry is not None:
            entry[register] |= 1 << bit
    return entries


def cpuid(cpus: Cpus) -> list[Entry]:
    """The entries for a machine that asks for ``cpus.model`` and ``cpus.features``.

    Raises HostError and InputError as x86/cpuid does.
    """
    entries = offered(host_features())
    return models.with_features(models.for_model(entries, cpus.model), dict(cpus.features), entries)


def _words(text: bytes, count: int) -> list[int]:
    padded = text.ljust(4 * count, b"\0")
    return [int.from_bytes(padded[4 * at : 4 * at + 4], "little") for at in range(count)]


def _leaf(function: int, eax: int, ebx: int, ecx: int, edx: int, index: int | None = None) -> Entry:
    flags = 0 if index is None else models.SIGNIFICANT_INDEX
    registers = {"eax": eax, "ebx": ebx, "ecx": ecx, "edx": edx}
    return {"function": function, "index": index or 0, "flags": flags, **registers}
