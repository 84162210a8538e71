"""What follows each opcode, as data: the opcode maps of the Intel SDM vol. 2 appendix A, reduced to lengths.

A map has a letter for each opcode:

====  ==========================================================================
``.``  nothing
``m``  ModRM
``M``  ModRM and an 8-bit immediate
``Z``  ModRM and an immediate of operand size (32 bits where that is 64)
``b``  an 8-bit immediate (or relative address)
``w``  a 16-bit immediate
``z``  an immediate of operand size (32 bits where that is 64)
``v``  an immediate of operand size, 64 bits too
``j``  a relative address of operand size; in 64-bit mode of 32 bits
``o``  an address of address size
``p``  a far pointer: an offset of operand size and a selector
``e``  a 16-bit and an 8-bit immediate (ENTER)
``f``  ModRM, and an 8-bit immediate with /0 and /1 (TEST)
``F``  the same with an immediate of operand size
``c``  ModRM that names two registers whatever its mod field says (MOV CR, DR)
``x``  no instruction: a prefix, an escape, or undefined
====  ==========================================================================
"""

from __future__ import annotations

ONE_BYTE = (
    "mmmmbz..mmmmbz.x"
    "mmmmbz..mmmmbz.."
    "mmmmbzx.mmmmbzx."
    "mmmmbzx.mmmmbzx."
    "................"
    "................"
    "..mmxxxxzZbM...."
    "bbbbbbbbbbbbbbbb"
    "MZMMmmmmmmmmmmmm"
    "..........p....."
    "oooo....bz......"
    "bbbbbbbbvvvvvvvv"
    "MMw.mmMZe.w..b.."
    "mmmmbb..mmmmmmmm"
    "bbbbbbbbjjpb...."
    "x.xx..fF......mm"
)

TWO_BYTE = (
    "mmmmx.....x.xm.M"
    "mmmmmmmmmmmmmmmm"
    "ccccxxxxmmmmmmmm"
    "......x.xxxxxxxx"
    "mmmmmmmmmmmmmmmm"
    "mmmmmmmmmmmmmmmm"
    "mmmmmmmmmmmmmmmm"
    "MMMMmmm.mmxxmmmm"
    "jjjjjjjjjjjjjjjj"
    "mmmmmmmmmmmmmmmm"
    "...mMmxx...mMmmm"
    "mmmmmmmmmmMmmmmm"
    "mmMmMMMm........"
    "mmmmmmmmmmmmmmmm"
    "mmmmmmmmmmmmmmmm"
    "mmmmmmmmmmmmmmmm"
)

MAPS = {"": ONE_BYTE, "0F": TWO_BYTE, "0F38": "m" * 256, "0F3A": "M" * 256}
"""The maps by the escape bytes in front of the opcode."""

VEX_MAPS = {1: "0F", 2: "0F38", 3: "0F3A"}
"""The map that the mmmmm field of a VEX prefix selects."""

NOT_IN_64_BIT = frozenset(
    bytes.fromhex("06 07 0E 16 17 1E 1F 27 2F 37 3F 60 61 62 82 9A C4 C5 CE D4 D5 D6 EA")
)
"""One-byte opcodes that are no instruction in 64-bit mode."""
