"""The runtime's routines reach the context, their tables, and the guest's memory behind a check; no more.

An access is allowed in the context at a fixed place, in one of its tables by an index that is bounded, behind
a lookup within the bytes that it found, or in guest RAM by a physical address that was compared with RAM's
end. A page is written, and put into the TLB as one to write, only where its flag was seen to be 0.
"""

from __future__ import annotations

import pytest
from routine_walls import RoutineWalls

from pykvm.translate import runtime as made
from pykvm.translate.context import SLOT
from pykvm.translate.lookup import Lookup
from pykvm.translate.routines import Routines

ORIGIN = 0x7000_0000_0000
LIMIT = ORIGIN + 0x1000_0000


def runtime(bmi2: bool = True) -> made.Runtime:
    return made.Runtime(ORIGIN, Lookup(bmi2), LIMIT)


FUNCTIONS = ("enter", "signal_handler")
RUNTIMES = {bmi2: runtime(bmi2) for bmi2 in (True, False)}


@pytest.mark.parametrize("bmi2", [True, False], ids=["bmi2", "no-bmi2"])
@pytest.mark.parametrize("name", [*RUNTIMES[True].entries, *FUNCTIONS])
def test_a_routine_reaches_only_what_it_may(name, bmi2):
    walls = RoutineWalls(RUNTIMES[bmi2], ORIGIN, name, LIMIT)
    assert walls.read() == []
    assert walls.accesses


@pytest.mark.parametrize("bmi2", [True, False], ids=["bmi2", "no-bmi2"])
def test_no_code_of_the_runtime_is_left_unread(bmi2):
    code, read = RUNTIMES[bmi2].code, set()
    for name in (*RUNTIMES[bmi2].entries, *FUNCTIONS):
        walls = RoutineWalls(RUNTIMES[bmi2], ORIGIN, name, LIMIT)
        walls.read()
        read |= walls.bytes_read
    left = bytes(byte for at, byte in enumerate(code) if ORIGIN + at not in read)
    # Reasons for which no slot is called: those exits are only jumped to, behind their first instruction.
    first = b"\x8f\x84\x24" + SLOT["return"].to_bytes(4, "little")
    assert left.replace(first, b"") == b""


# A routine, and the jumps that it is made without: their condition, and how their label begins.
CARELESS = {
    "the end of RAM below 4 GiB": ("miss_00_8", "ae", "high."),
    "the end of RAM above": ("miss_00_8", "ae", "walk-slow-00"),
    "RAM's ends, where code is checked": ("page_check", "ae", "check-slow"),
    "an access across two pages": ("miss_10_4", "nz", "crossing-10"),
    "a page table whose writes must be seen": ("miss_00_1", "ne", "walk-slow-00"),
    "a dirty bit in such a page": ("miss_11_1", "ne", "walk-slow-11"),
    "a page whose writes must be seen": ("miss_01_4", "nz", "walk-slow-01"),
    "a page that may be read only": ("miss_00_4", "nz", "read-only-00"),
    "a full log": ("miss_00_4", "ae", "full."),
    "a full log of checks": ("page_check", "ae", "full."),
    "an empty log of user pages": ("do_clac", "z", "drop-user-none"),
    "an IRET frame that the TLB hasn't": ("do_iret", "nz", "interpret-again"),
    "a bitmap of ports that it hasn't": ("do_port_in_1", "nz", "in-miss"),
    "a lookup's miss": ("lookup_11_8", "nz", "lookup-miss-11-8"),
    "the size of a string's elements": ("do_rep_movs_0", "ne", "movs-0-not-3"),
    "the same of a store's": ("do_rep_stos_1", "ne", "stos-1-not-0"),
    "whose signal it is": ("signal_handler", "b", "signal-foreign"),
    "whose signal it is, above": ("signal_handler", "ae", "signal-foreign"),
}


@pytest.mark.parametrize("name, condition, label", CARELESS.values(), ids=CARELESS)
def test_a_check_that_is_left_out_is_seen(name, condition, label, monkeypatch):
    left_out = []

    class Careless(Routines):
        def jump_if(self, when: str, to: str) -> None:
            if when == condition and to.startswith(label):
                left_out.append(to)
            else:
                super().jump_if(when, to)

    monkeypatch.setattr(made, "Routines", Careless)
    walls = RoutineWalls(runtime(), ORIGIN, name, LIMIT)
    assert walls.read() != []
    assert left_out


# What stands in a routine, and what is put there in its stead, of the same length.
BAD = {
    "more of the page table's index": ("miss_00_8", "81e0ff010000", "81e0ff030000"),
    "a wider index of the TLB": ("addend_0", "0fb7c9", "908bc9"),
    "the other ring's addend": ("do_rep_stos_0", None, None),
    "more than the page has left": ("do_rep_movs_1", "b800100000", "b801100000"),
    "IRET's frame, a byte less": ("do_iret", "4983c127", "4983c126"),
    "a lookup, a byte less": ("lookup_01_4", "4883c003", "4883c002"),
    "CR3 with its low bits": ("do_cr3_write", "81e1ff0f0000", "81e1ff070000"),
}


@pytest.mark.parametrize("name, stands, instead", BAD.values(), ids=BAD)
def test_a_wrong_number_is_seen(name, stands, instead):
    bad = runtime()
    if stands is None:
        lookup = Lookup()
        stands, instead = (lookup.code(user, 1, 1).hex() for user in (0, 1))
    right = bytes.fromhex(stands)
    assert right in bad.code
    bad.code = bad.code.replace(right, bytes.fromhex(instead))
    assert RoutineWalls(bad, ORIGIN, name, LIMIT).read() != []
