"""The kinds of single values in a machine file: what each takes, what it means, how JSON Schema says it.

A kind has ``read(node, path)``, which checks the node and gives the value for the model, or raises
the error of the node's source; and ``schema()``, which is the kind as JSON Schema. A value whose
work comes later is refused by a sentence, and is no part of the JSON Schema.
"""

from __future__ import annotations

import os

from pykvm.config.node import SCALAR, Node
from pykvm.config.sizes import parse_duration, parse_size, parse_whole, show_size, shown
from pykvm.errors import InputError, PykvmError
from pykvm.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    Schema = dict[str, Any]

    class Kind(Protocol):
        def read(self, node: Node, path: str) -> Any: ...

        def schema(self) -> Schema: ...


FLAGS = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}
PACKAGE = "abcdefghijklmnopqrstuvwxyz0123456789+-."


def comes_later(node: Node, path: str, what: str, remedy: str) -> PykvmError:
    """The error for a key or value whose work comes later: status 65 from the command line, too."""
    error = node.error(path, what, remedy)
    return InputError(error.what, where=error.where, remedy=error.remedy)


def value_comes_later(node: Node, path: str, sentence: str, remedy: str) -> PykvmError:
    """The same for a key that is there, but can't have this value yet."""
    return comes_later(node, path, f"{shown(node.text)} comes later: {sentence}", remedy)


def either(words: tuple[str, ...]) -> str:
    """``a, b or c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def scalar(node: Node, path: str, wanted: str, remedy: str) -> str:
    """The text of a scalar. A list, a map and an empty value are mismatches."""
    if node.kind != SCALAR or node.empty:
        raise node.mismatch(path, wanted, remedy)
    return node.text


def number(node: Node, path: str, wanted: str, parse: Callable[[str], int], remedy: str) -> int:
    """What ``parse`` makes of a scalar; its error gets the node's place."""
    text = scalar(node, path, wanted, remedy)
    try:
        return parse(text)
    except InputError as error:
        raise node.error(path, error.what, error.remedy) from None


@frozen
class Later:
    """Whatever it takes comes later, and ``sentence`` says what is lacking."""

    sentence: str
    remedy: str = "leave it out"

    def read(self, node: Node, path: str) -> Any:
        raise comes_later(node, path, f"comes later: {self.sentence}", self.remedy)

    def schema(self) -> Schema:
        return {"not": {}}


@frozen
class Whole:
    """A whole number from ``least`` to ``most``."""

    least: int
    most: int
    hexadecimal: bool = False

    def read(self, node: Node, path: str) -> int:
        least, most = (hex(n) if self.hexadecimal else str(n) for n in (self.least, self.most))
        remedy = f"write a number from {least} to {most}"
        value = number(node, path, "a number", parse_whole, remedy)
        if not self.least <= value <= self.most:
            raise node.error(path, f"{shown(node.text)} is out of range", remedy)
        return value

    def schema(self) -> Schema:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


@frozen
class Size:
    """Bytes: from ``least`` to ``most``, and a multiple of ``multiple``."""

    least: int
    most: int
    multiple: int

    def read(self, node: Node, path: str) -> int:
        size = number(node, path, "a size", parse_size, "write 512M or 1G")
        least, most, multiple = (show_size(n) for n in (self.least, self.most, self.multiple))
        if not self.least <= size <= self.most:
            raise node.error(
                path, f"{shown(node.text)} is out of range", f"write a size from {least} to {most}"
            )
        if size % self.multiple:
            remedy = f"write {show_size(size - size % self.multiple)}"
            raise node.error(path, f"{shown(node.text)} is not a multiple of {multiple}", remedy)
        return size

    def schema(self) -> Schema:
        pattern = r"^((0|[1-9][0-9]*)(\.[0-9]+)?[KMGT]?|0x[0-9A-Fa-f]+)$"
        return {
            "type": ["integer", "string"],
            "minimum": self.least,
            "maximum": self.most,
            "pattern": pattern,
        }


@frozen
class Duration:
    """Nanoseconds, more than 0 and at most ``most``; ``longest`` is ``most`` as people write it."""

    most: int
    longest: str

    def read(self, node: Node, path: str) -> int:
        duration = number(node, path, "a duration", parse_duration, "write 60s, 500ms or 2m")
        if not 0 < duration <= self.most:
            remedy = f"write more than 0s, and at most {self.longest}"
            raise node.error(path, f"{shown(node.text)} is out of range", remedy)
        return duration

    def schema(self) -> Schema:
        return {"type": "string", "pattern": r"^(0|[1-9][0-9]*)(\.[0-9]+)?(ms|s|m)$"}


@frozen
class Flag:
    """On or off. ``later`` says why on isn't there yet."""

    later: str = ""

    def read(self, node: Node, path: str) -> bool:
        value = FLAGS.get(scalar(node, path, "on or off", "write on or off").lower())
        if value is None:
            raise node.mismatch(path, "on or off", "write on or off")
        if value and self.later:
            raise value_comes_later(node, path, self.later, "write off")
        return value

    def schema(self) -> Schema:
        words: list[bool | str] = [False, "off", "no"]
        return {"enum": words if self.later else [True, "on", "yes", *words]}


