"""``pykvm info``: what this host's KVM can do, in words or as JSON."""

from __future__ import annotations

import textwrap

from pykvm.cli.options import Parser
from pykvm.errors import HostError
from pykvm.host.facts import facts
from pykvm.host.probe import probe
from pykvm.host.speed import HARDWARE
from pykvm.kvm.capabilities import CAPABILITIES
from pykvm.kvm.system import Kvm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

ENDS = {
    "given-up": "KVM gives it up",
    "hangs": "it hangs",
    "shutdown": "it crashes the guest",
    "refused": "the guest's state is refused",
}


def run(arguments: Sequence[str]) -> int:
    """Print it; status 69 where there is no KVM to tell of."""
    parser = Parser(prog="pykvm info", description="Say what this host's KVM can do, by trying it.")
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")
    parser.add_argument("--fresh", action="store_true", help="measure anew what was measured before")
    given = parser.parse_args(arguments)
    known = facts()
    told: dict[str, Any] = {
        "host": {"kernel": known.release, "driver": known.driver, "cpu": known.cpu},
        "kvm": None,
        "backend": None,
    }
    status = 0
    try:
        with Kvm() as kvm:
            told["kvm"] = probe(kvm, fresh=given.fresh)
        told["backend"] = "kvm"
    except HostError as error:
        told["error"] = str(error)
        status = error.status
    if given.json:
        import json

        print(json.dumps(told, indent=2))
    else:
        print("\n".join(_words(told)))
    return status


def _words(told: dict[str, Any]) -> list[str]:
    host = told["host"]
    driver = f" with KVM by {host['driver']}" if host["driver"] else ""
    lines = [f"Host: Linux {host['kernel']}{driver}, on {host['cpu'] or 'an unknown processor'}"]
    kvm = told["kvm"]
    if kvm is None:
        return [*lines, "", f"No guest can run here: {told['error']}"]
    ring0 = kvm["ring0"]
    if ring0["kind"] == HARDWARE:
        lines += [
            "",
            "All guests run here: KVM runs a guest's kernel on the hardware"
            f" ({ring0['mips']:.0f} million instructions a second in a short loop).",
        ]
    else:
        lines += [
            "",
            "Small guests run here (hello, ticks, test kernels). Linux does not: KVM interprets a guest's",
            f"kernel, at {ring0['mips']:.1f} million instructions a second, where hardware does thousands.",
        ]
    lines += _problems(kvm)
    missing = [name for name, number in kvm["capabilities"].items() if not number]
    if missing:
        lines += ["", "This KVM does not offer:"]
        lines += [f"  {name:36} {CAPABILITIES[name][2]}" for name in missing]
    lines += ["", "CPU features that a guest sees:"]
    lines += textwrap.wrap(
        " ".join(kvm["cpuid"]["features"]), 96, initial_indent="  ", subsequent_indent="  "
    )
    return lines


def _problems(kvm: dict[str, Any]) -> list[str]:
    lines = []
    by_end: dict[tuple[str, bool], list[str]] = {}
    for row in kvm["instructions"]:
        by_end.setdefault((row["ends"], row["finished"]), []).append(row["name"])
    if by_end:
        lines += ["", "Instructions that fail in a guest's kernel:"]
    for (ends, finished), names in sorted(by_end.items()):
        after = "; pykvm finishes it" if finished else ""
        text = f"{ENDS[ends]}{after}: {', '.join(names)}"
        lines += textwrap.wrap(text, 96, initial_indent="  ", subsequent_indent="    ")
    if kvm["paging_32"] != "done":
        lines += ["", f"32-bit paging without PAE does not work: {ENDS[kvm['paging_32']]}."]
    if kvm["cpuid"]["put_back"]:
        lines += ["", "CPU features that a guest sees (+) or lacks (-) although it was asked otherwise:"]
        lines += textwrap.wrap(
            " ".join(kvm["cpuid"]["put_back"]), 96, initial_indent="  ", subsequent_indent="  "
        )
    return lines
