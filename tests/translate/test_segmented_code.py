"""Code whose segments aren't flat: what emitted code does is what the interpreter does, limits and all."""

from __future__ import annotations

import os
from random import Random

import pytest
from compare import undefined
from forms import Case
from guest import Guest
from places import END_32

from pykvm.translate.codepage import BASE, CODE_16, REAL, SEGMENTED, SHORT, STACK_32, USER
from pykvm.translate.context import LIMIT, SLOT
from pykvm.translate.control_segmented import JUMPS
from pykvm.translate.decode import OPERAND, decode_segmented
from pykvm.translate.emit_segmented import ACTIONS
from pykvm.x86 import entry
from pykvm.x86.registers import CR0_PE, SEGMENTS

FUZZ = int(os.environ.get("PYKVM_FUZZ", "0"))
CASES = 150 + FUZZ
CODE, CODE_SIZE = 0x1_2340, 0x1_0000
WINDOW, WINDOW_SIZE = 0x1F_0000, 0x9_0000
"""What is compared: nearly all that an address reaches."""
START = 0x20_0000
GRANULE = 0x20  # of which none lies in two pages
BASES = (START, START + 0x10, START + 0x7FF0, START + 0xFF3)
PREFIXES = b"\x66\x67\x26\x2e\x36\x3e\x64\x65"
ARITHMETIC, DF, IOPL = 0x8D5, 0x400, 0x3000
DATA, READ_ONLY, DOWN, CODE_TYPE, EXECUTE_ONLY = 3, 1, 7, 0xB, 9
EDGES = (0xFFFF, 0xFFFF, 0xFFFF, 0xFFFE, 0xFFFC, 0x7FF, 0x7FE, 1, 0, 0x7FFE, 2)
HIGH = "32-bit, CS's base above the code"
DISTANCE = 0x2000_0000
"""By which RIP is above its address there: the sum with CS's base is cut to 32 bits."""

MACHINES = {
    "real mode": (0, SHORT | CODE_16 | REAL),
    "unreal mode": (0, CODE_16 | REAL),
    "16-bit": (CR0_PE, SHORT | CODE_16),
    "16-bit, a large code segment, 32-bit stack": (CR0_PE, CODE_16 | STACK_32),
    "16-bit, ring 3": (CR0_PE, SHORT | CODE_16 | USER),
    "32-bit, 16-bit stack": (CR0_PE, 0),
    "32-bit, a small code segment": (CR0_PE, SHORT | STACK_32),
    "32-bit, ring 3": (CR0_PE, STACK_32 | USER),
    HIGH: (CR0_PE, STACK_32),
}
"""CR0, and of the mode all but CS's base."""
OPCODES = [opcode for opcode, action in enumerate(ACTIONS) if action is not None] + list(JUMPS)
FAR = {0xFF: (3, 5)}
"""Digits of groups that are no matter of these emitters."""


def segment(rng: Random, real: bool) -> dict[str, int]:
    kind = DATA if real else rng.choice((DATA,) * 6 + (READ_ONLY, DOWN, CODE_TYPE, EXECUTE_ONLY))
    limit = 0xFFFF if real else rng.choice((0xFFFF, 0xFFFF, 0xFFFF_FFFF, 0x7FF, 0x7FFE))
    return {"base": rng.choice(BASES), "limit": limit, "type": kind}


