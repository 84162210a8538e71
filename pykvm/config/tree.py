"""The tree of a machine file as text that is read back at once, where YAML's scanner takes 12 ms to load.

A node is ``KIND LINE COLUMN SIZE:`` and what it holds: s and q, a plain and a quoted scalar, that many
characters; l, a list, that many nodes; m, a map, that many pairs of nodes.
"""

from __future__ import annotations

from pykvm.config.node import LIST, SCALAR, Node, Source
from pykvm.config.parse import DEEPEST


def written(node: Node) -> str:
    """``node`` and all below it."""
    place = f"{node.line} {node.column}"
    if node.kind == SCALAR:
        return f"{'q' if node.quoted else 's'} {place} {len(node.text)}:{node.text}"
    if node.kind == LIST:
        return f"l {place} {len(node.items)}:" + "".join(map(written, node.items))
    pairs = (written(key) + written(value) for key, value in node.entries.values())
    return f"m {place} {len(node.entries)}:" + "".join(pairs)


def read(text: str, source: Source) -> Node:
    """The node that ``written`` gave ``text`` for. Raises ValueError where it gave no such text."""
    node, end = _read(text, 0, source, 0)
    if end != len(text):
        raise ValueError("more than one node")
    return node


def _read(text: str, at: int, source: Source, depth: int) -> tuple[Node, int]:
    """The node at ``at``, and where it ends."""
    colon = text.index(":", at)
    kind, *numbers = text[at:colon].split(" ")
    line, column, size = map(int, numbers)
    at = colon + 1
    if kind in ("s", "q") and 0 <= size <= len(text) - at:
        held = text[at : at + size]
        return Node(source, line, column, text=held, quoted=kind == "q"), at + size
    if kind not in ("l", "m") or depth > DEEPEST:
        raise ValueError("no node")
    nodes = []
    for _ in range(size if kind == "l" else 2 * size):
        node, at = _read(text, at, source, depth + 1)
        nodes.append(node)
    if kind == "l":
        return Node(source, line, column, items=tuple(nodes)), at
    pairs = zip(nodes[::2], nodes[1::2])
    return Node(source, line, column, entries={key.text: (key, value) for key, value in pairs}), at
