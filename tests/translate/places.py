"""Where things lie, in the test process and in the guest: an instruction finds the same addresses in both.

All below 2 GiB, so that a displacement reaches it and so does an address of 32 bits.
"""

from __future__ import annotations

PAGE = 0x1000
RESERVED, RESERVED_END = 0x6C00_0000, 0x7400_0000
"""Natively nothing else is here: a wrong address faults."""
DATA, DATA_PAGES = 0x7000_0000, 4
READ_ONLY = DATA + DATA_PAGES * PAGE
"""A page that can't be written; behind it there is none."""
DATA_END = READ_ONLY + PAGE
CODE, CODE_PAGES = 0x7010_0000, 4
CODE_END = CODE + CODE_PAGES * PAGE
STATE = 0x7020_0000
STUB = 0x7021_0000
SIGNAL_STACK, SIGNAL_STACK_SIZE = 0x7022_0000, 0x10000
GS_BASE = 0x6000_0000
NOWHERE = 0x6E00_0000
NON_CANONICAL = 0x1234_5678_0000_0000

END = 0x06
"""PUSH ES, which 64-bit code hasn't: #UD, in one byte. All code pages are full of it."""
END_32 = 0x0F
"""For 32-bit code: 3DNow!, which no CPU has any more. #UD from any byte on, where two more follow."""
