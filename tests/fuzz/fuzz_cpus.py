"""Bytes as code: the decoders, the interpreter, the translator, and the post-mortem of what they leave."""

from __future__ import annotations

import threading
from random import Random
from typing import Any

import postmortem_doubles
from guest import Guest
from places import CODE, DATA, END
from test_hostile import ALL, EDGES, MAPPED, PREFIXES
from x86_machine import Machine

from pykvm.debug import postmortem
from pykvm.translate.decode import Undecoded
from pykvm.translate.decode import decode as decode_fast
from pykvm.x86 import disasm
from pykvm.x86.execute import Outcome, step
from pykvm.x86.execute.decode import DecodeError, decode

M64 = (1 << 64) - 1
OPCODES = (
    *PREFIXES,
    b"\xc4",
    b"\xc5",
    b"\x62",
    b"\x67",
    b"\x2e",
    b"\x48",
    b"\xf0",
    b"\x66\x67\xf2",
    b"\xcf",
    b"\x0f\x01",
)
MOVES = (b"\x0f\x20", b"\x0f\x21", b"\x0f\x22", b"\x0f\x23")
KINDS = ("triple-fault", "entry", "internal-error", "halted", "panic", "timeout", "stopped")


def code_of(rng: Random) -> bytes:
    start = rng.choice(OPCODES) if rng.random() < 0.7 else b""
    return (start + rng.randbytes(16))[: rng.choice((15, 15, 16, rng.randrange(1, 16)))]


def decoders(rng: Random) -> None:
    """Both decoders agree on lengths; the disassembler takes everything."""
    for _ in range(40):
        code = code_of(rng)
        for bits in (16, 32, 64):
            length = None
            try:
                length = decode(code, bits).length
                assert 1 <= length <= min(15, len(code)), code.hex()
            except DecodeError:
                pass
            # Moves of control and debug registers have no memory operand, whatever ModRM says. The translator
            # leaves them, and their length, to the interpreter.
            if bits != 16 and not any(code[at : at + 2] in MOVES for at in range(6)):
                try:
                    fast = decode_fast(code, 0, bits == 64)[0]
                    assert length in (None, fast), f"{code.hex()}: {fast} and {length} bytes"
                except (Undecoded, IndexError):
                    pass
    bits = rng.choice((16, 32, 64))
    code = rng.randbytes(60)
    assert disasm.disassemble(code, rng.getrandbits(64), bits)
    assert disasm.parts(code, bits) and isinstance(disasm.starts(code, bits), list)


def interpreter(rng: Random) -> None:
    """A few instructions, system ones among them, from a state of chance in every mode."""
    mode = rng.choice(("real", "protected", "long", "v86"))
    machine = Machine("protected" if mode == "v86" else mode, rng.choice((0, 0, 3)) if mode != "real" else 0)
    if mode == "v86":
        machine.enter_v86(rng.choice((0, 3)))
    cpu = machine.cpu
    for name in machine.regs:
        if name not in ("rip", "rflags"):
            machine.regs[name] = _register(rng, 64 if mode == "long" else 32)
    machine.regs["rflags"] |= rng.getrandbits(22) & 0x27_7FD5 & ~(0x2_0000 if mode != "v86" else 0)
    if rng.random() < 0.3:
        for name in ("gdt", "idt"):
            machine.sregs[name] = {"base": rng.choice((0x1000, 0xFFFF_FFF0)), "limit": rng.getrandbits(16)}
    for _ in range(10):
        base = machine.sregs["cs"]["base"] if mode != "long" else 0
        at = machine.regs["rip"] + base & 0xFFFF_FFFF
        code = code_of(rng)
        if at + len(code) < 1 << 32:
            machine.memory.write(at, code)
        done = step(cpu, machine.memory)
        if done is None or done.fault is not None:
            break
        assert isinstance(done, Outcome)
        for name, value in cpu.regs.items():
            assert 0 <= value <= M64, f"{done.name} left {name} = {value:#x}"


