"""Who gets which memory: free places are found between what is taken."""

from __future__ import annotations

import pytest

from pykvm.boot.places import Places, Range
from pykvm.memory import GuestMemory

MIB = 1 << 20


@pytest.fixture
def places():
    memory = GuestMemory.pc(4 * MIB)
    made = Places(memory)
    for gpa, end in ((MIB, MIB + 0x1234), (2 * MIB, 3 * MIB)):
        made.take(Range(name="other", gpa=gpa, size=end - gpa), "kernel")
    yield made
    memory.close()


@pytest.mark.parametrize(
    ("size", "align", "floor", "ceiling", "found"),
    [
        (1, 1, 0, 4 * MIB, 0),
        (MIB, 1, 0, 4 * MIB, 0),
        (MIB + 1, 1, 0, 4 * MIB, None),
        (1, 1, MIB, 4 * MIB, MIB + 0x1234),
        (1, 0x1000, MIB, 4 * MIB, MIB + 0x2000),
        (MIB - 0x2000, 0x1000, MIB, 4 * MIB, MIB + 0x2000),
        (MIB - 0x1FFF, 0x1000, MIB, 4 * MIB, 3 * MIB),
        (1, 1, 2 * MIB + 5, 4 * MIB, 3 * MIB),
        (MIB, 1, 3 * MIB, 8 * MIB, 3 * MIB),  # RAM ends at 4 MiB
        (MIB + 1, 1, 3 * MIB, 8 * MIB, None),
        (0x10, 1, 3 * MIB, 3 * MIB + 0xF, None),
        (0x10, 1, 3 * MIB, 3 * MIB + 0x10, 3 * MIB),
        (1, 1, 9 * MIB, 16 * MIB, None),
    ],
)
def test_the_lowest_free_place_is_found(places, size, align, floor, ceiling, found):
    assert places.find(size, align=align, floor=floor, ceiling=ceiling) == found
