"""Linux's own symbol table, as scripts/kallsyms.c lays it out, found in memory."""

from __future__ import annotations

import random
import struct

import pytest

from pykvm.debug import kallsyms
from pykvm.debug.kallsyms import Kallsyms
from pykvm.errors import PykvmError

BASE = 0xFFFF_FFFF_8100_0000
NAMES = [f"function_{number}" for number in range(1000)] + ["a_long_" + "name" * 40]
PLACES = [number * 0x30 for number in range(1000)] + [0x2_0000]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def tables(layout: str, *, per_cpu: bool) -> bytes:
    """The tables of a kernel with these functions, between other data."""
    tokens = [bytes((code,)) if 33 <= code < 127 else b"" for code in range(256)]
    tokens[1], tokens[2] = b"function_", b"name"  # as the compression makes them
    names = bytearray()
    markers = []
    for number, name in enumerate(NAMES):
        if number % 256 == 0:
            markers.append(len(names))
        text = ("T" + name).encode().replace(b"function_", b"\1").replace(b"name", b"\2")
        length = bytes((len(text),)) if len(text) < 0x80 else bytes((len(text) & 0x7F | 0x80, len(text) >> 7))
        names += length + text
    starts, table = [], b""
    for token in tokens:
        starts.append(len(table))
        table += token + b"\0"
    offsets = [-1 - place if per_cpu else place for place in PLACES]
    addresses = padded(struct.pack(f"<{len(offsets)}i", *offsets)) + struct.pack("<Q", BASE)
    named = (
        struct.pack("<Q", len(NAMES))
        + padded(bytes(names))
        + padded(struct.pack(f"<{len(markers)}I", *markers))
    )
    named += padded(table) + padded(struct.pack("<256H", *starts))
    wide = b"".join(bytes((code, 0)) for code in range(256))  # has the digits in a row too
    other = padded(b"some text\0")
    return wide + other + (addresses + named if layout == "6.1" else named + addresses) + other


@pytest.mark.parametrize("per_cpu", [True, False])
@pytest.mark.parametrize("layout", ["6.1", "6.4"])
def test_an_address_has_the_name_of_its_function(layout, per_cpu):
    symbols = Kallsyms(tables(layout, per_cpu=per_cpu))
    assert symbols
    for number in (0, 1, 255, 256, 257, 999, 1000):
        assert symbols.name(BASE + PLACES[number]) == NAMES[number]
    assert symbols.name(BASE + PLACES[511] + 0x2F) == "function_511+0x2f"
    assert symbols.name(BASE - 1) == ""
    assert symbols.name(0) == ""
    assert symbols.name(BASE + (1 << 30)) == ""


def test_memory_without_tables_has_no_names():
    for data in (b"", bytes(4096), b"".join(bytes((code, 0)) for code in range(256))):
        symbols = Kallsyms(data)
        assert not symbols
        assert symbols.name(BASE) == ""


def test_damaged_tables_have_other_names_or_none_and_raise_nothing():
    numbers = random.Random(1)
    whole = tables("6.4", per_cpu=True)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(numbers.choice((1, 3, 50))):
            data[numbers.randrange(len(data))] = numbers.randrange(256)
        symbols = Kallsyms(bytes(data[: numbers.choice((len(data), numbers.randrange(len(data))))]))
        for place in (*PLACES[::50], 0x2_0000):
            assert isinstance(symbols.name(BASE + place), str)


KERNEL = 16 << 20


class Memory:
    """RAM up to ``end``, with the tables at 16 MiB."""

    def __init__(self, end: int) -> None:
        self.end = end

    def read(self, gpa: int, size: int) -> bytes:
        if gpa + size > self.end:
            raise PykvmError("no memory there")
        data = bytearray(size)
        found = tables("6.4", per_cpu=False)
        if gpa <= KERNEL < gpa + size:
            data[KERNEL - gpa : KERNEL - gpa + len(found)] = found
        return bytes(data)


@pytest.mark.parametrize("mib", [24, 64, 300])
def test_all_memory_that_a_kernel_may_lie_in_is_looked_through(mib):
    assert kallsyms.read(Memory(mib << 20)).name(BASE) == "function_0"
