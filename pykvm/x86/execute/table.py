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

LOCKABLE = frozenset(
    (
        *(
            "adc",
            "add",
            "and",
            "btc",
            "btr",
            "bts",
            "cmpxchg",
            "cmpxchg16b",
            "cmpxchg8b",
            "dec",
            "inc",
            "neg",
        ),
        *("not", "or", "sbb", "sub", "xadd", "xchg", "xor"),
    )
)
"""Those that a LOCK prefix may precede where they store to memory; with any other it is #UD."""

_ANY_PREFIX = ("", "66", "F2", "F3")


@frozen
class Row:
    """One line of the table; ``prefixes``, ``digit``, ``modrm`` and ``memory`` are what it demands.

    ``careful``: the action raises what it raises before it changes a general or system register, or leaves
    them as they must be. ``lockable``: LOCK may precede it where the r/m operand is memory.
    """

    mnemonic: str
    action: Action
    feature: str
    prefixes: tuple[str, ...]
    careful: bool
    lockable: bool
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


def build(careful: Iterable[Rows], others: Iterable[Rows]) -> dict[Key, list[Row]]:
    """All rows by (whether VEX, map, opcode), of topics whose actions are careful (see Row) and of others.

    Among those of a key whole ModRM bytes come first, then those that demand a prefix."""
    table: dict[Key, list[Row]] = {}
    for topics, is_careful in ((careful, True), (others, False)):
        for rows in topics:
            for line, mnemonic, action, feature in rows:
                for notation in expand(line):
                    key, row = parse(notation, mnemonic, action, feature, is_careful)
                    table.setdefault(key, []).append(row)
    for found in table.values():
        found.sort(key=lambda row: (row.modrm is None, row.prefixes == _ANY_PREFIX, row.digit is None))
    return table


def expand(notation: str) -> list[str]:
    """The notations that one with ``+r`` (eight opcodes) or ``+cc`` (sixteen) stands for."""
    for mark, count in (("+r", 8), ("+cc", 16)):
        if mark in notation:
            first, rest = notation.split(mark)
            head, opcode = first[:-2], int(first[-2:], 16)
            return [f"{head}{opcode + number:02X}{rest}" for number in range(count)]
    return [notation]


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


def parse(
    notation: str, mnemonic: str, action: Action, feature: str, careful: bool = False
) -> tuple[Key, Row]:
    """The key and the row of a line in the manual's notation."""
    words = notation.split()
    prefixes: tuple[str, ...] = _ANY_PREFIX
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
                if prefixes == _ANY_PREFIX:
                    prefixes = ("", "66")
    opcode = int(words.pop(0), 16)
    digit = modrm = memory = None
    for word in words:
        if word in ("m", "reg"):
            memory = word == "m"
        elif word[0] == "/":
            digit = None if word == "/r" else int(word[1])
        elif word not in ("ib", "iw", "id", "cb", "cd", "cp"):
            modrm = int(word, 16)
    # 02, 03, 0A, …: the r/m operand is the source.
    to_register = not vex and not escape and opcode < 0x40 and bool(opcode & 2)
    row = Row(
        mnemonic=mnemonic,
        action=action,
        feature=feature,
        prefixes=prefixes,
        careful=careful,
        lockable=mnemonic in LOCKABLE and not to_register,
        digit=digit,
        modrm=modrm,
        memory=memory,
    )
    return (vex, escape, opcode), row
