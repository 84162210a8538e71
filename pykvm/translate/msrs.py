"""The model-specific registers of the translated CPU (Intel SDM vol. 4): RDMSR and WRMSR as a mapping.

A KeyError is the guest's #GP. Those of EFER, FS and GS are the interpreter's own.
"""

from __future__ import annotations

from collections.abc import MutableMapping

from pykvm.translate.context import SLOT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

IA32_TSC = 0x10
IA32_APIC_BASE = 0x1B
IA32_SPEC_CTRL = 0x48
IA32_PRED_CMD = 0x49
IA32_ARCH_CAPABILITIES = 0x10A
IA32_TSC_DEADLINE = 0x6E0
STAR, LSTAR, CSTAR, SFMASK = 0xC0000081, 0xC0000082, 0xC0000083, 0xC0000084
KERNEL_GS_BASE, TSC_AUX = 0xC0000102, 0xC0000103
X2APIC = range(0x800, 0x900)

# Faults of speculation that this CPU says not to have: nothing that a guest could do about those of the
# host's processor works through translation, and the mitigations would only cost (SDM vol. 4,
# IA32_ARCH_CAPABILITIES): RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO,
# SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, FB_CLEAR, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO.
ARCH_CAPABILITIES = sum(1 << bit for bit in (0, 1, 3, 4, 5, 6, 8, 13, 14, 15, 17, 20, 24, 26, 27, 62))

# number: value after reset, the bits that a write may set (None: it is read-only, writes are #GP).
_KEPT: dict[int, tuple[int, int | None]] = {
    0x17: (0, None),  # IA32_PLATFORM_ID
    0x3A: (1, None),  # IA32_FEATURE_CONTROL: locked
    IA32_SPEC_CTRL: (0, 7 | 1 << 10),  # IBRS, STIBP, SSBD, BHI_DIS_S
    0x79: (0, (1 << 64) - 1),  # IA32_BIOS_UPDT_TRIG
    0x8B: (1 << 32, (1 << 64) - 1),  # IA32_BIOS_SIGN_ID
    0xFE: (0x508, None),  # IA32_MTRRCAP: 8 variable ranges, fixed ones, write-combining
    IA32_ARCH_CAPABILITIES: (ARCH_CAPABILITIES, None),
    0x174: (0, 0xFFFF_FFFF),  # IA32_SYSENTER_CS
    0x175: (0, (1 << 64) - 1),
    0x176: (0, (1 << 64) - 1),
    0x179: (0, None),  # IA32_MCG_CAP: no banks
    0x17A: (0, 7),
    0x1A0: (1, (1 << 64) - 1),  # IA32_MISC_ENABLE: fast strings
    0x1D9: (0, 0),  # IA32_DEBUGCTL
    **{0x200 + number: (0, (1 << 52) - 1) for number in range(16)},
    **dict.fromkeys((0x250, 0x258, 0x259, *range(0x268, 0x270)), (0x0606_0606_0606_0606, (1 << 64) - 1)),
    0x277: (0x0007_0406_0007_0406, 0x0707_0707_0707_0707),  # IA32_PAT
    0x2FF: (0xC06, 0xCFF),  # IA32_MTRR_DEF_TYPE
    CSTAR: (0, (1 << 64) - 1),
}
_IN_CONTEXT = {
    STAR: "star",
    LSTAR: "lstar",
    SFMASK: "syscall_mask",
    KERNEL_GS_BASE: "kernel_gs_base",
    TSC_AUX: "tsc_aux",
}
_CANONICAL = frozenset((LSTAR, CSTAR, KERNEL_GS_BASE, 0x175, 0x176))
_NARROW = frozenset((SFMASK, TSC_AUX))


class Msrs(MutableMapping[int, int]):
    """``on_change`` is called after a write to those that SYSCALL uses; ``tsc`` reads the TSC."""

    def __init__(
        self,
        words: memoryview,
        tsc: Callable[[], int],
        set_tsc: Callable[[int], None],
        on_change: Callable[[], None],
    ) -> None:
        self._words = words
        self._tsc, self._set_tsc = tsc, set_tsc
        self._on_change = on_change
        self._kept = {number: value for number, (value, _) in _KEPT.items()}
        self.apic: Any = None
        self.lock: Any = None

    def __getitem__(self, number: int) -> int:
        name = _IN_CONTEXT.get(number)
        if name is not None:
            return self._words[SLOT[name] // 8]
        if number == IA32_TSC:
            return self._tsc()
        if number in (IA32_APIC_BASE, IA32_TSC_DEADLINE) or number in X2APIC:
            with self.lock:
                value = self.apic.read_msr(number)
            if value is None:
                raise KeyError(number)
            return int(value)
        return self._kept[number]

    def __setitem__(self, number: int, value: int) -> None:
        if number in _CANONICAL and value >> 47 not in (0, 0x1FFFF):
            raise KeyError(number)
        if number in _NARROW and value >> 32:
            raise KeyError(number)
        name = _IN_CONTEXT.get(number)
        if name is not None:
            self._words[SLOT[name] // 8] = value
            self._on_change()
        elif number == IA32_TSC:
            self._set_tsc(value)
        elif number in (IA32_APIC_BASE, IA32_TSC_DEADLINE) or number in X2APIC:
            with self.lock:
                taken = self.apic.write_msr(number, value)
            if not taken:
                raise KeyError(number)
        elif number in (IA32_PRED_CMD, 0x10B):  # barriers and flushes: nothing to do
            if value & ~1:
                raise KeyError(number)
        else:
            writable = _KEPT[number][1]
            if writable is None or value & ~writable:
                raise KeyError(number)
            self._kept[number] = value

    def __delitem__(self, number: int) -> None:
        raise KeyError(number)

    def __iter__(self) -> Iterator[int]:
        yield from (number for number, (_, writable) in _KEPT.items() if writable is not None)
        yield from _IN_CONTEXT

    def __len__(self) -> int:
        return sum(1 for _ in self)
