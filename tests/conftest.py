"""What runs where.

tests/unit needs no KVM. tests/kvm runs on this host's /dev/kvm. With ``--lab`` every test of tests/kvm has
a twin, ``test_x[lab]``, that runs in the lab, a machine with AMD-V emulated by QEMU (tests/lab/lab); the
tests in tests/lab/inside run only there. All twins of a session run in one boot of it, while the
other tests run here.

Tests marked ``fast_kvm`` need a KVM that runs ring 0 at the hardware's speed, with all that the hardware
can. A host whose KVM interprets ring 0 leaves them to the lab. Those marked ``any_backend`` leave the
choice to pykvm: they run on every host, by KVM or by translation, and in the lab. Those marked ``no_lab``
can't run in the lab and have no twin. ``images`` names what a test boots that has to be fetched or built:
the lab has no network, so that is done before it starts.
"""

from __future__ import annotations

import functools
import signal
from collections.abc import Generator
from pathlib import Path

import pytest
from twins import ReportWriter, Twin, TwinRunner, turn

TESTS = Path(__file__).parent
KVM, LAB, INSIDE = TESTS / "kvm", TESTS / "lab", TESTS / "lab" / "inside"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pykvm")
    group.addoption("--lab", action="store_true", help="run the tests of KVM in the lab too")
    group.addoption("--lab-seconds", type=int, default=4200, metavar="N", help="the lab's time limit (4200)")
    group.addoption("--inside", metavar="FILE", help="this is the lab: write pytest's reports to FILE")


def pytest_configure(config: pytest.Config) -> None:
    _heed_signals()
    config.addinivalue_line("markers", "fast_kvm: needs a KVM that runs ring 0 of guests on the hardware")
    config.addinivalue_line("markers", "no_lab(why): the lab can't run it, so that it has no twin there")
    config.addinivalue_line("markers", "any_backend: needs no KVM: a host without it runs it by translation")
    config.addinivalue_line(
        "markers", "images(*names): guests, packages, programs that it takes, made before the lab starts"
    )
    if config.getoption("inside"):
        config.pluginmanager.register(ReportWriter(config))
    elif config.getoption("lab"):
        config.pluginmanager.register(TwinRunner(config))


def _heed_signals() -> None:
    """Let what tests start hear the signals that they send: `nohup` and a shell's `&` have some ignored."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem(collector: pytest.Collector) -> Generator[None, object, object]:
    """Give each test that the lab can run its twin, here, so that -k, --lf and node ids see it."""
    made = yield
    if collector.config.getoption("lab") and isinstance(made, list) and _under(collector, KVM, INSIDE):
        return [item for test in made for item in _with_twin(test)]
    return made


def _with_twin(test: pytest.Item) -> list[pytest.Item]:
    return [test] if test.get_closest_marker("no_lab") else [test, Twin.of(test)]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what can't run here, with its reason; leave out what only its twin can run."""
    with_lab, in_lab = config.getoption("lab"), config.getoption("inside")
    left_out = []
    for item in items:
        reason, only_there = "", False
        if isinstance(item, Twin):
            pass
        elif _under(item, INSIDE):
            reason, only_there = "" if in_lab else "runs in the lab only; pytest --lab runs it there", True
        elif _under(item, LAB):
            reason = "" if with_lab else "boots the lab; pytest --lab runs it"
        elif _under(item, KVM) and not item.get_closest_marker("any_backend"):
            reason = _no_kvm()
            if not reason and item.get_closest_marker("fast_kvm") and not _ring_0_is_fast():
                reason = "this host's KVM interprets ring 0"
                if only_there := not item.get_closest_marker("no_lab"):
                    reason += "; pytest --lab runs it in the lab"
        if reason and only_there and with_lab:
            left_out.append(item)
        elif reason:
            item.add_marker(pytest.mark.skip(reason=reason))
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    kept = [item for item in items if item not in left_out]
    items[:] = sorted(kept, key=turn)


def _under(node: pytest.Collector | pytest.Item, *folders: Path) -> bool:
    return any(folder in node.path.parents for folder in folders)


@functools.cache
def _no_kvm() -> str:
    """Why /dev/kvm can't be used here, or nothing."""
    from pykvm.errors import HostError  # late: tests of other rooms run without these
    from pykvm.kvm.system import Kvm

    try:
        Kvm().close()
    except HostError as error:
        return str(error)
    return ""


@functools.cache
def _ring_0_is_fast() -> bool:
    from pykvm.host.backend import ring0_mips
    from pykvm.host.speed import HARDWARE, kind
    from pykvm.kvm.system import Kvm

    with Kvm() as kvm:
        return kind(ring0_mips(kvm)) == HARDWARE
