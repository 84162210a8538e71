"""Exceptions by number, name and kind (Intel SDM vol. 3 §6.3–6.5, §6.15), and what two of them make."""

from __future__ import annotations

DE = 0
DB = 1
BP = 3
OF = 4
BR = 5
UD = 6
NM = 7
DF = 8
TS = 10
NP = 11
SS = 12
GP = 13
PF = 14
MF = 16
AC = 17
MC = 18
XM = 19
CP = 21

# Vector: mnemonic, name, whether it pushes an error code, whether it is a fault (RIP at the instruction).
_TABLE = {
    DE: ("#DE", "divide error", False, True),
    DB: ("#DB", "debug exception", False, False),
    2: ("NMI", "non-maskable interrupt", False, False),
    BP: ("#BP", "breakpoint", False, False),
    OF: ("#OF", "overflow", False, False),
    BR: ("#BR", "BOUND range exceeded", False, True),
    UD: ("#UD", "invalid opcode", False, True),
    NM: ("#NM", "no math coprocessor", False, True),
    DF: ("#DF", "double fault", True, False),
    TS: ("#TS", "invalid TSS", True, True),
    NP: ("#NP", "segment not present", True, True),
    SS: ("#SS", "stack segment fault", True, True),
    GP: ("#GP", "general protection", True, True),
    PF: ("#PF", "page fault", True, True),
    MF: ("#MF", "x87 floating-point error", False, True),
    AC: ("#AC", "alignment check", True, True),
    MC: ("#MC", "machine check", False, False),
    XM: ("#XM", "SIMD floating-point error", False, True),
    20: ("#VE", "virtualization exception", False, True),
    CP: ("#CP", "control protection", True, True),
}

NAMES = {vector: f"{row[0]} {row[1]}" for vector, row in _TABLE.items()}
WITH_ERROR_CODE = frozenset(vector for vector, row in _TABLE.items() if row[2])
FAULTS = frozenset(vector for vector, row in _TABLE.items() if row[3])

_CONTRIBUTORY = frozenset((DE, TS, NP, SS, GP, CP))

SERIAL = 0
DOUBLE = 1
TRIPLE = 2


class Fault(Exception):
    """An exception that an instruction raises: its vector, error code and, of a page fault, the address.

    ``error`` is None where none is pushed. ``keeps``: what the instruction had changed stays, as after the
    point of no return of a task switch (SDM vol. 3 §7.3).
    """

    def __init__(self, vector: int, error: int | None = None, cr2: int | None = None) -> None:
        super().__init__(vector, error, cr2)
        self.vector = vector
        self.error = error
        self.cr2 = cr2
        self.keeps = False

    def __str__(self) -> str:
        text = name(self.vector)
        if self.error is not None:
            text += f", error code {self.error:#x}"
        return text if self.cr2 is None else f"{text}, at {self.cr2:#x}"


def name(vector: int) -> str:
    """``#GP general protection``; ``interrupt 0x30`` for a vector without a name."""
    return NAMES.get(vector, f"interrupt {vector:#x}")


def together(first: int, second: int) -> int:
    """What becomes of exception ``second``, raised while ``first`` was delivered (SDM vol. 3 table 6-5).

    SERIAL: the second is delivered in its turn; DOUBLE: a double fault instead; TRIPLE: shutdown.
    """
    bad = second in _CONTRIBUTORY or second == PF
    if first == DF and bad:
        return TRIPLE
    if (first in _CONTRIBUTORY and second in _CONTRIBUTORY) or (first == PF and bad):
        return DOUBLE
    return SERIAL
