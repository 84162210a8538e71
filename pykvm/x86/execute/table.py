"""The table of instructions that are carried out here, by the manual's notation.

Each topic has rows of notation, mnemonic, function and the CPUID feature that brings it ("" for none). The
notation is that of the Intel SDM vol. 2 §3.1.1.1: ``66``, ``F2``, ``F3`` is the prefix that selects the
instruction, ``NP`` none of them, and without either a 66 only changes the operand size; then the opcode;
then ``/r``, ``/digit``, or a whole ModRM byte. A last word says what the r/m operand must be: ``m`` memory,
``reg`` a register.
"""

from __future__ import annotations

from pykvm.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pykvm.x86.execute.decode import Instruction
    from pykvm.x86.execute.step import Step

    Action = Callable[[Step], None]
    Rows = tuple[tuple[str, str, Action, str], ...]
    Key = tuple[bool, str, int]

LOCKABLE = frozenset(("cmpxchg8b", "cmpxchg16b"))
"""Those that a LOCK prefix may precede; with any other it is #UD."""


@frozen
class Row:
    """One line of the table; ``prefixes``, ``digit``, ``modrm`` and ``memory`` are what it demands."""

    mnemonic: str
    action: Action
    feature: str
    prefixes: tuple[str, ...]
    digit: int | None = None
    modrm: int | None = None
    memory: bool | None = None

    def matches(self, instruction: Instruction) -> bool:
        return (
            instruction.prefix in self.prefixes
            and (self.modrm is None or instruction.modrm == self.modrm)
            and (self.digit is None or instruction.reg & 7 == self.digit)
            and (self.memory is None or instruction.is_memory == self.memory)
        )


def build(topics: Iterable[Rows]) -> dict[Key, list[Row]]:
    """All rows by (whether VEX, map, opcode); among those of a key, whole ModRM bytes come first."""
    table: dict[Key, list[Row]] = {}
    for rows in topics:
        for notation, mnemonic, action, feature in rows:
            key, row = parse(notation, mnemonic, action, feature)
            table.setdefault(key, []).append(row)
    for found in table.values():
        found.sort(key=lambda row: row.modrm is None)
    return table


def find(
    table: dict[Key, list[Row]], instruction: Instruction, features: frozenset[str] | None
) -> Row | None:
    """The row of an instruction. Where CPUID lacks the feature of one the next that matches is taken, as a
    CPU without LZCNT runs BSR; if none is left, the first that matched."""
    key = (instruction.vex, instruction.map, instruction.opcode)
    rows = [row for row in table.get(key, ()) if row.matches(instruction)]
    for row in rows:
        if features is None or not row.feature or row.feature in features:
            return row
    return rows[0] if rows else None


def parse(notation: str, mnemonic: str, action: Action, feature: str) -> tuple[Key, Row]:
    """The key and the row of a line in the manual's notation."""
    words = notation.split()
    prefixes: tuple[str, ...] = ("", "66")
    vex = words[0].startswith("VEX.")
    if vex:
        _, _, *middle, escape = words.pop(0).split(".")
        prefixes = (middle[0] if middle else "",)
    else:
        if words[0] in ("NP", "66", "F2", "F3"):
            word = words.pop(0)
            prefixes = ("",) if word == "NP" else (word,)
        escape = ""
        if words[0] == "0F":
            escape = words.pop(0)
            if words[0] in ("38", "3A"):
                escape += words.pop(0)
    opcode = int(words.pop(0), 16)
    digit = modrm = memory = None
    for word in words:
        if word in ("m", "reg"):
            memory = word == "m"
        elif word[0] == "/":
            digit = None if word == "/r" else int(word[1])
        elif word not in ("ib", "iw", "id"):
            modrm = int(word, 16)
    row = Row(
        mnemonic=mnemonic,
        action=action,
        feature=feature,
        prefixes=prefixes,
        digit=digit,
        modrm=modrm,
        memory=memory,
    )
    return (vex, escape, opcode), row
