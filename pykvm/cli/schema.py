"""``pykvm schema``: the JSON Schema of the machine file, for editors."""

from __future__ import annotations

from pykvm.cli.options import Parser
from pykvm.cli.output import show
from pykvm.config import jsonschema

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def run(arguments: Sequence[str]) -> int:
    """Print it."""
    Parser(prog="pykvm schema", description="Print the JSON Schema of the machine file.").parse_args(
        arguments
    )
    show(jsonschema.text())
    return 0
