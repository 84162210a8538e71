"""The registers of an x86 CPU and their bits, by the manual's names (Intel SDM vol. 1 §3.4, vol. 3 §2.3–2.6).

Constants carry the register's name in front (``CR0_PG``); the tables ``RFLAGS``, ``CR0``, … map the
bare names to the same masks, for those that print registers.
"""

from __future__ import annotations

GPRS = (
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
)
"""General registers in the order of their numbers in an instruction."""

SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")
"""Segment registers in the order of their numbers in an instruction."""

# What a CPU does, as a saved state has it: KVM's numbers (Documentation/virt/kvm/api.rst, KVM_GET_MP_STATE).
MP_STATE_RUNNABLE = 0
MP_STATE_UNINITIALIZED = 1  # waits for INIT
MP_STATE_INIT_RECEIVED = 2  # waits for SIPI
MP_STATE_HALTED = 3
MP_STATES_WAITING = (MP_STATE_UNINITIALIZED, MP_STATE_INIT_RECEIVED)

RFLAGS_CF = 1 << 0
RFLAGS_FIXED = 1 << 1
RFLAGS_PF = 1 << 2
RFLAGS_AF = 1 << 4
RFLAGS_ZF = 1 << 6
RFLAGS_SF = 1 << 7
RFLAGS_TF = 1 << 8
RFLAGS_IF = 1 << 9
RFLAGS_DF = 1 << 10
RFLAGS_OF = 1 << 11
RFLAGS_IOPL = 3 << 12
RFLAGS_NT = 1 << 14
RFLAGS_RF = 1 << 16
RFLAGS_VM = 1 << 17
RFLAGS_AC = 1 << 18
RFLAGS_VIF = 1 << 19
RFLAGS_VIP = 1 << 20
RFLAGS_ID = 1 << 21

CR0_PE = 1 << 0
CR0_MP = 1 << 1
CR0_EM = 1 << 2
CR0_TS = 1 << 3
CR0_ET = 1 << 4
CR0_NE = 1 << 5
CR0_WP = 1 << 16
CR0_AM = 1 << 18
CR0_NW = 1 << 29
CR0_CD = 1 << 30
CR0_PG = 1 << 31

CR4_VME = 1 << 0
CR4_PVI = 1 << 1
CR4_TSD = 1 << 2
CR4_DE = 1 << 3
CR4_PSE = 1 << 4
CR4_PAE = 1 << 5
CR4_MCE = 1 << 6
CR4_PGE = 1 << 7
CR4_PCE = 1 << 8
CR4_OSFXSR = 1 << 9
CR4_OSXMMEXCPT = 1 << 10
CR4_UMIP = 1 << 11
CR4_LA57 = 1 << 12
CR4_VMXE = 1 << 13
CR4_SMXE = 1 << 14
CR4_FSGSBASE = 1 << 16
CR4_PCIDE = 1 << 17
CR4_OSXSAVE = 1 << 18
CR4_SMEP = 1 << 20
CR4_SMAP = 1 << 21
CR4_PKE = 1 << 22
CR4_CET = 1 << 23
CR4_PKS = 1 << 24

EFER_SCE = 1 << 0
EFER_LME = 1 << 8
EFER_LMA = 1 << 10
EFER_NXE = 1 << 11
EFER_SVME = 1 << 12
EFER_LMSLE = 1 << 13
EFER_FFXSR = 1 << 14
EFER_TCE = 1 << 15

XCR0_X87 = 1 << 0
XCR0_SSE = 1 << 1
XCR0_AVX = 1 << 2
XCR0_BNDREGS = 1 << 3
XCR0_BNDCSR = 1 << 4
XCR0_OPMASK = 1 << 5
XCR0_ZMM_HI256 = 1 << 6
XCR0_HI16_ZMM = 1 << 7
XCR0_PKRU = 1 << 9
XCR0_TILECFG = 1 << 17
XCR0_TILEDATA = 1 << 18


def _bits(register: str) -> dict[str, int]:
    prefix = register + "_"
    return {name[len(prefix) :]: mask for name, mask in globals().items() if name.startswith(prefix)}


RFLAGS = _bits("RFLAGS")
CR0 = _bits("CR0")
CR4 = _bits("CR4")
EFER = _bits("EFER")
XCR0 = _bits("XCR0")


def bits_text(value: int, table: dict[str, int]) -> str:
    """The names of the bits that are set in ``value``, lowest first; bits without a name as a number.

    ``bits_text(0x80000011, CR0)`` is ``PE ET PG``.
    """
    names = [name for name, mask in table.items() if value & mask == mask]
    for mask in table.values():
        value &= ~mask
    return " ".join([*names, f"{value:#x}"] if value else names)


def flags_text(rflags: int) -> str:
    """RFLAGS in words: ``ZF IF IOPL=3``. Bit 1, which is always set, is left out."""
    table = {name: mask for name, mask in RFLAGS.items() if name not in ("FIXED", "IOPL")}
    text = bits_text(rflags & ~RFLAGS_FIXED & ~RFLAGS_IOPL, table)
    iopl = (rflags & RFLAGS_IOPL) >> 12
    return f"{text} IOPL={iopl}".lstrip() if iopl else text
