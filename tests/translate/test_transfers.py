"""Far transfers, IRET, what reads or loads selectors, in ring 3: natively, and in a guest with Linux's GDT.

What Intel's manual leaves open, or orders otherwise than this processor, is left out.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from random import Random

import native
import pytest
from compare import FLAGS_SEEN
from forms import ARITHMETIC, IF, Case, fx_image
from guest import CODE_AT, GDT, PRESENT, WRITABLE, Guest
from native import USER32_CS, USER_CS, USER_DS, Native
from places import CODE, DATA, DATA_PAGES, END_32, NON_CANONICAL, PAGE

from pykvm.x86.exceptions import WITH_ERROR_CODE
from pykvm.x86.registers import GPRS

ROUNDS = 60 + int(os.environ.get("PYKVM_FUZZ", "0")) // 100
KERNEL32_CS, KERNEL_CS, KERNEL_DS = 0x08, 0x10, 0x18
DESCRIPTORS = {
    KERNEL32_CS: 0x00CF_9B00_0000_FFFF,
    KERNEL_CS: 0x00AF_9B00_0000_FFFF,
    KERNEL_DS: 0x00CF_9300_0000_FFFF,
    USER32_CS & -4: 0x00CF_FB00_0000_FFFF,
    USER_DS & -4: 0x00CF_F300_0000_FFFF,
    USER_CS & -4: 0x00AF_FB00_0000_FFFF,
}
"""Linux's (arch/x86/include/asm/segment.h, arch/x86/kernel/cpu/common.c)."""
LIMIT = 0x7F
SELECTORS = (
    *(0, 1, 3, 4, 7, USER_CS, USER_CS, USER32_CS, USER32_CS, USER_DS, USER_DS),
    *(selector | rpl for selector in DESCRIPTORS for rpl in range(4)),
    *(LIMIT + 1, 0x8003, 0xFFF3, 0xFFFB, 0xFFFF),
)
TARGET = CODE + 2 * PAGE
STACK, POINTER = DATA + 0x800, DATA + 0x2000
RAX, RCX, RBX, RSP = 0, 1, 3, 4
LIMIT_BITS = 0xF_0000
"""Of what LAR gives, undefined (Intel SDM)."""


def selector(rng: Random) -> int:
    return rng.choice(SELECTORS)


def offset(rng: Random) -> int:
    place = TARGET + rng.randrange(16) * 64
    return rng.choice((place, place, place, place, place | 0xABCD << 48, NON_CANONICAL, place | 1 << 32))


def put(case: Case, at: int, values: tuple[int, ...], size: int) -> None:
    data = b"".join((value & (1 << 8 * size) - 1).to_bytes(size, "little") for value in values)
    case.data = case.data[: at - DATA] + data + case.data[at - DATA + len(data) :]


def stack(rng: Random) -> int:
    return STACK + 8 * rng.randrange(8) + rng.choice((0, 0, 1 << 32, 0x1234 << 48))


def iret(rng: Random, case: Case, wide: bool) -> bytes:
    size = rng.choice((8, 8, 4, 2)) if wide else rng.choice((4, 4, 2))
    flags = 2 | IF | rng.getrandbits(12) & ARITHMETIC
    place, to = offset(rng), selector(rng)
    # Which of a bad RIP and a bad SS comes first, and the upper half of RSP in 32-bit code, is the CPU's.
    good = place >> 32 and size == 8
    pointer = stack(rng) & (0xFFFF_FFFF if to & -4 == USER32_CS & -4 else -1)
    put(case, STACK, (place, to, flags, pointer, USER_DS if good else selector(rng)), size)
    return {8: b"\x48\xcf", 4: b"\xcf", 2: b"\x66\xcf"}[size]


def far_return(rng: Random, case: Case, wide: bool) -> bytes:
    size = rng.choice((8, 8, 4, 2)) if wide else rng.choice((4, 4, 2))
    put(case, STACK, (offset(rng), selector(rng), stack(rng), selector(rng)), size)
    prefix = {8: b"\x48", 4: b"", 2: b"\x66"}[size]
    return prefix + rng.choice((b"\xcb", b"\xca" + struct.pack("<H", rng.randrange(64))))


def by_pointer(rng: Random, case: Case, wide: bool) -> bytes:
    """JMP and CALL; REX.W is not the same to all processors."""
    size = rng.choice((4, 4, 2))
    put(case, POINTER, (offset(rng), selector(rng) if size == 2 else 0), size)
    put(case, POINTER + size, (selector(rng),), 2)
    case.regs[RBX] = POINTER
    return (b"\x66" if size == 2 else b"") + b"\xff" + rng.choice((b"\x2b", b"\x1b"))


def direct(rng: Random, case: Case, wide: bool) -> bytes:
    size = rng.choice((4, 4, 2))
    place = (offset(rng) & (1 << 8 * size) - 1).to_bytes(size, "little")
    code = rng.choice((b"\xea", b"\x9a")) + place + struct.pack("<H", selector(rng))
    return (b"\x66" if size == 2 else b"") + code


