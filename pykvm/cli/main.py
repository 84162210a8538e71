"""``pykvm VERB …``: finds the verb, turns errors into a sentence and an exit status."""

from __future__ import annotations

import os
import sys

from pykvm.cli.ending import Signalled, raise_on_signals
from pykvm.cli.output import show
from pykvm.errors import HostError, PykvmError, UsageError, refusal
from pykvm.libc.reserve import reserve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# verb: what it does; each is a module of pykvm.cli with run(arguments) -> exit status
VERBS = {
    "boot": "boot a machine: a YAML file, a folder, a shipped guest, or a kernel image",
    "check": "say what is wrong with a machine, or what would be booted; boots nothing",
    "info": "say what this host's KVM can do",
    "guests": "list, build, remove and update the guests that ship with pykvm",
    "schema": "print the JSON Schema of the machine file",
}

HELP = """usage: pykvm VERB [OPTION…]

{verbs}

pykvm VERB --help tells a verb's options. To begin with: pykvm boot hello; pykvm boot linux
Exit status: 0 the guest powered off, or what it wrote to debug-exit (0–63); 64 wrong command line,
65 wrong machine file or image, 69 the host can't, 70 a fault of pykvm, 124 timeout, 125 the guest
crashed, 126 expect not met, 128+n signal n."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _status(words)
    except KeyboardInterrupt:
        return 130
    except Signalled as ended:
        _say(f"pykvm: stopped by {ended.name}")
        return 128 + ended.number


def _status(words: list[str]) -> int:
    """Run the command line. Raises only what a signal does, which may come while an error is told as well."""
    try:
        _open_standard_descriptors()
        return _run(words)
    except PykvmError as error:
        _say(f"pykvm: {error}")
        return error.status
    except BrokenPipeError:
        return 128 + 13
    except Exception as error:
        reserve.clear()
        refused = refusal(error)
        if refused is not None:
            _say(f"pykvm: {refused}")
            return refused.status
        if os.environ.get("PYKVM_DEBUG"):
            raise
        _say(
            f"pykvm: this is a fault of pykvm: {type(error).__name__}: {error}; "
            "set PYKVM_DEBUG=1 to see where, and report it"
        )
        return 70


def _open_standard_descriptors() -> None:
    """Open /dev/null on those of descriptors 0 to 2 that we were started without.

    Else the next file that is opened gets the number, and what is meant for standard error goes there.
    """
    for fd, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            try:
                os.set_inheritable(os.open(os.devnull, mode), True)  # it gets the lowest number that is free
            except OSError as error:
                raise HostError(
                    f"cannot be opened: {error.strerror}",
                    where=os.devnull,
                    remedy="mknod -m 666 /dev/null c 1 3",
                ) from error
    if sys.stderr is None:  # of which print() would make standard output
        sys.stderr = os.fdopen(2, "w", closefd=False)  # to the end


def _run(words: list[str]) -> int:
    verb = words[0] if words else "--help"
    if verb in ("-h", "--help", "help"):
        verbs = "\n".join(f"  {name:8}{text}" for name, text in VERBS.items())
        show(HELP.format(verbs=verbs))
        return 0 if words else UsageError.status
    if verb in ("-V", "--version"):
        from pykvm import __version__

        show(f"pykvm {__version__}")
        return 0
    if verb not in VERBS:
        from difflib import get_close_matches  # late: only where something is wrong

        near = get_close_matches(verb, VERBS, 1)
        remedy = f"did you mean {near[0]}?" if near else f"write one of {', '.join(VERBS)}"
        raise UsageError(f"'{verb}' is no verb", remedy=remedy)
    module = __import__(f"pykvm.cli.{verb}", fromlist=["run"])
    raise_on_signals()
    status: int = module.run(words[1:])
    return status


def _say(text: str) -> None:
    if sys.stderr is None:
        return
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError, AttributeError):  # standard error is closed, full or gone
        return
