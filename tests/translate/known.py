"""What is known of a value, and of all values at a place in a routine; what two ways there have in common.

A value has bounds, a count of low bits that are 0, and a shape: how it came to be of the values ``of``, which
are meant by their ids. Ids are names within one state: two registers with the same id hold the same number.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import NamedTuple

M64 = (1 << 64) - 1
Id = Hashable
Fact = tuple[tuple[object, ...], tuple[Id, ...]]
"""A name with its arguments, and the ids that it is of."""


class Value(NamedTuple):
    low: int = 0
    high: int = M64
    zeros: int = 0
    shape: tuple[object, ...] = ()
    of: tuple[Id, ...] = ()
    id: Id = None

    @property
    def number(self) -> int | None:
        return self.low if self.low == self.high else None


def constant(number: int) -> Value:
    number &= M64
    return Value(number, number, (number & -number).bit_length() - 1 if number else 64)


@dataclass(frozen=True)
class State:
    """``values`` by register's name, by distance of a context's slot, and, as "a" and "b", those of which the
    flags tell (``flags``: "compared" or "result"). ``stack``: what lies below the context, the last on top.
    """

    values: dict[str | int, Value]
    facts: frozenset[Fact] = frozenset()
    flags: str = ""
    stack: tuple[object, ...] = ()

    def get(self, key: str | int) -> Value:
        return self.values.get(key, Value())

    def having(self, key: str | int, value: Value) -> State:
        return replace(self, values={**self.values, key: value})

    def without(self, *keys: str | int) -> State:
        return replace(self, values={key: value for key, value in self.values.items() if key not in keys})

    def knowing(self, *facts: Fact) -> State:
        return replace(self, facts=self.facts | set(facts))

    def knows(self, name: tuple[object, ...], *of: Id) -> bool:
        return (name, of) in self.facts

    def forgetting(self, name: Id) -> State:
        """The id is about to be given anew: what has it loses it."""
        facts = self.facts
        if any(name in of for _, of in facts):
            facts = frozenset(fact for fact in facts if name not in fact[1])
        values = self.values
        if any(value.id == name or name in value.of for value in values.values()):
            values = {key: _stripped(value, name) for key, value in values.items()}
        return replace(self, values=values, facts=facts)

    def refined(self, value: Value, **changes: object) -> State:
        """All that hold ``value`` are known better now."""
        if value.id is None:
            return self
        return replace(
            self,
            values={
                key: held._replace(**changes) if held.id == value.id else held  # type: ignore[arg-type]
                for key, held in self.values.items()
            },
        )


def _stripped(value: Value, name: Id) -> Value:
    if name in value.of:
        value = value._replace(shape=(), of=())
    return value._replace(id=None) if value.id == name else value


def _in_page(one: Value, other: Value) -> Value:
    """``one``, and if both are places in a page, anywhere from the lower to the higher."""
    if one.shape[:1] != ("hostpage",) or other.shape[:1] != ("hostpage",):
        return one
    lows, highs = zip(one.shape[1:], other.shape[1:], strict=True)
    return one._replace(shape=("hostpage", min(lows), max(highs)))


def joined(first: State, second: State, place: int) -> State:
    """What holds on both ways to ``place``. Pairs of ids that meet get a new one."""
    names: dict[tuple[Id, Id], Id] = {}

    def pair(one: Id, other: Id) -> Id:
        if one is None or other is None:
            return None
        return names.setdefault((one, other), ("joined", place, len(names)))

    values: dict[str | int, Value] = {}
    for key in sorted(first.values.keys() & second.values.keys(), key=str):
        one, other = first.values[key], second.values[key]
        one, other = _in_page(one, other), _in_page(other, one)
        same = one.shape == other.shape and len(one.of) == len(other.of)
        of = tuple(pair(*ids) for ids in zip(one.of, other.of, strict=True)) if same else ()
        values[key] = Value(
            min(one.low, other.low),
            max(one.high, other.high),
            min(one.zeros, other.zeros),
            one.shape if same else (),
            of,
            pair(one.id, other.id),
        )
    facts = set()
    for name, of in sorted(first.facts, key=str):
        for also, others in second.facts:
            pairs = list(zip(of, others, strict=False))
            if name == also and len(of) == len(others) and all(ids in names for ids in pairs):
                facts.add((name, tuple(names[ids] for ids in pairs)))
    flags = first.flags if first.flags == second.flags else ""
    return State(values, frozenset(facts), flags, first.stack)