def _register(rng: Random, bits: int) -> int:
    edge = rng.choice(
        (0, 1, 0x2_0000, 0x1000, 0x1_0000, 1 << 31, (1 << bits) - 1, 1 << bits - 1, 0x7FFF_FFFF_F000)
    )
    return rng.choice((edge, edge - 1, rng.getrandbits(bits), rng.getrandbits(5))) & (1 << bits) - 1


def translated(rng: Random) -> None:
    """Code of chance runs to an exception, or until it is woken; nothing beside RAM is written."""
    wide = rng.random() < 0.6
    guest = Guest(cpl=rng.choice((0, 3)), wide=wide)  # one at a time: the process's signals are its CPU's
    try:
        for gva, gpa in MAPPED.items():
            guest.map(gva, gpa, ALL)
        for _ in range(10):
            _run(rng, guest, wide)
    finally:
        guest.close()


def _run(rng: Random, guest: Guest, wide: bool) -> None:
    tables = bytes(guest.view[:0x10_0000])
    code = b"".join(code_of(rng) for _ in range(rng.choice((1, 1, 4))))
    guest.put(CODE + 0x100, code + bytes((END,)))
    mask = M64 if wide else 0xFFFF_FFFF
    edges = [at & mask for at in EDGES if wide or at < 1 << 32]
    choices = [
        (rng.choice(edges), rng.getrandbits(64) & mask, DATA + 0x100) for _ in range(16 if wide else 8)
    ]
    guest.regs = [rng.choice(row) for row in choices] + [0] * (16 - len(choices))
    guest.flags = 2 | rng.getrandbits(12) & 0xCD5
    alarm = threading.Timer(0.1, guest.cpu.wake)  # for what halts, or never ends
    alarm.start()
    try:
        guest.run_at_most(CODE + 0x100)
    finally:
        alarm.cancel()
        alarm.join()
        guest.reset()
        guest.view[:0x10_0000] = tables
        guest.cpu.core.mmu.forget()
    assert guest.guards_are_whole(), code.hex()


def post_mortem(rng: Random) -> None:
    """Whatever state a guest has left, its post-mortem goes on to the end."""
    mode = rng.choice(("long", "long", "protected", "real"))
    state, memory = postmortem_doubles.guest(code_of(rng).hex(), mode)
    if rng.random() < 0.6:
        gates = {vector: rng.randbytes(16) for vector in rng.sample(range(32), 12)}
        postmortem_doubles.with_idt(state, memory, gates)
    for _ in range(rng.randrange(6)):
        at = rng.choice((postmortem_doubles.TABLES, postmortem_doubles.GDT, 0, postmortem_doubles.STACK))
        memory.write(at + 8 * rng.randrange(512), rng.randbytes(8))
    regs, sregs = state["regs"], state["sregs"]
    for name in rng.sample(sorted(regs), rng.randrange(8)):
        regs[name] = rng.choice((rng.getrandbits(64), 0, M64, 1 << 47, postmortem_doubles.CODE))
    for name in rng.sample(sorted(sregs), rng.randrange(6)):
        _shake(rng, sregs, name)
    fault = (
        rng.randrange(32),
        rng.choice((None, 0, rng.getrandbits(16))),
        rng.choice((None, 0, rng.getrandbits(64))),
    )
    raised = [(*fault, rng.choice((regs["rip"], rng.getrandbits(64)))) for _ in range(rng.randrange(4))]
    found = postmortem.examine(rng.choice(KINDS), state, memory, raised=raised)
    assert "the post-mortem could not go on" not in str(found.get("what", "")), found["what"]
    assert all(isinstance(line, str) for line in postmortem.lines(found))


def _shake(rng: Random, sregs: dict[str, Any], name: str) -> None:
    value = sregs[name]
    if isinstance(value, int):
        sregs[name] = rng.choice((value ^ 1 << rng.randrange(32), 0, rng.getrandbits(32)))
    elif isinstance(value, dict):
        key = rng.choice(sorted(value))
        width = {"base": 64, "limit": 32, "selector": 16, "type": 4, "dpl": 2}.get(key, 1)
        sregs[name] = value | {key: rng.choice((0, (1 << width) - 1, rng.getrandbits(width)))}


TARGETS = {
    "decoders": decoders,
    "interpreter": interpreter,
    "translated": translated,
    "post-mortem": post_mortem,
}
