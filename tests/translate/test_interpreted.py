"""Instructions that are not translated, as under single steps: interpreted, or with a buffer for memory."""

from __future__ import annotations

import os

import pytest
from compare import KINDS, Pair, make
from guest import Guest
from native import Native
from test_compatibility import make_with_fpu

FUZZ = int(os.environ.get("PYKVM_FUZZ", "0"))


@pytest.mark.parametrize("wide", [True, False], ids=["64-bit", "32-bit"])
def test_an_instruction_does_what_the_processor_does(wide):
    guest = Guest(wide=wide)
    processor = Native()
    pair = Pair(guest, processor, interpreted=True)
    try:
        for name, kind, opcode in KINDS:
            if name == "fxsave":  # whose MXCSR_MASK is Intel's
                continue
            for count in range(3 + FUZZ // 1000):
                seed = f"{name}:interpreted:{count}"
                case = make(kind, opcode, seed)
                if not wide:
                    if kind not in ("vector", "x87"):
                        continue
                    case = make_with_fpu(opcode, seed)
                assert pair.differences(case) == [], f"{case.code.hex()} at {case.start:#x}, seed {seed}"
    finally:
        processor.close()
        guest.close()
