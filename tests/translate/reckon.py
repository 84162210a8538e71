"""What is known of a sum, a mask, a shift, where the values that it is made of have a shape.

=================  ===================================================================================
slot NAME          what lies in the context's slot
low12, page, index bits 0 to 11 of a guest-virtual address; those from 12 up; 12 to 27
tag, sum, over     a TLB's tag for an address; with address and bytes added; of that the bits from 16 up
addend, host       what a TLB adds to an address; both added
below REGION       the address of a page of RAM, from the region's start
hostpage, rampage  of such a page: its host address (and by how much more), its number among RAM's
room, elements     bytes that are left in the pages of some addresses; the same in elements
=================  ===================================================================================
"""

from __future__ import annotations

from known import M64, State, Value, constant

from pykvm.translate.context import ENTRIES, TAG_BIAS

_REGIONS = {"guest_low": "low", "guest_high": "high"}


def binary(name: str, one: Value, other: Value) -> Value:
    """Of 64 bits; without an id."""
    return _NAMES[name](one, other)


def added(one: Value, other: Value) -> Value:
    for a, b in ((one, other), (other, one)):
        kind = a.shape[:1]
        if kind == ("slot",):
            region = _REGIONS.get(str(a.shape[1]))
            if region is not None and b.shape == ("below", region):
                return Value(shape=("hostpage", 0, 0), of=(b.id,))
            if a.shape[1] == "low_pages" and b.shape == ("highpage",):
                return Value(shape=("rampage",), of=b.of)
            if a.shape[1] == "page_writers" and b.shape == ("rampage", 4):
                return Value(shape=("writer",), of=b.of)
        elif kind == ("tag",) and b.id in a.of:
            return Value(shape=("sum", *a.shape[1:], 0), of=a.of)
        elif kind == ("sum",) and b.number is not None and b.number < 1024:
            _, write, ring, more = a.shape
            return Value(shape=("sum", write, ring, int(str(more)) + b.number), of=a.of)
        elif kind == ("addend",) and b.id in a.of:
            return Value(shape=("host", *a.shape[1:]), of=a.of)
        elif kind == ("hostpage",) and b.high < 1 << 32:
            _, low, high = a.shape
            return Value(shape=("hostpage", int(str(low)) + b.low, int(str(high)) + b.high), of=a.of)
    if other.number is not None and other.number < 1024 and one.id is not None:
        return _sum(one, other)._replace(shape=("plus", other.number), of=(one.id,))
    return _sum(one, other)


def _sum(one: Value, other: Value) -> Value:
    if one.high + other.high > M64:
        if other.number is not None and one.low >= M64 + 1 - other.number:  # a negative number
            return Value(one.low + other.number - M64 - 1, one.high + other.number - M64 - 1)
        return Value(zeros=min(one.zeros, other.zeros))
    return Value(one.low + other.low, one.high + other.high, min(one.zeros, other.zeros))


def subtracted(one: Value, other: Value) -> Value:
    if one.shape == ("hostpage", 0, 0) and other.shape == ("page",):
        return Value(shape=("to add",), of=(*other.of, *one.of))
    if one.number == TAG_BIAS and other.shape == ("page",):
        return Value(shape=("valid",), of=other.of)
    zeros = min(one.zeros, other.zeros)
    room = {"shape": ("room",), "of": other.of} if one.number == 0x1000 and other.shape == ("low12",) else {}
    if one.low >= other.high:
        return Value(one.low - other.high, one.high - other.low, zeros, **room)  # type: ignore[arg-type]
    return Value(zeros=zeros)


def masked(one: Value, other: Value) -> Value:
    for a, b in ((one, other), (other, one)):
        if b.number == 0xFFF:
            return Value(0, min(a.high, 0xFFF), a.zeros, ("low12",), (a.id,))
        if b.number == M64 - 0xFFF:
            return Value(zeros=12, shape=("page",), of=(a.id,))
    return Value(0, min(one.high, other.high), max(one.zeros, other.zeros))


def united(one: Value, other: Value) -> Value:
    if one.id is not None and one.id == other.id:
        return one
    bits = max(one.high, other.high).bit_length()
    return Value(max(one.low, other.low), (1 << bits) - 1, min(one.zeros, other.zeros))


