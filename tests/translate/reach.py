"""Whether an access of a routine's stays within what it may reach, and what is known of what it reads."""

from __future__ import annotations

from known import M64, Fact, State, Value

from pykvm.translate import context
from pykvm.translate.codepage import CHECK_SIZE, HEAD_SIZE, IDS, PAGE
from pykvm.translate.context import (
    CONTEXT_SIZE,
    CROSSING_PLACES,
    CROSSINGS,
    ENTRIES,
    LOG_ENTRIES,
    SLOT,
    TLB_ADDEND,
    TLB_READ,
    TLB_WRITE,
)

POINTERS = frozenset(
    (
        *("guest_low", "low_end", "guest_high", "high_size", "page_flags", "page_writers", "code_gpas"),
        *(
            "low_pages",
            "chain",
            "jump_miss",
            "leave_for_attention",
            "page_check",
            "stale",
            "interpret",
            "sti",
        ),
        *(name for name in SLOT if name.startswith(("do_", "miss_", "lookup_", "addend_", "leave_for_"))),
        *(name for name in SLOT if name.startswith(("bring_", "carry_back_"))),
    )
)
"""Slots that Python alone writes."""
LOG_COUNTS = ("local_log", "global_log", "check_log", "user_log")
_NAMES = {at: name for name, at in SLOT.items()}
STACK = 64
"""Of what lies below the context, as much as a routine pushes at most."""
FIRST_TABLE = TLB_READ[0]
CROSSING_SITES, CROSSING_CODES = CROSSINGS, CROSSINGS + 8 * CROSSING_PLACES
_WIDE_ENTRY = 4 * ENTRIES - 1
_LOGS = {context.LOCAL_LOG: True, context.GLOBAL_LOG: True, context.CHECK_LOG: False, context.USER_LOG: False}
_TABLES = {
    **dict.fromkeys(
        (*TLB_READ, *TLB_WRITE, *TLB_ADDEND, *context.JUMP_TAG, *context.JUMP_HOST), (8, ENTRIES)
    ),
    **dict.fromkeys(_LOGS, (4, LOG_ENTRIES)),
    context.PAGE_CHECKS: (4, ENTRIES),
    context.LARGE: (1, ENTRIES),
    context.LATCHES: (1, 0x10000),
    context.KEPT: (1, context.KEPT_SIZE),
    SLOT["bounce"]: (1, 1024),
    CROSSING_SITES: (8, CROSSING_PLACES),
    CROSSING_CODES: (8, CROSSING_PLACES),
}
"""By where they lie: an entry's bytes, and how many there are."""


class Wall(Exception):
    """The access isn't shown to be allowed."""


def slot_value(at: int) -> Value:
    """What Python and the routines see to for each slot."""
    name = _NAMES.get(at, "")
    value = Value(shape=("slot", name))
    if name in LOG_COUNTS:
        return Value(0, LOG_ENTRIES)
    if name == "cr3":
        return Value(zeros=12)
    return value


def check_slot(at: int, size: int, write: bool, value: Value | None) -> None:
    if not -STACK <= at <= CONTEXT_SIZE - size:
        raise Wall("lies outside the context")
    if at >= FIRST_TABLE:
        raise Wall("is a table's, without an index")
    if not write:
        return
    if any(SLOT[name] < at + size and at < SLOT[name] + 8 for name in POINTERS):
        raise Wall("writes what is Python's alone")
    if any(SLOT[name] < at + size and at < SLOT[name] + 8 for name in LOG_COUNTS) and (
        value is None or size != 8 or value.high > LOG_ENTRIES
    ):
        raise Wall("gives a log more entries than it has place for")
    if SLOT["cr3"] < at + size and at < SLOT["cr3"] + 8 and (value is None or value.zeros < 12):
        raise Wall("makes CR3 no page's address")


def table_load(start: int, index: Value, scale: int, size: int) -> Value:
    """What is read at ``index`` of the table that starts at ``start``."""
    _check_table(start, index, scale, size)
    if start == CROSSING_CODES:
        return Value(shape=("crossing",))
    log = start if start in _LOGS else start + 4  # from its end they are counted from 1
    if log in _LOGS:
        return Value(0, _WIDE_ENTRY, shape=("entry",)) if _LOGS[log] else Value(0, ENTRIES - 1)
    for ring in (0, 1):
        if index.shape == ("index",):
            if start == TLB_ADDEND[ring]:
                return Value(shape=("addend", ring), of=index.of)
            if start in (TLB_READ[ring], TLB_WRITE[ring]):
                return Value(shape=("tag", start == TLB_WRITE[ring], ring), of=index.of)
    return Value(0, (1 << 8 * size) - 1)