@frozen
class Choice:
    """One of the words ``now``. Those in ``later``, or any other if ``others_later``, come later."""

    noun: str
    now: tuple[str, ...]
    later: tuple[str, ...] = ()
    others_later: bool = False
    sentence: str = ""

    def read(self, node: Node, path: str) -> str:
        remedy = f"write {either(self.now)}"
        word = scalar(node, path, self.noun, remedy)
        if word in self.now:
            return word
        if word in self.later or self.others_later:
            raise value_comes_later(node, path, self.sentence, remedy)
        raise node.mismatch(path, self.noun, remedy)

    def schema(self) -> Schema:
        return {"enum": list(self.now)}


@frozen
class Name:
    """A machine's name: it becomes part of file names."""

    most: int = 64

    def read(self, node: Node, path: str) -> str:
        text = scalar(node, path, "a name", "write a word")
        if not self.fits(text):
            remedy = f"write 1 to {self.most} characters, no slash among them"
            raise node.mismatch(path, "a name", remedy)
        return text

    def fits(self, text: str) -> bool:
        return (
            0 < len(text) <= self.most and text.isprintable() and "/" not in text and text not in (".", "..")
        )

    def schema(self) -> Schema:
        return {"type": "string", "minLength": 1, "maxLength": self.most, "pattern": "^[^/]*$"}


@frozen
class Text:
    """Any text but the empty one."""

    def read(self, node: Node, path: str) -> str:
        text = scalar(node, path, "text", "write text, in quotes if need be")
        if not text:
            raise node.mismatch(path, "text to look for", "write at least one character")
        return text

    def schema(self) -> Schema:
        return {"type": "string", "minLength": 1}


@frozen
class CommandLine:
    """Words for the kernel. Lines become one line; the empty value is the empty line."""

    def read(self, node: Node, path: str) -> str:
        remedy = "write its words on one line, in quotes if need be"
        text = "" if node.empty else scalar(node, path, "a command line", remedy)
        line = " ".join(text.splitlines()).strip()
        refuse_control(node, path, line.replace("\t", " "), "a command line")
        return line

    def schema(self) -> Schema:
        return {"type": ["string", "null"]}


@frozen
class Part:
    """A path, or ``recipe:FOLDER``: what the recipe in that folder makes."""

    def read(self, node: Node, path: str) -> str:
        text = scalar(node, path, "a path", "write the path of a file")
        return part(node, path, text)

    def schema(self) -> Schema:
        return {"type": "string", "minLength": 1}


@frozen
class Image:
    """A kernel: a path, ``recipe:FOLDER``, ``debian:PACKAGE``, or ``host``."""

    def read(self, node: Node, path: str) -> str:
        remedy = "write a path, debian:PACKAGE or host"
        text = scalar(node, path, "a kernel image", remedy)
        prefix, colon, package = text.partition(":")
        if prefix == "debian" and colon:
            # Debian Policy §5.6.1; apt would take "--option" for an option and "a/b" for a release
            if len(package) < 2 or package.strip(PACKAGE) or not package[0].isalnum():
                raise node.mismatch(
                    path, "the name of a Debian package", "write debian:linux-image-cloud-amd64"
                )
            return text
        return text if text == "host" else part(node, path, text)

    def schema(self) -> Schema:
        return {"type": "string", "minLength": 1}


@frozen
class SerialTarget:
    """Where a serial port goes: ``terminal``, ``pty``, ``none``, ``unix:PATH`` or a path."""

    def read(self, node: Node, path: str) -> str:
        remedy = "write terminal, none, pty, unix:PATH or a path"
        text = scalar(node, path, "a place for a serial port", remedy)
        if text in ("terminal", "none", "pty"):
            return text
        if text.startswith("unix:"):
            return f"unix:{located(node, path, text.removeprefix('unix:'))}"
        return located(node, path, text)

    def schema(self) -> Schema:
        return {"type": "string", "minLength": 1}


def part(node: Node, path: str, text: str) -> str:
    """``text`` as an absolute path, or as ``recipe:`` and an absolute path."""
    if text.startswith("recipe:"):
        return f"recipe:{located(node, path, text.removeprefix('recipe:'))}"
    return located(node, path, text)


def located(node: Node, path: str, text: str) -> str:
    """``text`` as an absolute path, from the folder of the file or, for an option, the working one."""
    if not text:
        raise node.mismatch(path, "a path", "write the path of a file")
    refuse_control(node, path, text, "a path")
    return os.path.join(node.source.folder, text)


def refuse_control(node: Node, path: str, text: str, wanted: str) -> None:
    """Refuse control characters, of which a NUL would end the text early for the kernel."""
    if any(char < " " or char == "\x7f" for char in text):
        raise node.mismatch(path, wanted, "remove its control characters")
