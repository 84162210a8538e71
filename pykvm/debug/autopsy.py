"""From a machine at rest to its post-mortem: the CPU's state and the kernel's names are fetched here."""

from __future__ import annotations

from pykvm.boot.image import Image
from pykvm.debug import kallsyms, symbols
from pykvm.debug.postmortem import examine
from pykvm.errors import PykvmError
from pykvm.x86.registers import MP_STATE_HALTED, MP_STATES_WAITING, RFLAGS_IF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Protocol

    from pykvm.debug.subject import Memory

    class Cpu(Protocol):
        """A vCPU that has stopped (pykvm/machine/face.py)."""

        def state(self) -> dict[str, Any]: ...
        def raised(self) -> list[tuple[int, int | None, int | None, int]]: ...
        def earlier(self) -> tuple[dict[str, Any], str] | None: ...


def of_machine(
    kind: str,
    cpus: Sequence[Cpu],
    memory: Memory,
    entries: Sequence[dict[str, int]],
    kernel: str,
    *,
    crashed: int = 0,
    linux: bool = False,
) -> dict[str, Any]:
    """The post-mortem of the CPU ``crashed``, and where the others were.

    ``kernel`` is the path of the kernel's image, ``linux`` whether it is Linux. It raises nothing.
    """
    names = _symbols(kernel) or (kallsyms.read(memory) if linux else None)
    others = [_brief(number, cpu, names) for number, cpu in enumerate(cpus) if number != crashed]
    found = _of_cpu(kind, cpus[crashed], memory, entries, names)
    return {**found, "cpu": crashed, "other_cpus": others} if others else found


def _of_cpu(
    kind: str,
    cpu: Cpu,
    memory: Memory,
    entries: Sequence[dict[str, int]],
    names: symbols.Symbols | None,
) -> dict[str, Any]:
    try:
        state, raised, earlier = cpu.state(), cpu.raised(), cpu.earlier()
    except Exception as error:  # whatever a back end can't give: how the guest ended is told all the same
        return {"what": f"the CPU's state can't be had: {type(error).__name__}: {error}"}
    return examine(kind, state, memory, raised=raised, earlier=earlier, entries=entries, symbols=names)


def _brief(number: int, cpu: Cpu, names: symbols.Symbols | None) -> str:
    """Where a CPU was that didn't crash, in a line."""
    try:
        state = cpu.state()
    except Exception as error:  # as above
        return f"CPU {number}: its state can't be had: {type(error).__name__}: {error}"
    if state.get("mp_state") in MP_STATES_WAITING:
        return f"CPU {number}: not started"
    rip, halted = state["regs"]["rip"], state.get("mp_state") == MP_STATE_HALTED
    name = names.name(rip) if names else ""
    where = f"rip {rip:#x}" + (f" in {name}" if name else "")
    interrupts = "on" if state["regs"]["rflags"] & RFLAGS_IF else "off"
    return f"CPU {number}: {'halted' if halted else 'running'} at {where}, interrupts {interrupts}"


def _symbols(kernel: str) -> symbols.Symbols | None:
    try:
        with Image.open(kernel) as image:
            return symbols.read(image)
    except (PykvmError, OSError):  # gone meanwhile
        return None
