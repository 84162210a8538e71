"""Emitted code reaches the guest's memory and nothing else of the host's."""

from __future__ import annotations

from random import Random
from struct import pack

import pytest
from compare import KINDS, make
from test_segmented_code import OPCODES, instruction
from walls import Walls

from pykvm.translate import control_segmented, crossings, emit_segmented
from pykvm.translate.context import SLOT, TLB_ADDEND
from pykvm.translate.decode import Undecoded, decode, decode_segmented
from pykvm.translate.emit import Emitter, NotTranslated, Parts
from pykvm.translate.emit_segmented import SegmentedEmitter
from pykvm.translate.encode import call_slot, store_slot
from pykvm.translate.lookup import Lookup
from pykvm.translate.translator import ACTIONS, JUMPS

ROUNDS = 15
EVERY_WAY = [(user, wide, bmi2) for user in (0, 1) for wide in (True, False) for bmi2 in (True, False)]


def emitted(code: bytes, user: int, wide: bool, bmi2: bool) -> bytes | None:
    """What is made of an instruction; None: it is the interpreter's."""
    try:
        length, opcode, prefixes, rex, modrm, immediate = decode(code, 0, wide)
        emitter = Emitter(Lookup(bmi2), user, wide)
        parts = Parts(code[:length], opcode, prefixes, rex, modrm, immediate, 0x7010_0000 + length)
        if opcode in JUMPS:
            return JUMPS[opcode](emitter, parts, (1 << 64) - 1 if wide else 0xFFFF_FFFF)[0]
        action = ACTIONS[opcode]
        return None if action is None else action(emitter, parts)
    except (Undecoded, NotTranslated, IndexError):
        return None


@pytest.mark.parametrize("name, kind, opcode", KINDS, ids=[row[0] for row in KINDS])
def test_every_access_is_the_contexts_or_was_looked_up(name, kind, opcode):
    for count in range(ROUNDS):
        case = make(kind, opcode, f"{name}:walls:{count}")
        for user, wide, bmi2 in EVERY_WAY:
            code = emitted(case.code, user, wide, bmi2)
            if code is not None:
                assert Walls(user).read(code) == [], f"{case.code.hex()} became {code.hex()}"


@pytest.mark.parametrize("name, kind, opcode", KINDS, ids=[row[0] for row in KINDS])
def test_an_operand_across_pages_is_reached_in_its_buffer_alone(name, kind, opcode):
    for count in range(ROUNDS):
        case = make(kind, opcode, f"{name}:crossing:{count}")
        for user, wide, bmi2 in EVERY_WAY:
            code = crossings.emitted(Lookup(bmi2), case.code, 0x7010_0000, user, wide)
            if code is not None:
                assert Walls(user).read(code) == [], f"{case.code.hex()} became {code.hex()}"
                assert len(code) <= crossings.ROOM


@pytest.mark.parametrize("deep", [True, False], ids=["32-bit stack", "16-bit stack"])
@pytest.mark.parametrize("narrow", [True, False], ids=["16-bit", "32-bit"])
def test_every_access_by_a_segment_is_the_contexts_or_was_looked_up(narrow, deep):
    rng = Random(f"{narrow} {deep}")
    seen = 0
    for opcode in OPCODES * 20:
        code = instruction(rng, opcode, narrow)
        length, opcode, prefixes, rex, modrm, immediate = decode_segmented(code, 0, narrow)
        parts = Parts(code, opcode, prefixes, rex, modrm, immediate, 0x1000 + length)
        for user, bmi2 in ((0, True), (1, True), (0, False), (1, False)):
            emitter = SegmentedEmitter(Lookup(bmi2), user, short=narrow, deep=deep, real=narrow)
            jump, action = control_segmented.JUMPS.get(opcode), emit_segmented.ACTIONS[opcode]
            try:
                made = jump(emitter, parts, 0xFFFF_FFFF)[0] if jump else action(emitter, parts)
            except NotTranslated:
                continue
            assert Walls(user).read(made) == [], f"{code.hex()} became {made.hex()}"
            seen += 1
    assert seen > 20 * len(OPCODES)


