"""What the command line changes in a machine file: ``--set KEY=VALUE`` and its short forms."""

from __future__ import annotations

from pykvm.config.groups import Group, ListOf, MapOf, OneOf
from pykvm.config.kinds import Later
from pykvm.config.node import SCALAR, Node, Source, join, plant
from pykvm.config.parse import parse
from pykvm.config.schema import MACHINE
from pykvm.config.sizes import LONGEST
from pykvm.errors import UsageError
from pykvm.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.config.kinds import Kind

EXAMPLE = "write --set KEY=VALUE, such as --set memory=1G"


@frozen
class Override:
    """One change: the key at dotted path ``key`` becomes ``text``, which is taken as it is, not as YAML.

    ``option`` is what messages call it (``--kernel``). ``add`` puts the text behind what is there.
    """

    option: str
    key: str
    text: str
    add: bool = False


def override(root: Node, change: str | Override, folder: str) -> Node:
    """``root`` with one change made; a string is ``KEY=VALUE``, with a YAML value.

    Relative paths in it start from ``folder``. Raises UsageError where the change itself is wrong;
    its value is checked later, with the whole tree.
    """
    if isinstance(change, str):
        source = _source(f"--set {change}", folder)
        key, equals, text = change.partition("=")
        if not equals:
            raise Node(source).error("", "has no =", EXAMPLE)
        value = parse(text, source) or Node(source, text="")
        add = False
    else:
        source = _source(f"{change.option} {change.text}", folder)
        key, add = change.key, change.add
        value = Node(source, text=change.text, quoted=True)
    steps = key.split(".")
    if not all(steps):
        raise Node(source).error("", f"{key!r} is no path of a key", EXAMPLE)
    return _put(MACHINE, root, steps, value, add, "")


def _put(kind: Kind, node: Node | None, steps: list[str], value: Node, add: bool, path: str) -> Node:
    """``node``, a value of ``kind`` (None: not there yet), with ``value`` put at the end of ``steps``."""
    if node is not None and node.empty:
        node = None
    if not steps:
        return _replaced(kind, node, value, add)
    if isinstance(kind, Later):
        kind.read(value, path)
    if isinstance(kind, ListOf):
        return _put_item(kind, node, steps, value, add, path)
    name = ".".join(steps) if isinstance(kind, MapOf) else steps[0]
    key = Node(value.source, text=name)
    if not isinstance(kind, (Group, OneOf, MapOf)):
        raise key.error(path, f"has no {name!r} in it", f"set {path} itself")
    here = kind.open(node or Node(value.source), path)
    if isinstance(kind, MapOf):
        return here.with_entry(key, value)
    row = kind.find(key, path)
    if isinstance(kind, OneOf) and here.entries and name not in here.entries:
        other = next(iter(here.entries))
        raise key.error(path, f"is a {other}, not a {name}", f"set {path} to a {name}, or name another")
    below = here.child(name)
    if below is None and row.default is not None:
        below = plant(row.default, value.source)
    return here.with_entry(key, _put(row.kind, below, steps[1:], value, add, join(path, name)))


def _put_item(kind: ListOf, node: Node | None, steps: list[str], value: Node, add: bool, path: str) -> Node:
    here = kind.open(node or Node(value.source, items=()), path)
    count = len(here.items)
    number = int(steps[0]) if steps[0].isdecimal() and len(steps[0]) < 6 else count + 1
    if number > count:
        last = f"0 to {count}, where {count} adds one" if count else "0 for the first"
        raise Node(value.source).error(path, f"has no item {steps[0]!r}", f"write {last}")
    below = here.items[number] if number < count else None
    inside = join(path, str(number))
    return here.with_item(number, _put(kind.item, below, steps[1:], value, add, inside))


def _replaced(kind: Kind, old: Node | None, new: Node, add: bool) -> Node:
    """What stands in the place of ``old``."""
    if old is None:
        return new
    if add:
        text = f"{old.text} {new.text}"
        return Node(old.source, old.line, old.column, text=text, quoted=True) if old.kind == SCALAR else old
    if isinstance(kind, Group) and kind.short and old.entries and new.kind == SCALAR and not new.empty:
        # memory=1G leaves memory.hugepages as it is, and kernel=vmlinuz the command line
        return old.with_entry(Node(new.source, text=kind.short), new)
    return new


def _source(text: str, folder: str) -> Source:
    name = "".join(char if char.isprintable() else "?" for char in text)
    name = name if len(name) <= 2 * LONGEST else name[: 2 * LONGEST - 1] + "…"
    return Source(name=name, folder=folder, error=UsageError, lines=False)
