"""The report of a run (README, "Exit status"): plain data, written as JSON."""

from __future__ import annotations

import os
import time
from errno import EACCES, EISDIR, ENOENT

from pykvm.errors import HostError
from pykvm.terminal.descriptor import file_of_ours

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pykvm.machine.machine import Machine
    from pykvm.machine.verdict import Cause


def started_ns() -> int:
    """When this process started, as ``time.monotonic_ns`` would have said (proc(5), stat field 22)."""
    with open("/proc/self/stat", "rb") as file:
        ticks = int(file.read().rpartition(b")")[2].split()[19])
    since_boot = ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    # The field counts time in suspend too, the monotonic clock doesn't.
    return since_boot - (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns())


def own_rss() -> int:
    """Bytes of host memory that this process holds; once the guest's memory is given back, all its own."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def report(
    cause: Cause,
    *,
    machine: Machine | None = None,
    expected_ns: int | None = None,
    host: dict[str, Any] | None = None,
    guest: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What is told of a run that has been closed; ``machine`` is None where it was never built."""
    start = started_ns()

    def seconds(moment: int | None) -> float | None:
        return None if moment is None else round((moment - start) / 1e9, 6)

    consoles = list(machine.consoles.values()) if machine is not None else []
    first = min((c.tap.first_output_ns for c in consoles if c.tap.first_output_ns), default=None)
    told: dict[str, Any] = {
        "outcome": cause.outcome,
        "status": cause.status,
        "sentence": cause.sentence,
        "debug_exit": cause.debug_exit,
        "seconds": {
            "first_run": seconds(machine.first_run_ns if machine is not None else None),
            "first_output": seconds(first),
            "expected_output": seconds(expected_ns),
            "total": seconds(time.monotonic_ns()),
        },
        "restarts": machine.restarts if machine is not None else 0,
        "exits": machine.exits() if machine is not None else {},
        "rss_bytes": own_rss(),
        "host": host or {},
        "console_tail": "\n".join(c.tap.tail() for c in consoles if c.tap.first_output_ns),
    }
    if machine is not None and machine.display is not None and machine.display.rows:
        told["screen"] = "\n".join(machine.display.rows) + "\n"
    if guest:
        told["guest"] = guest
    if cause.crash is not None:
        told["crash"] = cause.crash
    return told


def require_writable(path: str) -> None:
    """Raise HostError where ``write`` would: before a run of hours, not after it."""
    from pykvm.machine import wholefile  # late: only where a report is asked for

    try:
        if not path:
            raise FileNotFoundError(ENOENT, os.strerror(ENOENT))
        own = file_of_ours(path)
        if own is not None:
            os.write(own, b"")  # EBADF where it is open for reading only, or not at all
        elif _is_regular(path):
            wholefile.require_room(path)
        elif os.path.isdir(path):
            raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
        elif not os.access(path, os.W_OK):  # not opened: a pipe's reader would take that for the report
            raise PermissionError(EACCES, os.strerror(EACCES))
    except OSError as error:
        raise _unwritable(path, error) from error


def write(path: str, told: dict[str, Any]) -> None:
    """Write the report to ``path``: a crash leaves the old file or the new one. Raises HostError.

    A path that is no regular file (``/dev/stdout``, a pipe) is written to as it is.
    """
    import json  # late: only where a report is asked for

    from pykvm.machine import wholefile

    text = (json.dumps(told, indent=2) + "\n").encode()
    try:
        own = file_of_ours(path)
        if own is None and _is_regular(path):
            wholefile.replace(path, text)
            return
        with open(path if own is None else os.dup(own), "wb") as file:
            file.write(text)
    except OSError as error:
        raise _unwritable(path, error) from error


def _is_regular(path: str) -> bool:
    """Whether it is, or is to become, a regular file."""
    return os.path.isfile(path) or not os.path.exists(path)


def _unwritable(path: str, error: OSError) -> HostError:
    return HostError(
        f"the report can't be written: {error.strerror}",
        where=path or "--report",
        remedy="give --report another path",
    )
