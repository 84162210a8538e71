"""The registers of a local APIC, by their offset in its page; as MSR, one is 0x800 + offset / 16.

Source: Intel SDM vol. 3A chapter 10: table 10-1 (the page), table 10-6 (MSRs), and the sections named.
"""

from __future__ import annotations

ISR, TMR, IRR = 0x100, 0x180, 0x200  # 256 bits each, in eight registers

# offset, name, access in the page, access as MSR, bits that can be written, value after reset, section
REGISTERS = (
    (0x020, "ID", "R", "R", 0, 0, "10.4.6"),
    (0x030, "VERSION", "R", "R", 0, 0x0106_0014, "10.4.8"),
    (0x080, "TPR", "RW", "RW", 0xFF, 0, "10.8.3.1"),
    (0x090, "APR", "R", "", 0, 0, "10.8.3.1"),
    (0x0A0, "PPR", "R", "R", 0, 0, "10.8.3.1"),
    (0x0B0, "EOI", "W", "W", 0, 0, "10.8.5"),
    (0x0D0, "LDR", "RW", "R", 0xFF00_0000, 0, "10.6.2.2"),
    (0x0E0, "DFR", "RW", "", 0xF000_0000, 0xFFFF_FFFF, "10.6.2.2"),
    (0x0F0, "SVR", "RW", "RW", 0x11FF, 0xFF, "10.9"),
    *((ISR + 16 * row, f"ISR{row}", "R", "R", 0, 0, "10.8.4") for row in range(8)),
    *((TMR + 16 * row, f"TMR{row}", "R", "R", 0, 0, "10.8.4") for row in range(8)),
    *((IRR + 16 * row, f"IRR{row}", "R", "R", 0, 0, "10.8.4") for row in range(8)),
    (0x280, "ESR", "RW", "RW", 0, 0, "10.5.3"),
    (0x2F0, "LVT_CMCI", "RW", "RW", 0x1_07FF, 0x1_0000, "10.5.1"),
    (0x300, "ICR_LOW", "RW", "RW", 0xC_CFFF, 0, "10.6.1"),
    (0x310, "ICR_HIGH", "RW", "", 0xFF00_0000, 0, "10.6.1"),
    (0x320, "LVT_TIMER", "RW", "RW", 0x7_00FF, 0x1_0000, "10.5.1"),
    (0x330, "LVT_THERMAL", "RW", "RW", 0x1_07FF, 0x1_0000, "10.5.1"),
    (0x340, "LVT_PERF", "RW", "RW", 0x1_07FF, 0x1_0000, "10.5.1"),
    (0x350, "LVT_LINT0", "RW", "RW", 0x1_A7FF, 0x1_0000, "10.5.1"),
    (0x360, "LVT_LINT1", "RW", "RW", 0x1_A7FF, 0x1_0000, "10.5.1"),
    (0x370, "LVT_ERROR", "RW", "RW", 0x1_00FF, 0x1_0000, "10.5.1"),
    (0x380, "INITIAL_COUNT", "RW", "RW", 0xFFFF_FFFF, 0, "10.5.4"),
    (0x390, "CURRENT_COUNT", "R", "R", 0, 0, "10.5.4"),
    (0x3E0, "DIVIDE", "RW", "RW", 0xB, 0, "10.5.4"),
    (0x3F0, "SELF_IPI", "", "W", 0xFF, 0, "10.12.11"),
)
ID = 0x020
VERSION = 0x030
TPR = 0x080
APR = 0x090
PPR = 0x0A0
EOI = 0x0B0
LDR = 0x0D0
DFR = 0x0E0
SVR = 0x0F0
ESR = 0x280
LVT_CMCI = 0x2F0
ICR_LOW = 0x300
ICR_HIGH = 0x310
LVT_TIMER = 0x320
LVT_THERMAL = 0x330
LVT_PERF = 0x340
LVT_LINT0 = 0x350
LVT_LINT1 = 0x360
LVT_ERROR = 0x370
INITIAL_COUNT = 0x380
CURRENT_COUNT = 0x390
DIVIDE = 0x3E0
SELF_IPI = 0x3F0
LVTS = (LVT_CMCI, LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR)
KEPT = (SVR, ESR, ICR_LOW, ICR_HIGH, *LVTS)
"""What stays as it was written; the others are computed when they are read."""

NAMES = {row[0]: row[1] for row in REGISTERS}
IN_PAGE = frozenset(row[0] for row in REGISTERS if row[2])
PAGE_WRITES = frozenset(row[0] for row in REGISTERS if "W" in row[2])
MSR_READS = frozenset(row[0] for row in REGISTERS if "R" in row[3])
MSR_WRITES = frozenset(row[0] for row in REGISTERS if "W" in row[3])
WRITABLE = {row[0]: row[4] for row in REGISTERS}
RESET = {row[0]: row[5] for row in REGISTERS}

# VERSION: 0x14, an integrated APIC with seven LVTs (bits 23–16: less one), whose EOI broadcast can be
# suppressed (bit 24).

SVR_ENABLE = 1 << 8
SVR_SUPPRESS_EOI_BROADCAST = 1 << 12

# LVT, ICR: delivery mode in bits 10–8 (`apicbus`)
VECTOR = 0xFF
MODE_SHIFT = 8
MODE = 7 << MODE_SHIFT
LVT_DELIVERY_STATUS = 1 << 12  # always idle: messages don't wait
LVT_REMOTE_IRR = 1 << 14
LVT_LEVEL = 1 << 15
LVT_MASK = 1 << 16
LVT_TIMER_MODE_SHIFT = 17

# What a kernel reads it may write back, though it stays what it is; all else that can't be written is
# reserved, and raises #GP as MSR (§10.12.9)
READ_ONLY_BITS = {
    **dict.fromkeys(LVTS, LVT_DELIVERY_STATUS | LVT_REMOTE_IRR),
    ICR_LOW: LVT_DELIVERY_STATUS,
}

ICR_LOGICAL = 1 << 11
ICR_ASSERT = 1 << 14
ICR_LEVEL = 1 << 15
ICR_SHORTHAND_SHIFT = 18
NO_SHORTHAND, TO_SELF, TO_ALL, TO_OTHERS = 0, 1, 2, 3
ICR_HIGH_SHIFT = 32  # as MSR, ICR is one register, and all of its high half the destination

ESR_SEND_ILLEGAL_VECTOR = 0x20
ESR_RECEIVE_ILLEGAL_VECTOR = 0x40
ESR_ILLEGAL_REGISTER = 0x80

IA32_APIC_BASE = 0x1B
IA32_TSC_DEADLINE = 0x6E0
X2APIC_MSR = 0x800
