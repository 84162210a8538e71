"""A guest whose translations are kept: its code, its boot, and its file in the cache folder."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import pack
from typing import NamedTuple

import pytest
from guest import Guest
from places import CODE, DATA, END, PAGE

from pykvm.cache import Cache
from pykvm.translate import store

RECORD = "entries"
SLOT, PIECES = 64, range(1, 60)
"""A page's pieces of code: how far they are from each other, and their numbers."""
ROUNDS = 3
CROSSING = CODE + PAGE - 3
"""Where an instruction begins that ends in the next page."""
AT_START = [0, 0, 0, 0, DATA + 2 * PAGE, *[0] * 11]
"""Registers: all but the stack's are 0."""


class Outcome(NamedTuple):
    """What a guest has computed: it must not depend on what was kept."""

    registers: tuple[int, ...]
    data: bytes


class Booted(NamedTuple):
    outcome: Outcome
    translated: int


def jump(at: int, target: int) -> bytes:
    return b"\xe9" + pack("<i", target - at - 5)


def program(seed: int = 1) -> dict[int, bytes]:
    """Code by its address: pieces that compute, jump to and fro over three pages, ROUNDS times."""
    chance = random.Random(seed)
    places = [CODE + page * PAGE + SLOT * number for page in range(3) for number in PIECES]
    chance.shuffle(places)
    start = b"\xbf" + pack("<I", DATA) + b"\xb9" + pack("<I", ROUNDS)  # edi: the data; ecx: rounds
    code = {CODE: start + jump(CODE + len(start), places[0])}
    for at, after in zip(places, [*places[1:], CROSSING], strict=True):
        body = bytearray()
        for _ in range(5):
            body += chance.choice(
                (
                    b"\x81\xc0" + pack("<I", chance.getrandbits(31)),  # add eax
                    b"\x69\xc0" + pack("<I", chance.getrandbits(31) | 1),  # imul eax
                    b"\x31\xc3\x01\xd8",  # xor ebx, eax; add eax, ebx
                    b"\x01\x87" + pack("<I", 4 * chance.randrange(1024)),  # add [rdi + ...], eax
                    b"\x48\xc1\xc0\x07",  # rol rax, 7
                )
            )
        code[at] = bytes(body) + jump(at + len(body), after)
    end = b"\xba\x04\x03\x02\x01" + b"\x01\xd0" + b"\xff\xc9"  # mov edx (over the page's end); dec ecx
    again = CROSSING + len(end)
    code[CROSSING] = end + b"\x0f\x85" + pack("<i", places[0] - again - 6) + bytes((END,))
    return code


def boot(code: dict[int, bytes], *, before_end: Callable[[Guest], None] | None = None) -> Booted:
    """A new machine runs ``code`` to its end, and goes."""
    guest = Guest()
    guest.cpu.keeps = True
    try:
        for at, body in code.items():
            guest.put(at, body)
        guest.regs, guest.flags = AT_START, 2
        guest.run(CODE)
        assert guest.rip == CROSSING + len(code[CROSSING]) - 1
        outcome = Outcome(tuple(guest.regs), guest.data)
        if before_end is not None:
            before_end(guest)
        return Booted(outcome, guest.cpu.core.blocks.translated)
    finally:
        guest.close()


@contextmanager
def cache_in(folder: str | Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYKVM_CACHE", str(folder))
        yield


def records(cache: Path) -> list[str]:
    return [name for name in os.listdir(cache / RECORD) if name.startswith(store.PREFIX)]


def file_of(cache: Path) -> Path:
    """The only file of translations."""
    (name,) = records(cache)
    path = Cache(str(cache)).get(name)
    assert path is not None
    return Path(path)


def rot(path: Path, data: bytes) -> None:
    """Change a file as a bad disk does: its time stays, and whoever looks at that trusts it."""
    path.write_bytes(data)
    os.utime(path, (0, 0))
