"""How a machine ended: one cause, and the exit status that it means (README, "Exit status")."""

from __future__ import annotations

from pykvm.errors import refusal
from pykvm.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SUCCESS = 0
FAULT = 70
TIMEOUT = 124
CRASH = 125
EXPECT = 126
SIGNAL = 128

BY_GUEST = ("poweroff", "reset", "debug-exit", "crash")
"""The outcomes that are the guest's own doing. The others cut it short."""

RESTARTS = 5
"""So many restarts in a row are a loop, where each run is shorter than QUICK_NS."""
QUICK_NS = 10_000_000_000


@frozen
class Cause:
    """Why the machine ended. ``sentence`` says it to a user, ``remedy`` what to try.

    ``crash`` is there for a guest that crashed: its ``kind`` and what is known of it. For one that crashed or
    whose time was up the post-mortem (pykvm/debug) adds its own.
    """

    outcome: str
    status: int
    sentence: str
    remedy: str = ""
    debug_exit: int | None = None
    crash: dict[str, Any] | None = None


def is_guests(cause: Cause) -> bool:
    """Whether the guest itself did it, or rather something from outside."""
    return cause.outcome in BY_GUEST


def poweroff() -> Cause:
    return Cause(outcome="poweroff", status=SUCCESS, sentence="the guest powered off")


def reset() -> Cause:
    return Cause(outcome="reset", status=SUCCESS, sentence="the guest reset")


def looping(cause: Cause) -> Cause:
    """``cause`` came again after RESTARTS restarts, each of them soon."""
    kind = cause.crash["kind"] if cause.crash else "restart-loop"
    return crash(
        kind,
        f"{cause.sentence} {RESTARTS + 1} times in a row, each time within {QUICK_NS // 10**9} s",
        f"write `on: {{{'panic' if cause.crash else 'reset'}: exit}}` and look at what it prints last",
        **{name: value for name, value in (cause.crash or {}).items() if name != "kind"},
    )


def debug_exit(value: int) -> Cause:
    """The status is the value modulo 64; a nonzero value never becomes a 0."""
    status = value % 64 or (63 if value else 0)
    return Cause(
        outcome="debug-exit",
        status=status,
        sentence=f"the guest wrote {value:#x} to debug-exit",
        debug_exit=value,
    )


def crash(kind: str, sentence: str, remedy: str = "", **facts: Any) -> Cause:
    """``kind``: triple-fault, entry, internal-error, halted or panic."""
    return Cause(
        outcome="crash", status=CRASH, sentence=sentence, remedy=remedy, crash={"kind": kind, **facts}
    )


def timeout(seconds: float) -> Cause:
    return Cause(
        outcome="timeout",
        status=TIMEOUT,
        sentence=f"the guest was still running after --timeout {seconds:g}s",
        remedy="give it more time, or look at what it printed last",
    )


def expected(text: str) -> Cause:
    return Cause(outcome="expect", status=SUCCESS, sentence=f"the guest printed {text!r}, as expected")


def unexpected(text: str, how: str) -> Cause:
    return Cause(
        outcome="expect",
        status=EXPECT,
        sentence=f"expect.output: {text!r} was not printed: {how}",
        remedy="look at what it printed last",
    )


def signal(number: int, name: str) -> Cause:
    return Cause(outcome="signal", status=SIGNAL + number, sentence=f"stopped by {name}")


def fault(error: BaseException) -> Cause:
    """A fault of pykvm or of the host under it: an exception that a thread of the machine let through."""
    error = refusal(error) or error
    status = getattr(error, "status", FAULT)
    text = str(error) or type(error).__name__
    sentence = text if hasattr(error, "status") else f"pykvm has a fault: {type(error).__name__}: {text}"
    return Cause(outcome="error", status=status, sentence=sentence)
