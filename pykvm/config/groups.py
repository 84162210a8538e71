"""The kinds of values that hold others: maps of known keys, lists, and maps of names that the user gives.

Beside ``read`` and ``schema`` they have ``open(node, path)``, which gives the map or the list that a
node is or is short for, so that ``--set`` can reach into it.
"""

from __future__ import annotations

from pykvm.config.kinds import Later, either
from pykvm.config.node import LIST, MAP, SCALAR, Node, join, plant
from pykvm.config.sizes import LONGEST
from pykvm.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pykvm.config.kinds import Kind, Schema


@frozen
class Key:
    """A row of the table: one key, what it takes and what it is for."""

    name: str
    kind: Kind
    about: str
    default: Any
    """Plain data, as the file would say it; None where without the key there is no such thing."""
    required: str
    """The remedy where the key must be there and isn't."""
    field: str
    """The name in the model."""

    def schema(self) -> Schema:
        about = f"{self.about} (Later: {self.kind.sentence}.)" if isinstance(self.kind, Later) else self.about
        schema = {"description": about, **self.kind.schema()}
        return schema if self.default is None else {**schema, "default": self.default}


def key(
    name: str, kind: Kind, about: str, *, default: Any = None, required: str = "", field: str = ""
) -> Key:
    """A row, its name, kind and description in the order in which they are read."""
    return Key(name=name, kind=kind, about=about, default=default, required=required, field=field or name)


def find(rows: tuple[Key, ...], name: Node, path: str, noun: str) -> Key:
    """The row of the key that the user wrote, or an error that names the nearest one."""
    for row in rows:
        if row.name == name.text:
            return row
    what = f"not a {noun} that pykvm knows"
    raise name.error(join(path, name.text), what, _suggestion(rows, name.text[:LONGEST].lower()))


def _suggestion(rows: tuple[Key, ...], name: str) -> str:
    import difflib  # 8 ms, which only an error pays

    for row in rows:
        if isinstance(row.kind, Group) and any(inner.name == name for inner in row.kind.rows):
            return f"did you mean {row.name}.{name}?"
    names = tuple([row.name for row in rows])
    near = difflib.get_close_matches(name, names, 1)
    return f"did you mean {near[0]}?" if near else f"write {either(names)}"


def rows_schema(rows: tuple[Key, ...]) -> Schema:
    """A map with these keys and no others."""
    schema = {
        "type": "object",
        "properties": {row.name: row.schema() for row in rows},
        "additionalProperties": False,
    }
    required = [row.name for row in rows if row.required]
    return {**schema, "required": required} if required else schema


@frozen
class Group:
    """A map of known keys that becomes a record. A scalar instead of it is the value of key ``short``."""

    noun: str
    example: str
    record: Callable[..., Any]
    rows: tuple[Key, ...]
    short: str = ""

    def open(self, node: Node, path: str) -> Node:
        if node.kind == SCALAR and not node.empty and self.short:
            name = Node(node.source, node.line, node.column, text=self.short)
            return Node(node.source, node.line, node.column, entries={self.short: (name, node)})
        if node.kind != MAP:
            raise node.mismatch(path, self.noun, f"write {self.example}")
        return node

    def find(self, name: Node, path: str) -> Key:
        return find(self.rows, name, path, "key")

    def read(self, node: Node, path: str) -> Any:
        opened = self.open(node, path)
        for name, _ in opened.entries.values():
            self.find(name, path)
        values = {}
        for row in self.rows:
            value = opened.child(row.name)
            if value is None and isinstance(row.kind, Later):
                continue
            if value is None and row.required:
                raise node.error(path, f"lacks the key {row.name}", row.required)
            if value is None and row.default is not None:
                value = plant(row.default, node.source)
            inside = path if value is node else join(path, row.name)  # value is node: the short form
            values[row.field] = None if value is None else row.kind.read(value, inside)
        return self.record(**values)

    def schema(self) -> Schema:
        alone = [row.kind.schema() for row in self.rows if row.name == self.short]
        return {"anyOf": [*alone, rows_schema(self.rows)]} if alone else rows_schema(self.rows)


@frozen
class OneOf:
    """A map with a single key, which says what it is, as in ``serial: {port: com1}``."""

    noun: str
    rows: tuple[Key, ...]

    def open(self, node: Node, path: str) -> Node:
        if node.kind != MAP:
            raise node.mismatch(path, f"a {self.noun}", f"write {self.rows[0].name}: {{}}")
        return node

    def find(self, name: Node, path: str) -> Key:
        return find(self.rows, name, path, self.noun)

    def read(self, node: Node, path: str) -> Any:
        pairs = [(self.find(name, path), value) for name, value in self.open(node, path).entries.values()]
        if len(pairs) != 1:
            what = f"has {len(pairs)} {self.noun}s in one entry"
            raise node.error(path, what, f"begin each {self.noun} with a dash of its own")
        row, value = pairs[0]
        return row.kind.read(value, join(path, row.name))

    def schema(self) -> Schema:
        return {**rows_schema(self.rows), "minProperties": 1, "maxProperties": 1}


@frozen
class ListOf:
    """A list that becomes a tuple. A scalar instead of it, where ``single``, is a list of one."""

    item: Kind
    single: bool = False

    def open(self, node: Node, path: str) -> Node:
        if self.single and node.kind == SCALAR and not node.empty:
            return Node(node.source, node.line, node.column, items=(node,))
        if node.kind != LIST:
            raise node.mismatch(path, "a list", "write a list, or [] for an empty one")
        return node

    def read(self, node: Node, path: str) -> tuple[Any, ...]:
        opened = self.open(node, path)
        if opened is not node:
            return (self.item.read(node, path),)
        return tuple([self.item.read(item, join(path, str(i))) for i, item in enumerate(opened.items)])

    def schema(self) -> Schema:
        several = {"type": "array", "items": self.item.schema()}
        return {"anyOf": [self.item.schema(), several]} if self.single else several


@frozen
class MapOf:
    """A map from names that aren't pykvm's to values of one kind; it becomes a tuple of pairs."""

    noun: str
    example: str
    letters: str
    value: Kind

    def open(self, node: Node, path: str) -> Node:
        if node.kind != MAP:
            raise node.mismatch(path, f"a map of {self.noun}s", f"write {self.example}")
        return node

    def read(self, node: Node, path: str) -> tuple[tuple[str, Any], ...]:
        pairs = []
        for name, value in self.open(node, path).entries.values():
            if name.text.strip(self.letters):
                raise name.mismatch(path, f"the name of a {self.noun}", f"write {self.example}")
            pairs.append((name.text, self.value.read(value, join(path, name.text))))
        return tuple(pairs)

    def schema(self) -> Schema:
        names = {"pattern": f"^[{self.letters}]+$"}
        return {"type": "object", "propertyNames": names, "additionalProperties": self.value.schema()}
