"""``pykvm boot``: from a machine file to the verdict."""

from __future__ import annotations

import os
import sys

from pykvm.cli.ending import Signalled
from pykvm.cli.options import Parser, configuration, duration_ns, machine_options
from pykvm.config.model import SerialConfig
from pykvm.errors import HostError, InputError, UsageError
from pykvm.frozen import replace
from pykvm.libc.reserve import keep, reserve
from pykvm.machine import report, verdict
from pykvm.terminal.descriptor import file_of_ours
from pykvm.terminal.open import is_file, require_writable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pykvm.config.model import MachineConfig
    from pykvm.machine.machine import Machine
    from pykvm.machine.plan import Plan
    from pykvm.machine.verdict import Cause

QUIET = (verdict.SUCCESS, verdict.SIGNAL + 2, verdict.SIGNAL + 13)
"""No word on these: all went well, someone pressed Ctrl-C, or who read our output has enough of it."""
SCREENFUL = 20
"""Lines of a post-mortem; behind more, the verdict is said again, where a terminal stands at the end."""


def run(arguments: Sequence[str]) -> int:
    """Boot, and return the exit status."""
    parser = Parser(prog="pykvm boot", description="Boot a machine.")
    machine_options(parser)
    parser.add_argument("--timeout", metavar="60s", help="stop with status 124 after this long")
    parser.add_argument("--report", metavar="FILE", help="write what happened as JSON, also when it fails")
    parser.add_argument(
        "--yes", action="store_true", help="as root, install the tools that building a guest needs"
    )
    given = parser.parse_args(arguments)
    if given.report is not None:
        report.require_writable(given.report)
    boot = Boot()
    keep()
    try:
        timeout = None if given.timeout is None else duration_ns(given.timeout)
        config = configuration(given.machine, given.changes)
        read = _require_apart(config)
        if given.report is not None and (what := read.get(_place_of_report(given.report))):
            path, given.report = given.report, None
            raise UsageError(
                f"the report would replace {what}", where=path, remedy="give --report another path"
            )
        cause = boot.run(config, timeout, yes=given.yes)
    except BaseException as error:
        reserve.clear()
        boot.close()
        _write_report(given.report, boot, _cause_of(error))
        raise
    reserve.clear()  # the machine has ended: what is left to do has it
    cause = boot.examine(cause)
    boot.close()
    if cause.status not in QUIET or cause.crash:
        boot.explain(cause)
    written = _write_report(given.report, boot, cause)
    return cause.status or written


class Boot:
    """One boot and what is left of it for the report."""

    def __init__(self) -> None:
        self._plan: Plan | None = None
        self._machine: Machine | None = None
        self._expected_ns: int | None = None
        self._held = False
        self._facts: dict[str, Any] = {}

    def run(self, config: MachineConfig, timeout_ns: int | None, *, yes: bool = False) -> Cause:
        """Plan, build and run the machine to its end. ``yes``: build tools may be installed for it."""
        from pykvm.guests.kernels import resolve
        from pykvm.host.backend import choose, require_linux
        from pykvm.machine import plan
        from pykvm.machine.session import Session

        assert config.kernel is not None
        for device in config.devices:
            if isinstance(device, SerialConfig):
                require_writable(device.to, config.folder)
        choice = choose(config)
        self._facts = choice.report()
        if not os.path.isabs(config.kernel.image):  # Linux, to be fetched or built: not where it can't run
            require_linux(choice)
        kernel = resolve(config.kernel, yes=yes)
        self._plan = plan.make(config, kernel)
        if self._plan.linux:
            require_linux(choice)
        machine = self._machine = _built(self._plan, choice.backend)

        def rebuild() -> None:
            assert self._plan is not None
            self._plan.memory.close()
            self._plan = plan.make(config, kernel)
            _built(self._plan, choice.backend, machine)

        session = Session(machine, timeout_ns=timeout_ns, linux=self._plan.linux, rebuild=rebuild)
        try:
            cause = session.run()
        finally:
            self._expected_ns, self._held = session.expected_ns, session.held
        return cause

    def examine(self, cause: Cause) -> Cause:
        """``cause`` with the post-mortem in its ``crash``.

        For a guest that crashed, that made no progress, or that was left standing.
        """
        if self._machine is None or self._plan is None or self._plan.config.kernel is None:
            return cause
        # What was not printed: in time, if that is the machine's own cause too, else before the guest ended.
        time_was_up = cause.status in (verdict.TIMEOUT, verdict.EXPECT) and cause == self._machine.cause
        if not cause.crash and not time_was_up and not self._held:
            return cause
        kind = cause.crash["kind"] if cause.crash else cause.outcome
        from pykvm.debug.autopsy import of_machine

        found = of_machine(
            kind,
            [thread.cpu for thread in self._machine.cpus],
            self._plan.memory,
            self._machine.cpuid_seen,
            self._plan.config.kernel.image,
            linux=self._plan.linux,
            crashed=(cause.crash or {}).get("cpu", 0),
        )
        return replace(cause, crash={**found, **(cause.crash or {"kind": kind})})

    def report(self, cause: Cause) -> dict[str, Any]:
        """What is told of this boot."""
        from pykvm.x86.cpuid import difference

        entry = self._plan.entry if self._plan else None
        if self._machine is not None:
            self._facts["cpuid_put_back"] = difference(self._machine.cpuid_asked, self._machine.cpuid_seen)
        return report.report(
            cause,
            machine=self._machine,
            expected_ns=self._expected_ns,
            host=self._facts,
            guest={"format": entry.format, "entry": entry.mode, "version": entry.version} if entry else None,
        )

    def explain(self, cause: Cause) -> None:
        """Say on standard error how it ended, with what the guest printed last, and what to try."""
        lines = []
        if self._machine and not all(c.tap.at_line_start for c in self._machine.consoles.values()):
            lines.append("")  # the guest's last line had no end
        for name, console in self._machine.consoles.items() if self._machine else ():
            tail = console.tap.tail(12).strip("\n")
            # What went to the terminal is there already.
            if tail and not os.isatty(1):
                lines.append(f"pykvm: the last lines on {name}:")
                lines += (f"  {line}" for line in tail.split("\n"))
        post_mortem = _post_mortem(cause)
        sentence = f"pykvm: {cause.sentence}"
        # The post-mortem of a crash knows better than the general remedy.
        general = cause.remedy and not (post_mortem and cause.status == verdict.CRASH)
        lines.append(f"{sentence}; {cause.remedy}" if general else sentence)
        lines += (f"pykvm: {line}" for line in post_mortem)
        if len(post_mortem) > SCREENFUL:
            lines.append(f"pykvm: in short: {cause.sentence} (status {cause.status})")
        _say("\n".join(lines))

    def close(self) -> None:
        """Give everything back to the host."""
        if self._machine is not None:
            self._machine.close()
        if self._plan is not None:
            self._plan.memory.close()