def question(rng: Random, case: Case, wide: bool) -> bytes:
    """LAR, LSL, VERR, VERW."""
    case.regs[RAX] = selector(rng) | rng.getrandbits(16) << 16
    case.regs[RCX] = 0
    prefix = rng.choice((b"", b"\x66", b"\x48" if wide else b""))
    return prefix + rng.choice((b"\x0f\x02\xc8", b"\x0f\x03\xc8", b"\x0f\x00\xe0", b"\x0f\x00\xe8"))


def load(rng: Random, case: Case, wide: bool) -> bytes:
    """MOV to ES, SS, DS; others have the process's bases."""
    case.regs[RAX] = selector(rng)
    return b"\x8e" + rng.choice((b"\xc0", b"\xd0", b"\xd8"))


FORMS = {
    "iret": iret,
    "far return": far_return,
    "jump or call by a pointer": by_pointer,
    "direct": direct,
    "question": question,
    "load": load,
}


@pytest.fixture(scope="module", params=[True, False], ids=["64-bit", "32-bit"])
def both(request: pytest.FixtureRequest) -> Iterator[tuple[Guest, Native]]:
    guest = Guest(cpl=3, wide=request.param)
    guest.map(GDT, GDT, PRESENT | WRITABLE)
    guest.view[GDT : GDT + PAGE] = bytes(PAGE)
    for place, value in DESCRIPTORS.items():
        guest.view[GDT + place : GDT + place + 8] = value.to_bytes(8, "little")
    processor = Native()
    for number, gpa in enumerate(CODE_AT):
        guest.view[gpa : gpa + PAGE] = bytes((END_32,)) * PAGE
        processor.code[number * PAGE : (number + 1) * PAGE] = bytes((END_32,)) * PAGE
    yield guest, processor
    processor.close()
    guest.close()


@pytest.mark.parametrize("name", FORMS)
def test_a_transfer_goes_where_the_processor_goes(name, both):
    guest, processor = both
    if name == "direct" and guest.wide:
        name = "by a pointer"  # there is none in 64-bit code
    for number in range(ROUNDS):
        seed = f"{name}:{guest.wide}:{number}"
        rng = Random(seed)
        case = Case(data=bytes(rng.randbytes(DATA_PAGES * PAGE)), start=CODE, fx=fx_image(rng))
        case.regs = [0x1111 * at for at in range(16 if guest.wide else 8)]
        case.regs += [0] * (16 - len(case.regs))
        case.regs[RSP] = STACK
        case.flags = 2 | IF | rng.getrandbits(12) & ARITHMETIC
        case.code = FORMS.get(name, by_pointer)(rng, case, guest.wide) + bytes((END_32,)) * 4
        mine, natively = outcomes(guest, processor, case)
        assert mine == natively, f"{case.code.hex()}, seed {seed}"


def outcomes(guest: Guest, processor: Native, case: Case) -> tuple[dict[str, object], dict[str, object]]:
    """Of the guest, of the processor: the exception that ends it, and the registers then."""
    guest.reset()
    cpu = guest.cpu.core.cpu
    cpu.sregs["gdt"] = {"base": GDT, "limit": LIMIT}
    for register, value in (
        ("cs", USER_CS if guest.wide else USER32_CS),
        *((register, USER_DS) for register in ("ss", "ds", "es")),
    ):
        cpu.sregs[register] = {**cpu.sregs[register], "selector": value}
    cpu.commit()
    guest.cpu.core.follow_mode()
    guest.put(CODE, case.code)
    processor.code[: len(case.code)] = case.code
    guest.data, guest.regs, guest.flags, guest.fx = case.data, case.regs, case.flags, case.fx
    processor.data[:] = case.data
    for at, value in enumerate(case.regs):
        processor.words[at] = value
    processor.set_word(native.FLAGS, case.flags)
    processor.fx[:] = case.fx
    processor.run(CODE, wide=guest.wide)
    fault = guest.run(CODE)
    vector = processor.word(native.VECTOR)
    if b"\x0f\x02" in case.code[:3]:
        processor.words[RCX] &= ~LIMIT_BITS
    mine = {
        "vector": fault.vector,
        "error": fault.error or 0,
        "rip": guest.rip,
        **dict(zip(GPRS, guest.regs, strict=True)),
        "flags": guest.flags & FLAGS_SEEN,
        "data": guest.data,
    }
    natively = {
        "vector": vector,
        "error": processor.word(native.ERROR) if vector in WITH_ERROR_CODE else 0,
        "rip": processor.word(native.RIP),
        **dict(zip(GPRS, processor.words[:16], strict=True)),
        "flags": processor.word(native.FLAGS) & FLAGS_SEEN,
        "data": bytes(processor.data),
    }
    return mine, natively
