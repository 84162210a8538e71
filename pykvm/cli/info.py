"""``pykvm info``: which back end this host has, and what its KVM can do, in words or as JSON."""

from __future__ import annotations

import textwrap

from pykvm.cli.options import Parser
from pykvm.cli.output import show
from pykvm.errors import HostError
from pykvm.host.backend import translation_impossible, with_kvm, without_kvm
from pykvm.host.facts import facts
from pykvm.host.probe import kept_probe
from pykvm.host.speed import HARDWARE, kind
from pykvm.kvm.capabilities import CAPABILITIES
from pykvm.kvm.system import Kvm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

WORKS = "works"
VERDICTS = {
    "given-up": "KVM gives up, and the guest ends",
    "fails": "KVM fails",
    "hangs": "the guest hangs",
    "resets": "the guest crashes",
    "refused": "KVM refuses the guest's state",
    "wrong": "the result is wrong",
}
FINISHED = "KVM gives up, pykvm finishes"
WIDTH = 100


def run(arguments: Sequence[str]) -> int:
    """Print it; status 69 where no guest can run."""
    parser = Parser(prog="pykvm info", description="Say what this host can do, by trying it.")
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")
    parser.add_argument("--fresh", action="store_true", help="try anew what was tried before")
    given = parser.parse_args(arguments)
    told = gather(fresh=given.fresh)
    if given.json:
        import json  # late: only for programs

        show(json.dumps(told, indent=2))
    else:
        show("\n".join(words(told)))
    return 0 if told["backend"] else HostError.status


def gather(*, fresh: bool = False) -> dict[str, Any]:
    """All that is known, as plain data: ``host``, ``kvm``, ``backend``, ``why``, ``boots``, ``error``, …

    ``backend`` is what ``auto`` takes and ``why`` says so; ``kvm`` is what ``pykvm.host.probe.probe`` tells,
    None where there is no KVM, and ``error`` then says why; ``translation`` is None where it can work, else
    the reason.
    """
    known = facts()
    impossible = translation_impossible()
    told: dict[str, Any] = {
        "host": {
            "kernel": known.release,
            "driver": known.driver,
            "parameters": known.parameters,
            "cpu": known.cpu,
        },
        "kvm": None,
        "translation": impossible,
        "backend": None,
        "why": None,
        "boots": {"small": False, "linux": False},
        "error": None,
    }
    try:
        try:
            with Kvm() as kvm:
                told["kvm"] = kept_probe(kvm, fresh=fresh)
            choice = with_kvm(told["kvm"]["ring0"]["mips"], lambda: impossible)
        except HostError as error:
            told["error"] = str(error)
            choice = without_kvm(error, impossible)
    except HostError as error:
        told["error"] = str(error)
        return told
    told["backend"], told["why"] = choice.backend, choice.why
    told["boots"] = {"small": True, "linux": not choice.for_linux}
    return told


def words(told: dict[str, Any]) -> list[str]:
    """What ``gather`` tells, in lines for people: first what can be done here, then what is amiss."""
    host, kvm = told["host"], told["kvm"]
    lines = _row("host", f"Linux {host['kernel']} on {host['cpu'] or 'an unknown processor'}")
    if host["driver"]:
        lines += _row("KVM", host["driver"])
    if told["backend"] is None:
        return [*lines, *_row("guests", "none can run here"), "", told["error"]]
    name = "KVM" if told["backend"] == "kvm" else "translation"
    lines += _row("back end", f"{name}: {told['why']}")
    if kvm is None:
        return [*lines, *_row("guests", "All guests run here."), "", told["error"]]
    limits, ring0 = kvm["limits"], kvm["ring0"]
    lines += _row(
        "limits", f"up to {limits['vcpus']} CPUs and {limits['memory_slots']} memory slots under KVM"
    )
    if limits["tsc_khz"]:
        lines += _row("TSC", f"{limits['tsc_khz'] / 1000:.0f} MHz")
    if kind(ring0["mips"]) == HARDWARE:
        lines += _row(
            "ring 0",
            f"a guest's kernel runs on the hardware ({ring0['mips']:.0f} million instructions a second)",
        )
    else:
        lines += _row(
            "ring 0",
            f"KVM interprets a guest's kernel ({ring0['mips']:.1f} million instructions a second, where "
            "hardware does thousands)",
        )
    if not told["boots"]["linux"]:
        lines += _row(
            "guests",
            "Small guests run here: hello, ticks, kernels of your own. Linux does not; run it where KVM has "
            "hardware virtualization, nested or not.",
        )
    elif told["backend"] == "kvm":
        lines += _row("guests", "All guests run here.")
    else:
        lines += _row(
            "guests",
            "All guests run here. What asks for KVM itself (`backend: kvm`) gets it, and is slow in ring 0.",
        )
    return [
        *lines,
        *_amiss(kvm),
        *_section("CPU features that a guest of KVM sees", kvm["cpuid"]["features"]),
    ]


def _amiss(kvm: dict[str, Any]) -> list[str]:
    """What doesn't work, what isn't offered, what isn't obeyed."""
    groups: dict[str, list[str]] = {}
    for row in kvm["instructions"]:
        if row["verdict"] != WORKS:
            says = FINISHED if row["finished"] else VERDICTS[row["verdict"]]
            groups.setdefault(says, []).append(row["name"])
    lines = []
    if groups:
        lines += ["", "Instructions that KVM can't carry out in a guest's kernel:"]
        for says, names in groups.items():
            lines += _wrapped(f"{says}: {', '.join(names)}")
    for name, verdict in kvm["paging"].items():
        if verdict != WORKS:
            lines += ["", f"{name} paging does not work: {VERDICTS[verdict]}."]
    cpuid = kvm["cpuid"]
    lines += _section("CPU features that `cpus.features` can't turn off", cpuid["fixed"])
    lines += _section("CPU features that KVM adds to (+) or takes from (-) what it offers", cpuid["changed"])
    missing = [name for name, value in kvm["capabilities"].items() if not value]
    if missing:
        lines += ["", "What this KVM does not offer:"]
        lines += [f"  {name:36} {CAPABILITIES[name][2]}" for name in missing]
    return lines


def _row(title: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{title:10}", subsequent_indent=" " * 10)


def _section(title: str, names: Iterable[str]) -> list[str]:
    text = " ".join(names)
    return ["", f"{title}:", *_wrapped(text)] if text else []


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
