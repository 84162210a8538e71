"""YAML to a tree of nodes, through the events of pyyaml: bounded, with positions, without guesses."""

from __future__ import annotations

from pykvm.config.node import SCALAR, Node, Source, join
from pykvm.config.sizes import LONGEST, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pykvm.errors import PykvmError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # with which Windows editors begin UTF-8
MOST_BYTES = 1 << 20
MOST_NODES = 10_000  # aliases counted as what they stand for: nine lines can stand for 10^9 values
DEEPEST = 32

# what is told best by where it begins, and not by where pyyaml gave up
LEFT_OPEN = (
    "while parsing a flow sequence",
    "while parsing a flow mapping",
    "while scanning a quoted scalar",
    "while scanning a simple key",
)
NOT_YAML = "put text that holds ': ', ' #' or '@' in quotes, and close each quote and bracket"


def decode(data: bytes, source: Source) -> str:
    """The text of a machine file. Raises the source's error for what is too long or not UTF-8."""
    if len(data) > MOST_BYTES:
        raise Node(source).error("", "is larger than 1 MiB", "give a machine file, a few lines of YAML")
    try:
        return data.removeprefix(BYTE_ORDER_MARK).decode()
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode()
        what = f"byte {error.object[error.start]:#04x} is not UTF-8 text"
        raise _at(source, before).error("", what, "save the file as UTF-8") from None


def parse(text: str, source: Source) -> Node | None:
    """The tree of ``text``, or None where it is empty. Raises the source's error for bad YAML."""
    import yaml  # 20 ms, which a kernel image booted with defaults needn't pay

    loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
    try:
        return _Composer(yaml.parse(text, Loader=loader), source).document()
    except yaml.MarkedYAMLError as error:
        raise _not_yaml(error, text, source) from None
    except yaml.reader.ReaderError:
        before = text[: next((i for i, char in enumerate(text) if not _printable(char)), 0)]
        what = f"{text[len(before)]!r} is a character that YAML doesn't allow"
        raise _at(source, before).error("", what, "remove it") from None
    except (ValueError, OverflowError):  # pyyaml's own scanner on "\UFFFFFFFF", and str.encode on surrogates
        what = "not YAML: it holds a character that doesn't exist"
        raise Node(source).error("", what, "look at its escapes, such as \\u1234") from None


class _Composer:
    """Builds nodes from events.

    pyyaml's own composer recurses without bound, and its maps keep the last of two equal keys.
    """

    def __init__(self, events: Iterator[Any], source: Source) -> None:
        self.events = events
        self.source = source
        self.anchors: dict[str, tuple[Node, int] | None] = {}  # None while the node is being built
        self.count = 0

    def document(self) -> Node | None:
        root = None
        for event in self.events:
            name = type(event).__name__
            if name == "DocumentStartEvent" and root is not None:
                what = "a second document begins here"
                raise self._leaf(event).error("", what, "keep one machine a file")
            if name not in ("StreamStartEvent", "DocumentStartEvent", "DocumentEndEvent", "StreamEndEvent"):
                root = self._node(event, "", 1)
        return None if root is None or root.empty else root

    def _node(self, event: Any, path: str, depth: int) -> Node:
        name = type(event).__name__
        if name == "AliasEvent":
            return self._alias(event, path)
        if event.tag is not None:
            remedy = f"write the value without {shown(event.tag)}"
            raise self._leaf(event).error(path, "has a tag, which machine files don't use", remedy)
        if depth > DEEPEST:
            raise self._leaf(event).error(path, f"is nested more than {DEEPEST} deep", "remove the brackets")
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        before = self.count
        self._add(1, event, path)
        if name == "ScalarEvent":
            node = self._leaf(event)
        elif name == "SequenceStartEvent":
            node = self._list(event, path, depth)
        else:
            node = self._map(event, path, depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = node, self.count - before
        return node

    def _leaf(self, event: Any) -> Node:
        mark = event.start_mark
        text = getattr(event, "value", "")
        if not text.isascii():
            text.encode()  # pyyaml's own scanner lets "\ud800" through, which is no character
        quoted = getattr(event, "style", None) in ("'", '"', "|", ">")
        return Node(self.source, mark.line + 1, mark.column + 1, text=text, quoted=quoted)

    def _list(self, start: Any, path: str, depth: int) -> Node:
        items: list[Node] = []
        while type(event := next(self.events)).__name__ != "SequenceEndEvent":
            items.append(self._node(event, join(path, str(len(items))), depth + 1))
        return Node(self.source, start.start_mark.line + 1, start.start_mark.column + 1, items=tuple(items))

    def _map(self, start: Any, path: str, depth: int) -> Node:
        entries: dict[str, tuple[Node, Node]] = {}
        while type(event := next(self.events)).__name__ != "MappingEndEvent":
            key = self._node(event, path, depth + 1)
            if key.kind != SCALAR or not key.text:
                raise key.error(path, "has a key that is no word", "write keys as in memory: 512M")
            inside = join(path, key.text)
            if key.text in entries:
                first = entries[key.text][0].line
                raise key.error(inside, f"stands here and in line {first}", "keep one of the two")
            entries[key.text] = key, self._node(next(self.events), inside, depth + 1)
        return Node(self.source, start.start_mark.line + 1, start.start_mark.column + 1, entries=entries)

    def _alias(self, event: Any, path: str) -> Node:
        anchored = self.anchors.get(event.anchor)
        if anchored is None:
            fault = "stands inside of itself" if event.anchor in self.anchors else "is not defined above"
            raise self._leaf(event).error(path, f"*{event.anchor[:LONGEST]} {fault}", "write the value out")
        node, count = anchored
        self._add(count, event, path)
        return node

    def _add(self, count: int, event: Any, path: str) -> None:
        self.count += count
        if self.count > MOST_NODES:
            raise self._leaf(event).error(path, f"is past the {MOST_NODES}th value", "write a shorter file")


def _not_yaml(error: Any, text: str, source: Source) -> PykvmError:
    mark = error.context_mark if error.context in LEFT_OPEN else error.problem_mark
    place = Node(source, mark.line + 1, mark.column + 1)
    line = (text + "\n ").splitlines()[mark.line]  # the mark may stand behind the last line
    indent = line[: len(line) - len(line.lstrip())]
    if "\t" in indent:
        place = Node(source, mark.line + 1, indent.index("\t") + 1)
        return place.error("", "is indented with a tab, which YAML forbids", "indent with spaces")
    return place.error("", f"not YAML: {error.problem}", NOT_YAML)


def _at(source: Source, before: str) -> Node:
    """The place after the text ``before``."""
    lines = f"{before}|".splitlines()
    return Node(source, len(lines), len(lines[-1]))


def _printable(char: str) -> bool:
    """YAML 1.1 §5.1, c-printable; a byte order mark inside of the text isn't."""
    return (
        char in "\t\n\r\x85"
        or " " <= char <= "~"
        or "\xa0" <= char <= "\ud7ff"
        or ("\ue000" <= char <= "\ufffd" and char != "\ufeff")
        or char >= "\U00010000"
    )