_READ_4 = Lookup().code(0, 0, 4)
_READ_8 = Lookup().code(0, 0, 8)
_WRITE_4 = Lookup().code(0, 1, 4)
# mov rsi, [rsi + 8] as emit_chase.py makes it, and ways to have it wrong.
_CHASE = emitted(bytes.fromhex("488b7608"), 0, True, True)
_HELD, _UNHELD = (pack("<i", SLOT[f"{name}_6"]) for name in ("held", "unheld"))
_OTHER_HELD, _OTHER_UNHELD = (pack("<i", SLOT[f"{name}_7"]) for name in ("held", "unheld"))
_MATCH = b"\xe3" + bytes((31,))
BAD = {
    "another addend held": _CHASE[:-11] + _CHASE[-11:].replace(_HELD, _OTHER_HELD),
    "compared to another addend": _CHASE.replace(_UNHELD, _OTHER_UNHELD, 1),
    "another addend noted": _CHASE.replace(_UNHELD, _OTHER_UNHELD).replace(_OTHER_UNHELD, _UNHELD, 1),
    "an addend taken uncompared": _CHASE.replace(_MATCH, b"\xe3\x00"),
    "an addend that isn't compared": _CHASE.replace(b"\x4a\x8d\x4c\x09\x01", b"\x4a\x8d\x4c\x09\x00"),
    "an addend held for more bytes": _CHASE.replace(_READ_8, _READ_4),
    "by the addend held to another address": _CHASE[:-1] + b"\x10",
    "by the addend held from another register": _CHASE[:-3] + b"\x74\x39\x08",
    "an addend held for the other ring": _CHASE.replace(_READ_8, Lookup().code(1, 0, 8)),
    "the addend held": store_slot(0, SLOT["held_6"]),
    "nothing looked up": b"\x42\x8b\x04\x09",
    "another register": _READ_4 + b"\x8b\x00",
    "wider": _READ_4 + b"\x4a\x8b\x04\x09",
    "behind it": _READ_4 + b"\x42\x8b\x44\x09\x04",
    "before it": _READ_4 + b"\x42\x8b\x44\x09\xfc",
    "a write": _READ_4 + b"\x42\x89\x04\x09",
    "R9 has changed": _WRITE_4 + b"\x49\xff\xc1\x42\x89\x04\x09",
    "RCX has changed": _WRITE_4 + b"\x48\xff\xc1\x42\x89\x04\x09",
    "R9 alone": _WRITE_4 + b"\x41\x89\x01",
    "by GS": _WRITE_4 + b"\x65\x42\x89\x04\x09",
    "32 bits of the address": _WRITE_4 + b"\x67\x42\x89\x04\x09",
    "the other ring's": Lookup().code(1, 1, 4) + b"\x42\x89\x04\x09",
    "more than was brought": call_slot(SLOT["bring_00_4"]) + b"\x4a\x8b\x04\x09",
    "a write of what was brought to read": call_slot(SLOT["bring_00_4"]) + b"\x42\x89\x04\x09",
    "what was brought, for the other ring": call_slot(SLOT["bring_10_4"]) + b"\x42\x8b\x04\x09",
    "what was brought, carried back before": (
        call_slot(SLOT["bring_01_4"]) + call_slot(SLOT["carry_back_0_4"]) + b"\x42\x8b\x04\x09"
    ),
    "RDI, looked up as R9": _WRITE_4 + b"\x48\x8d\x3c\x39\xab",
    "outside the context": b"\x48\x8b\x84\x24\x00\x00\x00\x7f",
    "what the runtime relies on": store_slot(0, SLOT["guest_low"]),
    "the TLB": b"\x0f\xb7\xc9\x48\x89\x84\xcc" + TLB_ADDEND[0].to_bytes(4, "little"),
    "an index of 64 bits": b"\x48\x8b\x8c\xcc\x00\x10\x00\x00",
    "a system call": b"\x0f\x05",
    "the stack": b"\x50",
    "RSP": b"\x48\x83\xc4\x08",
    "a pop to RSP": b"\x48\x89\xc4",
}


@pytest.mark.parametrize("code", BAD.values(), ids=BAD)
def test_the_reader_sees_what_is_wrong(code):
    assert Walls(0).read(code) != []


def test_a_step_of_a_walk_is_by_an_addend_that_was_compared():
    assert _MATCH in _CHASE
    walls = Walls(0)
    assert walls.read(_CHASE) == []
    assert walls.accesses == 4


@pytest.mark.parametrize("lookup, access", [(_READ_4, b"\x42\x8b\x04\x09"), (_WRITE_4, b"\x42\x89\x04\x09")])
def test_the_reader_lets_pass_what_is_right(lookup, access):
    walls = Walls(0)
    assert walls.read(lookup + access) == []
    assert walls.accesses > 2
