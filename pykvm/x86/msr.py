"""Model-specific registers: numbers and names (Intel SDM vol. 4; AMD APM vol. 2, appendix A; KVM's from
Documentation/virt/kvm/x86/msr.rst)."""

from __future__ import annotations

IA32_TSC = 0x10
IA32_APIC_BASE = 0x1B
IA32_FEATURE_CONTROL = 0x3A
IA32_TSC_ADJUST = 0x3B
IA32_SPEC_CTRL = 0x48
IA32_PRED_CMD = 0x49
IA32_BIOS_SIGN_ID = 0x8B
IA32_MPERF = 0xE7
IA32_APERF = 0xE8
IA32_MTRRCAP = 0xFE
IA32_ARCH_CAPABILITIES = 0x10A
IA32_SYSENTER_CS = 0x174
IA32_SYSENTER_ESP = 0x175
IA32_SYSENTER_EIP = 0x176
IA32_MCG_CAP = 0x179
IA32_MCG_STATUS = 0x17A
IA32_MCG_CTL = 0x17B
IA32_MISC_ENABLE = 0x1A0
IA32_DEBUGCTL = 0x1D9
IA32_MTRR_PHYSBASE0 = 0x200
IA32_MTRR_FIX64K_00000 = 0x250
IA32_MTRR_FIX16K_80000 = 0x258
IA32_MTRR_FIX16K_A0000 = 0x259
IA32_MTRR_FIX4K_C0000 = 0x268
IA32_PAT = 0x277
IA32_MTRR_DEF_TYPE = 0x2FF
IA32_MC0_CTL = 0x400
IA32_TSC_DEADLINE = 0x6E0
IA32_X2APIC_APICID = 0x802
IA32_XSS = 0xDA0

IA32_EFER = 0xC000_0080
IA32_STAR = 0xC000_0081
IA32_LSTAR = 0xC000_0082
IA32_CSTAR = 0xC000_0083
IA32_FMASK = 0xC000_0084
IA32_FS_BASE = 0xC000_0100
IA32_GS_BASE = 0xC000_0101
IA32_KERNEL_GS_BASE = 0xC000_0102
IA32_TSC_AUX = 0xC000_0103
AMD64_TSC_RATIO = 0xC000_0104
AMD_HWCR = 0xC001_0015
AMD_PATCH_LEVEL = 0xC001_008B
AMD_VM_CR = 0xC001_0114
AMD_VM_HSAVE_PA = 0xC001_0117
AMD64_VIRT_SPEC_CTRL = 0xC001_011F
AMD64_OSVW_ID_LENGTH = 0xC001_0140
AMD64_OSVW_STATUS = 0xC001_0141
AMD64_DE_CFG = 0xC001_1029

KVM_WALL_CLOCK = 0x11
KVM_SYSTEM_TIME = 0x12
KVM_WALL_CLOCK_NEW = 0x4B56_4D00
KVM_SYSTEM_TIME_NEW = 0x4B56_4D01
KVM_ASYNC_PF_EN = 0x4B56_4D02
KVM_STEAL_TIME = 0x4B56_4D03
KVM_PV_EOI_EN = 0x4B56_4D04
KVM_POLL_CONTROL = 0x4B56_4D05
KVM_ASYNC_PF_INT = 0x4B56_4D06
KVM_ASYNC_PF_ACK = 0x4B56_4D07

NAMES: dict[int, str] = {
    number: name for name, number in list(globals().items()) if isinstance(number, int) and name.isupper()
}

# Registers that come in rows: first number, how many, names by position.
_ROWS = (
    (IA32_MTRR_PHYSBASE0, 32, ("IA32_MTRR_PHYSBASE{}", "IA32_MTRR_PHYSMASK{}")),
    (0x268, 8, ("IA32_MTRR_FIX4K {}",)),
    (IA32_MC0_CTL, 128, ("IA32_MC{}_CTL", "IA32_MC{}_STATUS", "IA32_MC{}_ADDR", "IA32_MC{}_MISC")),
    (0x800, 0x100, ("x2APIC register {}",)),
)


def name(number: int) -> str:
    """The name of an MSR by its number; ``MSR 0x…`` for one without a name here.

    ``name(0x203)`` is ``IA32_MTRR_PHYSMASK1``.
    """
    if number in NAMES:
        return NAMES[number]
    for first, count, forms in _ROWS:
        if first <= number < first + count:
            which, form = divmod(number - first, len(forms))
            return forms[form].format(which)
    return f"MSR {number:#x}"