def _require_apart(config: MachineConfig) -> dict[str, str]:
    """Raise InputError where a console would print over what is read, or over what another one prints.

    By its real path, what each of these files is.
    """
    assert config.kernel is not None
    files = {config.source: "the machine file", config.kernel.image: "the kernel"}
    files |= dict.fromkeys(config.kernel.initrd, "an initrd")
    taken = {os.path.realpath(path): what for path, what in files.items() if path}
    for device in config.devices:
        if not isinstance(device, SerialConfig) or not _is_on_disk(device.to):
            continue
        path = os.path.realpath(device.to)
        if path in taken:
            what = f"{device.port} would print over {taken[path]}"
            raise InputError(what, where=device.to, remedy="choose another path")
        taken[path] = f"what {device.port} prints"
    return taken


def _is_on_disk(to: str) -> bool:
    """Whether a console prints into a file that is its own, or is to be made."""
    if not is_file(to) or file_of_ours(to) is not None:
        return False
    return os.path.isfile(to) or not os.path.exists(to)


def _place_of_report(path: str) -> str:
    """The real path of what the report takes the place of: a link, not what it leads to."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


def _post_mortem(cause: Cause) -> list[str]:
    if cause.crash is None:
        return []
    from pykvm.debug import postmortem

    return postmortem.lines(cause.crash)


def _built(plan: Plan, backend: str, cleared: Machine | None = None) -> Machine:
    """The machine of ``plan`` on its back end, or ``cleared`` built anew."""
    from pykvm.machine.build import build, build_translated

    if backend == "translate":
        from pykvm.host.tsc import tsc_hz

        return build_translated(plan, tsc_hz(), cleared)
    from pykvm.kvm.system import Kvm

    with Kvm() as kvm:
        return build(plan, kvm, cleared)


def _write_report(path: str | None, boot: Boot, cause: Cause) -> int:
    """Write the report where one is wanted; what went wrong with that is said, and is the status.

    It raises nothing: how the boot itself ended is more important.
    """
    if path is None:
        return 0
    try:
        report.write(path, boot.report(cause))
    except HostError as error:
        _say(f"pykvm: {error}")
        return error.status
    return 0


def _say(text: str) -> None:
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:  # nobody is there to read it
        return


def _cause_of(error: BaseException) -> Cause:
    if isinstance(error, KeyboardInterrupt):
        return verdict.signal(2, "SIGINT")
    if isinstance(error, Signalled):
        return verdict.signal(error.number, error.name)
    return verdict.fault(error)
