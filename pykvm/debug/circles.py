"""Whether a CPU that made no progress runs in circles: its next instructions are tried on a copy."""

from __future__ import annotations

from pykvm.debug.raising import astray
from pykvm.frozen import frozen
from pykvm.x86.execute.fetch import step
from pykvm.x86.registers import RFLAGS_IF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.debug.subject import Subject

STEPS = 400
SMALL = 0x400
"""So many bytes of code, run through by STEPS instructions, are a loop."""


@frozen
class Circles:
    """``endless``: all registers came back the same, so that no instruction of it will ever end it."""

    low: int
    high: int
    instructions: int
    endless: bool

    def text(self) -> str:
        where = f"rip {self.low:#x} to {self.high:#x}"
        if self.endless:
            size = "1 instruction" if self.instructions == 1 else f"{self.instructions} instructions"
            return f"runs in a circle of {size}, {where}, which changes no register"
        return f"keeps within {where} for the next {self.instructions} instructions"


def circles(subject: Subject) -> Circles | None:
    """What the next instructions do; None where they lead away, or do what can't be tried (I/O)."""
    cpu = subject.cpu
    seen: dict[tuple[int, ...], int] = {}
    rips: list[int] = []
    for number in range(STEPS):
        key = tuple(cpu.regs.values())
        if key in seen:
            part = rips[seen[key] :]
            # What is read from a device isn't known here: that loop may end.
            return Circles(
                low=min(part), high=max(part), instructions=len(part), endless=not subject.memory.misses
            )
        seen[key] = number
        rips.append(cpu.regs["rip"])
        outcome = step(cpu, subject.linear)
        if outcome is None or outcome.fault is not None or cpu.halted:
            return None
    low, high = min(rips), max(rips)
    if high - low > SMALL or len(set(rips)) == STEPS:
        return None
    return Circles(low=low, high=high, instructions=STEPS, endless=False)


def waits_text(subject: Subject) -> str:
    """What a CPU that ran until the end of its time is doing."""
    interrupts = "on" if subject.cpu.regs["rflags"] & RFLAGS_IF else "off"
    if subject.cpu.halted:
        return f"it waits, halted, with interrupts {interrupts}"
    lost = astray(subject)
    if lost is not None:
        return f"it has run astray: {lost.text}"
    found = circles(subject)
    if found is None:
        return f"it runs, with interrupts {interrupts}"
    return f"it {found.text()}, with interrupts {interrupts}"
