"""The post-mortem of a guest: what happened, why, how it looked then, and what to try.

``examine`` makes plain data for the report, ``lines`` the text for a terminal. Nothing here may fail: what
can't be told because memory or state is odd is said in its place.
"""

from __future__ import annotations

from pykvm.debug import listing
from pykvm.debug.chain import Chain, first_exception, follow, raised_text
from pykvm.debug.circles import waits_text
from pykvm.debug.entry import refused
from pykvm.debug.raising import astray, switched_off
from pykvm.debug.reason import ADVICE
from pykvm.debug.subject import Raised, Subject
from pykvm.x86.exceptions import Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from pykvm.debug.reason import Reason
    from pykvm.debug.subject import Memory
    from pykvm.debug.symbols import Symbols

EXACT = "run it with `--set backend=translate`, which keeps the exact moment"
ASTRAY = ("null-call", "wild-jump", "no-code", "zeros", "non-canonical")
"""Reasons for which it matters who called."""
STILL_RUNNING = ("timeout", "expect")
"""The outcomes of a guest whose time was up."""
ASKED = ("reset", "restart-loop")
"""Those of a guest that reset."""
STORM = 8
"""So many exceptions in a row, all the same, are a handler that achieves nothing."""
RESET_VECTOR = (0xFFF0, 0xF000)

# The order of the sections in the text: the key in the data, the heading
SECTIONS = (
    ("instructions", "code"),
    ("calling_code", "code that led there"),
    ("registers", "registers"),
    ("walk_rip", "page walk of rip"),
    ("walk_cr2", "page walk of cr2"),
    ("stack", "stack"),
    ("idt", "IDT"),
    ("gdt", "GDT"),
)


def examine(
    kind: str,
    state: dict[str, Any],
    memory: Memory,
    *,
    raised: Sequence[tuple[int, int | None, int | None, int]] = (),
    earlier: tuple[dict[str, Any], str] | None = None,
    entries: Sequence[dict[str, int]] = (),
    symbols: Symbols | None = None,
) -> dict[str, Any]:
    """What is known of a guest that ended as ``kind``: a crash's kind, or one of STILL_RUNNING or ASKED.

    ``state`` is the CPU's as its back end gives it, ``raised`` the last exceptions that it knows, ``earlier``
    what it was at an earlier moment and when, for where the host has lost it; ``entries`` CPUID.
    """
    found: dict[str, Any] = {}
    try:
        subject = Subject(state, memory, entries)
        if kind == "triple-fault" and not raised and is_reset(subject):
            found.update(_lost())
            if earlier is not None:
                _look(found, Subject(earlier[0], memory, entries), symbols)
                found["moment"] = earlier[1]
                found["notes"] = [f"the last that is known of it, which follows, is how it was {earlier[1]}"]
            return found
        _look(found, subject, symbols)
        history = [_raised(row) for row in raised]
        if kind == "triple-fault" and history:
            began: Raised | None = history.pop()
        else:
            began = None
        found["exceptions_before"] = _history(history)
        _explain(found, kind, Subject(state, memory, entries), history, began, _reported(state))
    except Exception as error:  # the state is the guest's and may be anything: the verdict must still be told
        found.setdefault("what", f"the post-mortem could not go on: {type(error).__name__}: {error}")
    return found


def is_reset(subject: Subject) -> bool:
    """Whether the registers are those after a reset, as some hosts leave them after a shutdown."""
    return (subject.cpu.regs["rip"], subject.cpu.sregs["cs"]["selector"]) == RESET_VECTOR