def table_store(start: int, index: Value, scale: int, size: int, value: Value, state: State) -> list[Fact]:
    """The same for a write; what is known after it."""
    _check_table(start, index, scale, size)
    if start in (CROSSING_SITES, CROSSING_CODES):
        raise Wall("writes what is Python's alone")
    if start in _LOGS:
        wide = value.low >= 3 * ENTRIES and value.high <= _WIDE_ENTRY
        if value.high >= ENTRIES and not (_LOGS[start] and wide):
            raise Wall("logs what may be no entry")
    for ring in (0, 1):
        if start == TLB_ADDEND[ring]:
            if value.shape != ("to add",) or index.of != value.of[:1] or index.shape != ("index",):
                raise Wall("puts into the TLB what leads anywhere")
            return [(("filled", "addend", ring), value.of)]
        if start not in (TLB_READ[ring], TLB_WRITE[ring]):
            continue
        if value.shape == ("invalid",):
            if value.of != (index.id,):
                raise Wall("is a tag that another entry may match")
            return []
        site = next((of for name, of in state.facts if name == ("filled", "addend", ring)), None)
        if value.shape != ("valid",) or site is None or site[:1] != value.of or index.of != value.of:
            raise Wall("is a tag of another page than the addend")
        write = start == TLB_WRITE[ring]
        if write and not state.knows(("writable",), site[1]):
            raise Wall("lets a page be written whose writes must be seen")
        return [(("filled", write, ring), site)]
    return []


def _check_table(start: int, index: Value, scale: int, size: int) -> None:
    found = _TABLES.get(start)
    if found is None and start + 4 in _LOGS:  # counted from 1
        if index.low < 1 or index.high > LOG_ENTRIES or scale != 4 or size != 4:
            raise Wall(f"is an index of a log that may be anything from {index.low} to {index.high:#x}")
        return
    if found is None:
        raise Wall("is in no table")
    entry, count = found
    both = start in (TLB_READ[0], TLB_WRITE[0]) and index.shape == ("entry",)
    if scale != entry or size != entry:
        raise Wall(f"are {size} bytes by {scale} of a table of {entry}")
    if index.high >= count and not both:
        raise Wall(f"is an index that may be as high as {index.high:#x}")


def load(base: Value, index: Value | None, scale: int, at: int, size: int, state: State) -> Value:
    """What is read through a pointer."""
    if base.shape == ("slot", "page_flags") and index is not None and index.shape == ("rampage",):
        if at or size != 1 or scale != 1:
            raise Wall("is no flag of a page")
        return Value(0, 0xFF, shape=("flag",), of=index.of)
    if base.shape == ("slot", "code_gpas") and index is not None:
        if at or size != 8 or scale != 8 or index.high >= IDS:
            raise Wall(f"is an id that may be as high as {index.high:#x}")
        return Value()
    if base.shape == ("return",) and index is None:
        if not -CHECK_SIZE - HEAD_SIZE <= at <= -CHECK_SIZE - size:
            raise Wall("is not what lies before a page check")
        return Value(0, (1 << 8 * size) - 1)
    if base.shape == ("ucontext",) and index is None and 40 <= at <= 40 + 8 * 20:
        return Value(shape=("ucontext", at))
    reach(base, index, scale, at, size, False, state)
    return Value(0, M64 if size >= 8 else (1 << 8 * size) - 1)


def reach(
    base: Value, index: Value | None, scale: int, at: int, size: int, write: bool, state: State
) -> None:
    """Raises Wall unless it is guest memory that was looked for, or one of the runtime's own tables."""
    if at > M64 >> 1:
        at -= M64 + 1
    kind = base.shape[:1]
    if kind == ("hostpage",):
        low, high = (int(str(part)) for part in base.shape[1:])
        if index is not None:
            low, high = low + index.low * scale, high + index.high * scale
        if low + at < 0 or high + at + size > PAGE:
            raise Wall(f"reaches from {low + at:#x} to {high + at + size:#x} of a page")
        if write and not state.knows(("writable",), *base.of):
            raise Wall("writes to a page whose writes may have to be seen")
    elif kind == ("host",) and index is None:
        looked(base.of[0], int(str(base.shape[1])), at, size, write, state)
    elif kind == ("writer",) and index is None:
        if at or size != 4:
            raise Wall("is more than a page's writer")
    elif kind == ("context",) and index is None:
        check_slot(at, size, write, None)
    elif base.shape == ("ucontext", 40 + 8 * 15) and index is None:  # RSP: the context's in emitted code
        inside = [
            value.low >= int(str(name[1])) and value.high < int(str(name[2]))
            for name, _ in state.facts
            for value in state.values.values()
            if name[0] == "emitted" and value.shape == ("ucontext", 40 + 8 * 16)
        ]
        if not any(inside):
            raise Wall("is a stack that may be another's")
        check_slot(at, size, write, None)
    elif base.shape == ("ucontext",) and index is None and write:
        if at != 40 + 8 * 16 or size != 8:
            raise Wall("is not RIP of a signal's context")
    else:
        raise Wall("is an address of nothing that was looked up")


def looked(address: object, ring: int, at: int, size: int, write: bool, state: State) -> None:
    """Raises Wall unless a lookup has found these bytes."""
    for name, of in state.facts:
        if name[0] != "looked" or of != (address,) or name[2] != ring or (write and not name[1]):
            continue
        if at >= 0 and at + size <= int(str(name[3])):
            return
    raise Wall(f"are {size} bytes at {at} that no lookup has found for {'writing' if write else 'reading'}")
