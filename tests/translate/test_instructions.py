"""Every translated form against the real processor: registers, flags, x87, SSE, memory and faults.

A seeded run of some thousands here; PYKVM_FUZZ=1000000 does as many, from a seed of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from compare import KINDS, Pair, make
from guest import Guest
from native import Native

ROUNDS = 12
FUZZ = int(os.environ.get("PYKVM_FUZZ", "0"))


@pytest.fixture(scope="module", params=[0, 3], ids=["ring 0", "ring 3"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    guest = Guest(cpl=request.param)
    processor = Native()
    yield Pair(guest, processor)
    processor.close()
    guest.close()


@pytest.mark.parametrize("name, kind, opcode", KINDS, ids=[row[0] for row in KINDS])
def test_an_instruction_does_what_the_processor_does(name, kind, opcode, pair):
    for count in range(ROUNDS):
        seed = f"{name}:{pair.guest.cpl}:{count}"
        case = make(kind, opcode, seed)
        assert pair.differences(case) == [], f"{case.code.hex()} at {case.start:#x}, seed {seed}"


@pytest.mark.skipif(not FUZZ, reason="PYKVM_FUZZ says how many")
def test_as_many_as_asked_for(pair):
    found = []
    start = time.time_ns()
    for count in range(FUZZ // len(KINDS) + 1):
        for name, kind, opcode in KINDS:
            seed = f"{name}:{start}:{count}"
            case = make(kind, opcode, seed)
            if told := pair.differences(case):
                found.append(f"seed {seed}: {case.code.hex()} at {case.start:#x}: {told}")
    assert found == []
