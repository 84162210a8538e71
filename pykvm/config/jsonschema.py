"""The table of keys as JSON Schema, for editors and other checkers of machine files."""

from __future__ import annotations

from pykvm.config.schema import MACHINE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.config.kinds import Schema


def document() -> Schema:
    """The JSON Schema (draft 2020-12) of a machine file.

    What it takes may still break a rule that it can't say: a unit's range, a port taken twice.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pykvm machine file",
        **MACHINE.schema(),
    }


def text() -> str:
    """``document()`` as indented JSON, without the newline at its end."""
    import json  # 8 ms, and only this verb needs it

    return json.dumps(document(), indent=2, ensure_ascii=False)
