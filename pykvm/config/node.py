"""The machine file as a tree in which each value knows where it was written.

A scalar stays the text that the user wrote until the key above it says what it wants. YAML 1.1's
own guesses would make true of the key ``on``, 83 of ``0123`` and 90 of ``1:30``.
"""

from __future__ import annotations

from pykvm.config.sizes import LONGEST, shown
from pykvm.errors import InputError, PykvmError
from pykvm.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SCALAR, LIST, MAP = range(3)
KINDS = ("a scalar", "a list", "a map")
NULLS = ("", "~", "null", "Null", "NULL")


@frozen
class Source:
    """Where values come from: a file or an option of the command line."""

    name: str
    """What a message begins with."""
    folder: str
    """The absolute path that relative paths start from."""
    error: type[PykvmError] = InputError
    lines: bool = True
    """Whether messages say line and column."""


class Node:
    """A scalar with its ``text``, a list with its ``items``, or a map with its ``entries``.

    ``entries`` has a pair of nodes for each key: the key itself and its value. Nodes are never
    changed, since an alias makes two places share one.
    """

    __slots__ = ("column", "entries", "items", "kind", "line", "quoted", "source", "text")

    def __init__(
        self,
        source: Source,
        line: int = 0,
        column: int = 0,
        *,
        text: str | None = None,
        quoted: bool = False,
        items: tuple[Node, ...] | None = None,
        entries: dict[str, tuple[Node, Node]] | None = None,
    ) -> None:
        self.kind = SCALAR if text is not None else LIST if items is not None else MAP
        self.source = source
        self.line = line
        self.column = column
        self.text = text or ""
        self.quoted = quoted
        self.items = items or ()
        self.entries = entries or {}

    @property
    def empty(self) -> bool:
        """Whether this is a key's value that was left out, as in ``kernel:``."""
        return self.kind == SCALAR and not self.quoted and self.text in NULLS

    def child(self, name: str) -> Node | None:
        """The value of key ``name``, or element number ``name``."""
        if self.kind == MAP and name in self.entries:
            return self.entries[name][1]
        if self.kind == LIST and name.isdecimal() and int(name) < len(self.items):
            return self.items[int(name)]
        return None

    def nearest(self, path: str) -> Node:
        """The node at dotted ``path``, or as far on the way there as the tree goes."""
        node = self
        for name in path.split("."):
            below = node.child(name)
            if below is None:
                break
            node = below
        return node

    def with_entry(self, key: Node, value: Node) -> Node:
        """This map with one entry added or replaced."""
        entries = {**self.entries, key.text: (key, value)}
        return Node(self.source, self.line, self.column, entries=entries)

    def with_item(self, index: int, value: Node) -> Node:
        """This list with item ``index`` replaced, or one more item where ``index`` is its length."""
        items = (*self.items[:index], value, *self.items[index + 1 :])
        return Node(self.source, self.line, self.column, items=items)

    def error(self, path: str, what: str, remedy: str) -> PykvmError:
        """An error at this place; ``path`` is the dotted path of the key."""
        place = self.source.name
        if self.line and self.source.lines:
            place = f"{place}:{self.line}:{self.column}"
        return self.source.error(what, where=f"{place}: {path}" if path else place, remedy=remedy)

    def mismatch(self, path: str, wanted: str, remedy: str) -> PykvmError:
        """The error for a value that is not what its key wants."""
        if self.empty:
            return self.error(path, "has no value", remedy)
        value = shown(self.text) if self.kind == SCALAR else KINDS[self.kind]
        return self.error(path, f"{value} is not {wanted}", remedy)


def join(path: str, name: str) -> str:
    """The dotted path of ``name`` under ``path``; a name that would spoil a message is put in quotes."""
    if not name.isprintable() or len(name) > LONGEST:
        name = shown(name)
    return f"{path}.{name}" if path else name


def plant(value: Any, source: Source) -> Node:
    """The tree of plain data: maps, lists, strings, numbers and booleans, as in JSON."""
    if isinstance(value, dict):
        entries = {k: (plant(k, source), plant(v, source)) for k, v in value.items()}
        return Node(source, entries=entries)
    if isinstance(value, list):
        return Node(source, items=tuple([plant(item, source) for item in value]))
    if isinstance(value, bool):
        return Node(source, text="on" if value else "off")
    return Node(source, text=str(value), quoted=isinstance(value, str))
