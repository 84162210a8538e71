"""From a machine at rest to its post-mortem: the CPU's state and the kernel's names are fetched here."""

from __future__ import annotations

from pykvm.boot.image import Image
from pykvm.debug import kallsyms, symbols
from pykvm.debug.postmortem import examine
from pykvm.errors import PykvmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Protocol

    from pykvm.debug.subject import Memory

    class Cpu(Protocol):
        """A vCPU that has stopped (pykvm/machine/face.py)."""

        def state(self) -> dict[str, Any]: ...
        def raised(self) -> list[tuple[int, int | None, int | None, int]]: ...


def of_machine(
    kind: str,
    cpus: Sequence[Cpu],
    memory: Memory,
    entries: Sequence[dict[str, int]],
    kernel: str,
    *,
    linux: bool = False,
) -> dict[str, Any]:
    """The post-mortem of the first CPU; ``kernel`` is the path of its image, ``linux`` whether it is Linux.

    It raises nothing.
    """
    try:
        state, raised = cpus[0].state(), cpus[0].raised()
    except Exception as error:  # whatever a back end can't give: how the guest ended is told all the same
        return {"what": f"the CPU's state can't be had: {type(error).__name__}: {error}"}
    return examine(
        kind,
        state,
        memory,
        raised=raised,
        entries=entries,
        symbols=_symbols(kernel) or (kallsyms.read(memory) if linux else None),
    )


def _symbols(kernel: str) -> symbols.Symbols | None:
    try:
        with Image.open(kernel) as image:
            return symbols.read(image)
    except (PykvmError, OSError):  # gone meanwhile
        return None
