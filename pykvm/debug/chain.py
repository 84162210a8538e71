"""The chain of exceptions that ends a guest: found by trying on a copy what the CPU did.

The instruction at RIP is carried out on a copy of the state (``x86.execute``), and so is the delivery of what
it raises, by the manual's pseudo-code: each step that fails is a link. That holds for every back end that
leaves the registers as they were at the crash. Source: Intel SDM vol. 3 §6.15, "Interrupt 8".
"""

from __future__ import annotations

from pykvm.debug.gates import why_not_delivered
from pykvm.debug.raising import switched_off, why_raised
from pykvm.debug.subject import Raised
from pykvm.frozen import frozen
from pykvm.x86.exceptions import DF, DOUBLE, NAMES, NM, TRIPLE, UD, Fault, name, together
from pykvm.x86.execute.fetch import step
from pykvm.x86.execute.interrupts import deliver
from pykvm.x86.registers import CR0_EM, CR4_OSFXSR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pykvm.debug.reason import Reason
    from pykvm.debug.subject import Subject


@frozen
class Link:
    """One exception of the chain. ``undelivered``: why its handler couldn't be entered, if it couldn't."""

    raised: Raised
    why: Reason | None
    undelivered: Reason | None


@frozen
class Chain:
    """``source``: how the first exception is known: "recorded", "tried" or "reported"; "" where none is."""

    links: tuple[Link, ...]
    triple: bool
    source: str = ""


def first_exception(subject: Subject, recorded: Raised | None, reported: Fault | None) -> tuple[Any, str]:
    """The exception that began it, and how it is known.

    ``recorded``: what the back end was about to deliver. ``reported``: what KVM said it had in hand.
    """
    if recorded is not None:
        return Fault(recorded.vector, recorded.error, recorded.cr2), "recorded"
    saved = subject.cpu.save()
    outcome = step(subject.cpu, subject.linear)
    if outcome is not None and outcome.fault is not None:
        return outcome.fault, "tried"
    subject.cpu.restore(saved)
    if outcome is None and switched_off(subject) is not None:
        # SDM vol. 3 table 13-1: #NM by CR0.TS alone, which CR0.EM and CR4.OSFXSR go before
        cr0, cr4 = subject.cpu.sregs["cr0"], subject.cpu.sregs["cr4"]
        return Fault(UD if cr0 & CR0_EM or not cr4 & CR4_OSFXSR else NM), "tried"
    if reported is not None and reported.vector in NAMES and reported.vector != DF:
        return reported, "reported"
    return None, ""


def follow(subject: Subject, fault: Fault, source: str) -> Chain:
    """Deliver ``fault`` on the copy, and what becomes of it, to the end."""
    cpu, linear = subject.cpu, subject.linear
    links: list[Link] = []
    triple = False
    why: Reason | None = why_raised(subject, fault)
    while True:
        raised = Raised(vector=fault.vector, error=fault.error, cr2=fault.cr2, rip=cpu.regs["rip"])
        if fault.cr2 is not None:
            cpu.sregs["cr2"] = fault.cr2
        try:
            deliver(cpu, linear, fault.vector, fault.error)
        except Fault as second:
            undelivered = why_not_delivered(subject, fault.vector, second)
            links.append(Link(raised=raised, why=why, undelivered=undelivered))
            kind = together(fault.vector, second.vector)
            if kind == TRIPLE:
                triple = True
                break
            why = None
            fault = Fault(DF, 0) if kind == DOUBLE else second
        else:
            links.append(Link(raised=raised, why=why, undelivered=None))
            break
    return Chain(links=tuple(links), triple=triple, source=source)


def raised_text(raised: Raised) -> str:
    """``#GP general protection, error code 0x58, at rip 0x100017``"""
    text = name(raised.vector)
    if raised.error is not None:
        text += f", error code {raised.error:#x}"
    if raised.cr2 is not None:
        text += f", address {raised.cr2:#x}"
    return f"{text}, at rip {raised.rip:#x}"