def differing(one: Value, other: Value) -> Value:
    if one.id is not None and one.id == other.id:
        return constant(0)
    for a, b in ((one, other), (other, one)):
        if a.shape == ("low12",) and a.of == (b.id,):
            return Value(zeros=12)
        if a.shape[:1] == ("plus",) and a.of == (b.id,):
            return Value(shape=("crossing", a.shape[1]), of=a.of)
        if b.number == 0x8000 and a.high < ENTRIES and a.id is not None:
            return Value(0, ENTRIES - 1, 0, ("invalid 1",), a.of if a.shape == ("word",) else (a.id,))
    bits = max(one.high, other.high).bit_length()
    return Value(0, (1 << bits) - 1, min(one.zeros, other.zeros))


def smaller(one: Value, other: Value) -> Value:
    """The smaller one of both, with what is known of either."""
    result = Value(min(one.low, other.low), min(one.high, other.high))
    if one.shape == other.shape == ("room",):
        return result._replace(shape=("room",), of=(*one.of, *other.of))
    for a in (one, other):
        if a.shape == ("elements",):
            return result._replace(shape=a.shape, of=a.of)
    return result


def shifted(name: str, one: Value, count: Value) -> Value:
    by = count.number
    if by is None:
        if name == "shr" and one.shape == ("room",):
            return Value(0, one.high, shape=("elements",), of=(*one.of, count.id))
        if name == "shl" and one.shape == ("elements",) and one.of[-1:] == (count.id,):
            return Value(shape=("room",), of=one.of[:-1])
        return Value()
    if name == "shl":
        zeros = min(64, one.zeros + by)
        if by == 2 and one.shape == ("rampage",):
            return Value(zeros=zeros, shape=("rampage", 4), of=one.of)
        if by == 12 and one.shape == ("invalid 1",):
            return Value(zeros=zeros, shape=("invalid 2",), of=one.of)
        if one.high << by > M64:
            return Value(zeros=zeros)
        return Value(one.low << by, one.high << by, zeros)
    if name == "sar":
        return Value()
    result = Value(one.low >> by, one.high >> by, max(0, one.zeros - by))
    if by == 16 and one.shape[:1] == ("sum",):
        return result._replace(shape=("over", *one.shape[1:]), of=one.of)
    if by == 12 and one.shape[:1] == ("crossing",):
        return result._replace(shape=("crossed", one.shape[1]), of=one.of)
    if by == 12 and one.shape == ("below", "low"):
        return result._replace(shape=("rampage",), of=(one.id,))
    if by == 12 and one.shape == ("below", "high"):
        return result._replace(shape=("highpage",), of=(one.id,))
    if by == 12 and one.id is not None:
        return result._replace(shape=("from 12",), of=(one.id,))
    return result


def word(value: Value) -> Value:
    """The low 16 bits."""
    if value.high < 1 << 16:
        return value
    if value.shape == ("from 12",):
        return Value(0, 0xFFFF, shape=("index",), of=value.of)
    if value.shape == ("entry",):
        return Value(0, 0xFFFF, shape=("word",), of=(value.id,))
    return Value(0, 0xFFFF)


def negated(value: Value) -> Value:
    return Value(shape=("invalid",), of=value.of) if value.shape == ("invalid 2",) else Value()


_NAMES = {"add": added, "sub": subtracted, "and": masked, "or": united, "xor": differing}


def is_zero(value: Value, state: State) -> State:
    """``value`` is 0."""
    state = state.refined(value, low=0, high=0)
    kind = value.shape[:1]
    if kind == ("over",):
        _, write, ring, more = value.shape
        return state.knowing((("looked", write, ring, int(str(more)) + 1), value.of))
    if kind == ("crossed",):
        return state.knowing((("same page", value.shape[1]), value.of))
    if kind == ("flag",):
        return state.knowing((("writable",), value.of))
    return state


def holding(condition: str, state: State) -> State:
    """What is known where a condition of the flags holds."""
    a, b = state.get("a"), state.get("b") if state.flags == "compared" else constant(0)
    if not state.flags:
        return state
    if condition == "je":
        if b.number == 0:
            return is_zero(a, state)
        return state.refined(a, low=max(a.low, b.low), high=min(a.high, b.high))
    if condition == "jne":
        return state.refined(a, low=max(a.low, 1)) if b.number == 0 else state
    if state.flags != "compared":
        return state
    if condition == "jb":
        if b.shape in (("slot", "low_end"), ("slot", "high_size")) and a.zeros >= 12:
            region = "low" if b.shape[1] == "low_end" else "high"
            return state.refined(a, shape=("below", region), of=())
        return state.refined(a, high=min(a.high, b.high - 1)) if b.high else state
    if condition == "jae":
        return state.refined(a, low=max(a.low, b.low))
    if condition == "jbe":
        return state.refined(a, high=min(a.high, b.high))
    return state