class Machine:
    """A guest in one of MACHINES, with other segments each time ``change`` is called."""

    def __init__(self, name: str, bmi2: bool) -> None:
        self.cr0, self.bits = MACHINES[name]
        self.distance = DISTANCE if name == HIGH else 0
        self.narrow = bool(self.bits & CODE_16)
        self.large = name == "unreal mode"
        self.guest = Guest(bmi2=bmi2)
        self.end = bytes((END_32,))
        self.code = bytearray(self.end * (CODE_SIZE + 32))
        self.before = bytes(self.guest.view)
        self.fresh = Random(name).randbytes(WINDOW_SIZE)

    def change(self, rng: Random) -> None:
        state = entry.real(CODE, stack=0x8000, segment=CODE >> 4)
        cpl = 3 if self.bits & USER else 0
        state["sregs"]["cr0"] |= self.cr0
        for name in ("ds", "es", "fs", "gs", "ss"):
            found = {**state["sregs"][name], **segment(rng, not self.cr0), "dpl": cpl}
            if self.large:
                found["limit"] = 0xFFFF_FFFF
            state["sregs"][name] = found
        code = state["sregs"]["cs"]
        code.update(dpl=cpl, db=0 if self.bits & CODE_16 else 1, type=CODE_TYPE)
        code["base"] = CODE - self.distance & 0xFFFF_FFFF
        code["limit"] = 0xFFFF if self.bits & SHORT else 0xFFFF_FFFF
        state["sregs"]["ss"].update(type=DATA, db=1 if self.bits & STACK_32 else 0)
        self.state = state
        self.guest.cpu.load(state)
        mode = self.guest.cpu.core.words[SLOT["mode"] // 8]
        assert mode & (1 << BASE) - 1 == self.bits | SEGMENTED

    def outcome(self, case: Case, *, emitted: bool, whole: bool) -> tuple[object, ...]:
        guest = self.guest
        self.restore()
        if whole:
            guest.view[:CODE] = self.before[:CODE]
            guest.view[CODE + CODE_SIZE + 32 :] = self.before[CODE + CODE_SIZE + 32 :]
        guest.view[WINDOW : WINDOW + WINDOW_SIZE] = self.fresh
        guest.cpu.load(self.state)
        guest.regs, guest.flags = case.regs, case.flags
        if emitted:
            fault = guest.run(case.start + self.distance)
        else:
            fault = guest.interpret(case.start + self.distance, most=100)
            self.itself = fault is None and 0 <= guest.rip - self.distance - case.start < len(case.code)
            if self.itself:  # it jumps into itself, perhaps for ever
                return (None,) * 5
            fault = fault or guest.run(guest.rip)
        place = str(fault), guest.rip
        memory = bytes(guest.view[WINDOW : WINDOW + WINDOW_SIZE])
        cpu = guest.cpu.core.cpu
        cpu.refresh()
        segments = [cpu.sregs[name] for name in SEGMENTS]
        return place, guest.regs, guest.flags & ~undefined(case), segments, memory

    def restore(self) -> None:
        """The code as it should be: in real mode it can be written by CS."""
        view, code = self.guest.view, self.code
        for at in range(0, len(code), GRANULE):
            if view[CODE + at : CODE + at + GRANULE] != code[at : at + GRANULE]:
                self.guest.cpu.core.physical.write(CODE + at, bytes(code[at : at + GRANULE]))

    def differences(self, case: Case) -> list[str]:
        """What differs; nothing should. A run may find what another wrote beside the window: then again."""
        return self.compare(case) and self.compare(case, whole=True)

    def compare(self, case: Case, *, whole: bool = False) -> list[str]:
        end = case.start + len(case.code)
        self.code[case.start : end] = case.code
        one = self.outcome(case, emitted=False, whole=whole)
        unsure = self.itself or undefined_result(case.code, case.regs, self.narrow)
        other = one if unsure else self.outcome(case, emitted=True, whole=whole)
        self.code[case.start : end] = self.end * len(case.code)
        names = ("the end", "registers", "flags", "segments", "memory")
        found = [row for row in zip(names, one, other, strict=True) if row[1] != row[2]]
        return [f"{name}: {a} {b}" if name != "memory" else name for name, a, b in found]


def undefined_result(code: bytes, regs: list[int], narrow: bool) -> bool:
    """SHLD and SHRD of 16 bits by more than that (SDM vol. 2)."""
    _, opcode, prefixes, _, _, immediate = decode_segmented(code, 0, narrow)
    if opcode not in (0x1A4, 0x1A5, 0x1AC, 0x1AD) or not prefixes & OPERAND:
        return False
    return (regs[1] if opcode & 1 else code[immediate]) & 31 > 16


def instruction(rng: Random, opcode: int, narrow: bool) -> bytes:
    prefixes = bytes(rng.choice(PREFIXES) for _ in range(rng.choice((0, 0, 1, 1, 2, 3))))
    if 0xA4 <= opcode <= 0xAF and rng.random() < 0.4:
        prefixes += rng.choice((b"\xf2", b"\xf3"))
    if rng.random() < 0.05:
        prefixes += b"\xf0"
    digits = [digit for digit in range(8) if digit not in FAR.get(opcode, ())] or [0]
    mod = rng.choice((0, 0, 1, 2, 3))
    modrm = mod << 6 | rng.choice(digits) << 3 | rng.randrange(8)
    if opcode in JUMPS and opcode != 0xFF:
        modrm = rng.randrange(0x18, 0xE8)  # a distance that leads out of the instruction
    escape = b"" if opcode < 0x100 else b"\x0f" if opcode < 0x200 else b"\x0f\x38" if opcode < 0x300 else b""
    number = rng.choice((rng.randrange(0x40), rng.getrandbits(8), 0xFF, 0x7F))
    rest = bytes((number, 0)) * 5 if rng.random() < 0.5 else rng.randbytes(10)
    code = prefixes + escape + bytes((opcode & 0xFF, modrm)) + rest
    return code[: decode_segmented(code, 0, narrow)[0]]


def case_of(rng: Random, opcode: int, narrow: bool) -> Case:
    regs = [0] * 16
    for register in range(8):
        kind = rng.random()
        if kind < 0.55:
            regs[register] = rng.randrange(0x7F00)
        elif kind < 0.75:
            regs[register] = rng.choice(
                (0xFFFF, 0xFFFF, 0xFFFF, 0xFFFE, 0xFFFC, 0x7FF, 0x7FE, 1, 0, 0x7FFE, 2)
            )
        elif kind < 0.9:
            regs[register] = rng.choice((0x30, 0x40, 0xFF)) << 16 | rng.randrange(0x10000)
        else:
            regs[register] = rng.getrandbits(32)
    if 0xA4 <= opcode <= 0xAF:
        regs[1] = rng.choice((0, 1, 2, 5, 0x1_0003))
    flags = 2 | (rng.getrandbits(12) & ARITHMETIC) | (DF if rng.random() < 0.3 else 0)
    start = rng.choice((0x100, 0xCB0, 0x2BF8, 0x8000, 0xFE00)) + rng.randrange(16)
    return Case(instruction(rng, opcode, narrow), start, regs, flags | IOPL)


@pytest.mark.parametrize("bmi2", [True, False], ids=["BMI2", "no BMI2"])
@pytest.mark.parametrize("name", MACHINES)
def test_an_instruction_does_what_the_interpreter_does(name, bmi2):
    machine = Machine(name, bmi2)
    try:
        emitted = beyond = 0
        for count in range(CASES * 4):
            seed = f"{name}:{count}"
            rng = Random(seed)
            if count % 10 == 0:
                machine.change(rng)
            case = case_of(rng, rng.choice(OPCODES), machine.narrow)
            before = machine.guest.cpu.exits[LIMIT]
            assert machine.differences(case) == [], f"{case.code.hex()} at {case.start:#x}, seed {seed}"
            emitted += machine.guest.cpu.steps == 1  # END alone
            beyond += machine.guest.cpu.exits[LIMIT] != before
        assert emitted > CASES
        assert machine.large or beyond > CASES // 20
        assert machine.guest.guards_are_whole()
    finally:
        machine.guest.close()


@pytest.mark.parametrize("name", MACHINES)
def test_pop_of_the_stack_pointer_comes_after_it_was_raised(name):
    machine = Machine(name, True)
    try:
        for count in range(12):
            machine.change(Random(f"{name}:{count}"))
            for code in (b"\x5c", b"\x66\x5c"):
                for pointer in (0xFFFC, 0xFFFE, 0x1FFE, 0x2_FFFE):
                    case = Case(code, 0x100, [pointer if at == 4 else 0 for at in range(16)], 2)
                    assert machine.differences(case) == [], f"{code.hex()} by {pointer:#x}, change {count}"
    finally:
        machine.guest.close()
