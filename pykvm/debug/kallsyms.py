"""The names that a Linux kernel itself carries (CONFIG_KALLSYMS), found in its memory.

Source: Linux, scripts/kallsyms.c and kernel/kallsyms.c. The tables, each aligned to 8 bytes, from 6.4 on::

    num_syms  names  markers  token_table  token_index  offsets  relative_base

and before ``offsets  relative_base  num_syms  names  markers  token_table  token_index``. Where they lie is
written nowhere; the token table is known by the tokens of the digits, and all else is checked by it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from struct import error, unpack_from

from pykvm.debug.symbols import Symbols
from pykvm.errors import PykvmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.debug.subject import Memory

DIGITS = b"".join(b"%d\0" % digit for digit in range(10))
TOKENS = 256
BATCH = 256
"""Symbols from one marker, the place of a symbol in ``names``, to the next."""
MIB = 1 << 20
FROM, TO = MIB, 128 * MIB
"""Where a kernel lies that was loaded, and not moved."""
KERNEL = 0xFFFF_8000_0000_0000
MOST_NAMES = 64 << 20
MOST_SYMBOLS = 1 << 20


class Kallsyms(Symbols):
    """The symbols of the kernel whose memory is ``data``; none where there are no tables."""

    def __init__(self, data: bytes | bytearray) -> None:
        super().__init__({})
        self._data = data
        self._tokens: list[bytes | bytearray] = []
        self._markers = array("I")
        self._names_at = 0
        digits = -1
        while not self._addresses and (digits := data.find(DIGITS, digits + 1)) >= 0:
            try:
                self._find(digits)
            except (error, ValueError, IndexError):  # other tables have the digits in a row too
                continue

    def name(self, address: int) -> str:
        try:
            return super().name(address)
        except IndexError:  # only the first batch of names was checked
            return ""

    def _name_of(self, start: int) -> str:
        return self._name(bisect_left(self._addresses, start))  # the first of those in one place

    def _find(self, digits: int) -> None:
        """Read the tables, if this is in the token table."""
        data, tokens = self._data, digits
        self._tokens, self._markers = [], array("I")
        for _ in range(ord("0")):  # the tokens before
            tokens = data.rindex(b"\0", 0, tokens - 1) + 1
        place = tokens
        starts = []
        for _ in range(TOKENS):
            end = data.index(b"\0", place)
            self._tokens.append(data[place:end])
            starts.append(place - tokens)
            place = end + 1
        index = _aligned(place)
        if list(unpack_from(f"<{TOKENS}H", data, index)) != starts:
            raise ValueError("no token index")
        markers = tokens - tokens % 8
        while True:  # down to the first marker, which is 0
            markers -= 4
            value = unpack_from("<I", data, markers)[0]
            if value == 0 and self._markers:
                self._markers.append(0)
                break
            if self._markers and value >= self._markers[-1]:
                raise ValueError("no markers")
            if value:  # else what fills up to the alignment
                self._markers.append(value)
        self._markers.reverse()
        count = self._find_names(markers)
        old = unpack_from("<Q", data, self._names_at - 16)[0]
        if old >= KERNEL:
            self._take(self._names_at - 16 - _aligned(4 * count), count, old)
        else:
            offsets = _aligned(index + 2 * TOKENS)
            self._take(offsets, count, unpack_from("<Q", data, _aligned(offsets + 4 * count))[0])

    def _find_names(self, end: int) -> int:
        """The number of symbols stands before their names, which lead to each of the markers."""
        batches = len(self._markers)
        place = end - self._markers[-1]
        place -= place % 8
        while place > 8 and end - place < MOST_NAMES:
            count = unpack_from("<Q", self._data, place - 8)[0]
            if (batches - 1) * BATCH < count <= min(batches * BATCH, MOST_SYMBOLS):
                self._names_at = place
                if self._skip(place, BATCH) == place + self._markers[1]:
                    return int(count)
            place -= 8
            if end - self._markers[-1] - place > BATCH * 512:
                break
        raise ValueError("no names")

    def _take(self, offsets: int, count: int, base: int) -> None:
        if base < KERNEL:
            raise ValueError("no base")
        found = array("i")
        found.frombytes(self._data[offsets : offsets + 4 * count])
        if len(found) != count:
            raise ValueError("no offsets")
        if found[-1] < 0 and found[count // 2] < 0:  # of CONFIG_KALLSYMS_ABSOLUTE_PERCPU: others are per CPU
            addresses = [base - 1 - offset if offset < 0 else offset for offset in found]
        else:
            addresses = [base + (offset & 0xFFFF_FFFF) for offset in found]
        if addresses != sorted(addresses):
            raise ValueError("not in order")
        self._addresses = addresses

    def _skip(self, place: int, count: int) -> int:
        """The place of the symbol that is ``count`` behind the one at ``place``."""
        for _ in range(count):
            length, place = self._length(place)
            place += length
        return place

    def _length(self, place: int) -> tuple[int, int]:
        """How many tokens the name at ``place`` has, and where they are."""
        length = self._data[place]
        if length & 0x80:
            return length & 0x7F | self._data[place + 1] << 7, place + 2
        return length, place + 1

    def _name(self, number: int) -> str:
        place = self._names_at + self._markers[number // BATCH]
        length, place = self._length(self._skip(place, number % BATCH))
        tokens = self._data[place : place + length]
        text = b"".join(self._tokens[token] for token in tokens)
        return text[1:].decode("utf-8", "replace")  # the first character is the symbol's kind


def read(memory: Memory) -> Kallsyms:
    """The symbols of the Linux kernel in ``memory``."""
    data = bytearray()
    for gpa in range(FROM, TO, MIB):
        try:
            data += memory.read(gpa, MIB)
        except PykvmError:  # the guest has less memory
            break
    return Kallsyms(data)


def _aligned(place: int) -> int:
    return place + 7 & ~7