def lines(found: dict[str, Any]) -> list[str]:
    """The post-mortem as text, a heading and what belongs to it."""
    out = [f"what happened: {found['what']}"] if "what" in found else []
    chain = found.get("chain") or ()
    for number, link in enumerate(chain, 1):
        out.append(f"  {number}. {link['exception']}")
        if link["undelivered"]:
            out.append(f"     {link['undelivered']}")
    if found.get("triple"):
        out.append(f"  {len(chain) + 1}. triple fault: the CPU shuts down")
    out += (f"  {text}" for text in found.get("notes", ()))
    if found.get("likely"):
        out.append(f"likely cause: {found['likely']}")
    if found.get("try"):
        out.append(f"what to try: {found['try']}")
    where = " in ".join(text for text in (found.get("symbol"), found.get("mode")) if text)
    if where:
        out.append(f"at rip {found['rip']:#x}: {where}")
    if found.get("other_cpus"):
        out += [f"this was CPU {found['cpu']}; the others:", *(f"  {text}" for text in found["other_cpus"])]
    before = found.get("exceptions_before")
    if before:
        out += ["exceptions before, the latest last:", *(f"  {text}" for text in before)]
    for key, heading in SECTIONS:
        if found.get(key):
            out += [f"{heading}:", *(f"  {text}" for text in found[key])]
    return out


def _look(found: dict[str, Any], subject: Subject, symbols: Symbols | None) -> None:
    """The sections, each for itself: one that fails doesn't take the others with it."""
    regs, sregs = subject.cpu.regs, subject.cpu.sregs
    found["rip"] = regs["rip"]
    found["symbol"] = symbols.name(subject.rip) if symbols else ""
    found["mode"] = _text(lambda: listing.mode(subject))
    found["instructions"] = _section(lambda: listing.code(subject))
    found["registers"] = _section(lambda: listing.registers(subject))
    found["values"] = {**regs, **{name: sregs[name] for name in ("cr0", "cr2", "cr3", "cr4", "efer")}}
    found["walk_rip"] = _section(lambda: listing.page_walk(subject, subject.rip, fetch=True))
    if sregs["cr2"]:
        found["walk_cr2"] = _section(lambda: listing.page_walk(subject, sregs["cr2"]))
    found["stack"] = _section(lambda: listing.stack(subject, symbols))
    found["idt"] = _section(lambda: listing.idt(subject))
    found["gdt"] = _section(lambda: listing.gdt(subject))
    try:
        found["called_from"] = listing.caller(subject)
    except Exception:  # as in ``examine``; the stack's section tells of it
        found["called_from"] = None


def _section(build: Callable[[], list[str]]) -> list[str]:
    try:
        return build()
    except Exception as error:  # as in ``examine``
        return [f"can't be told: {type(error).__name__}: {error}"]


def _text(build: Callable[[], str]) -> str:
    return _section(lambda: [build()])[0]


def _raised(row: tuple[int, int | None, int | None, int]) -> Raised:
    vector, error, cr2, rip = row
    return Raised(vector=vector, error=error, cr2=cr2, rip=rip)


def _history(history: list[Raised]) -> list[str]:
    """The exceptions before, those that came over and over in one line."""
    out: list[str] = []
    times = 1
    for number, raised in enumerate(history):
        if number + 1 < len(history) and history[number + 1] == raised:
            times += 1
            continue
        out.append(raised_text(raised) + (f" ({times} times)" if times > 1 else ""))
        times = 1
    return out


def _reported(state: dict[str, Any]) -> Fault | None:
    """The exception that KVM had in hand, of struct kvm_vcpu_events."""
    exception = state.get("events", {}).get("exception", {})
    if not exception.get("nr") and not exception.get("injected") and not exception.get("pending"):
        return None
    error = exception["error_code"] if exception.get("has_error_code") else None
    return Fault(exception["nr"], error, state["sregs"]["cr2"] if exception["nr"] == 14 else None)


def _explain(
    found: dict[str, Any],
    kind: str,
    subject: Subject,
    history: list[Raised],
    began: Raised | None,
    reported: Fault | None,
) -> None:
    rip = subject.cpu.regs["rip"]
    if kind == "triple-fault":
        fault, source = first_exception(subject, began, reported)
        if fault is None:
            found["what"] = (
                f"a triple fault at rip {rip:#x}; the instruction there raises nothing by itself, so an"
                " interrupt that could not be delivered may have begun it"
            )
            found["try"] = EXACT
            return
        _tell(found, subject, follow(subject, fault, source))
    elif kind == "entry":
        wrong = refused(subject.cpu.regs, subject.cpu.sregs)
        found["what"] = f"the CPU refused to run the state at rip {rip:#x}" + (
            f": {'; '.join(wrong)}" if wrong else "; none of the usual rules is broken"
        )
        found["try"] = "correct the state that the guest or the machine file asks for"
    elif kind == "halted":
        found["what"] = f"the CPU executed HLT with interrupts off before rip {rip:#x}: nothing can wake it"
        found["likely"] = "the kernel's last resort after an error, or its end without a power-off"
        found["try"] = "STI before HLT to wait for an interrupt; to end a test, write to debug-exit"
    elif kind in STILL_RUNNING:
        found["what"] = f"at the end of its time rip was {rip:#x}: {_text(lambda: waits_text(subject))}"
        if len(history) >= STORM and len({(row.vector, row.rip) for row in history}) == 1:
            found["likely"] = f"one exception comes over and over: {raised_text(history[-1])}"
            found["try"] = "its handler must remove the cause, or not return to the instruction"
    elif kind in ASKED:
        found["what"] = f"the guest asked for a reset; the CPU stood at rip {rip:#x}"
        found["try"] = "look at the code there, and at the stack for who called it"
    elif kind == "panic":
        found["what"] = f"the kernel ended itself; the CPU stood at rip {rip:#x}"
        found["try"] = "its own last words say why"
    else:
        _given_up(found, subject)


def _given_up(found: dict[str, Any], subject: Subject) -> None:
    """An exit of KVM's that nobody knows to handle."""
    found["what"] = f"KVM could not go on with the instruction at rip {subject.cpu.regs['rip']:#x}"
    reason = astray(subject) or switched_off(subject)
    if reason is not None:
        found["what"] += f": {reason.text}"
        found["likely"], found["try"] = ADVICE[reason.key]
    else:
        found["try"] = "run it with `--set backend=translate`"


def _tell(found: dict[str, Any], subject: Subject, chain: Chain) -> None:
    first = chain.links[0]
    found["what"] = raised_text(first.raised) + (f": {first.why.text}" if first.why else "")
    found["fault"] = {
        "vector": first.raised.vector,
        "error": first.raised.error,
        "cr2": first.raised.cr2,
        "rip": first.raised.rip,
        "reason": first.why.key if first.why else "",
        "source": chain.source,
    }
    found["chain"] = [
        {
            "exception": raised_text(link.raised),
            "vector": link.raised.vector,
            "why": link.why.text if link.why else "",
            "undelivered": f"not delivered: {link.undelivered.text}" if link.undelivered else "",
            "undelivered_reason": link.undelivered.key if link.undelivered else "",
        }
        for link in chain.links
    ]
    found["triple"] = chain.triple
    if found.get("called_from") and first.why is not None and first.why.key in ASTRAY:
        place = found["called_from"]
        found.setdefault("notes", []).append(
            f"the stack's top is the return address {place:#x}: the call before it led here"
        )
        found["calling_code"] = _section(lambda: listing.calling_code(subject, place))
    if not chain.triple:
        found.setdefault("notes", []).append(
            "tried on a copy, this is delivered: the registers may be of a later moment"
        )
    reasons = [reason for reason in (first.why, first.undelivered) if reason is not None]
    found["likely"] = "; ".join(ADVICE[reason.key][0] for reason in _distinct(reasons))
    found["try"] = "; ".join(ADVICE[reason.key][1] for reason in _distinct(reasons))


def _distinct(reasons: list[Reason]) -> list[Reason]:
    return list({reason.key: reason for reason in reasons}.values())


def _lost() -> dict[str, Any]:
    return {
        "what": "this host's KVM resets the registers at a shutdown, so that what led to it is lost",
        "try": EXACT,
        "reset_by_host": True,
    }
