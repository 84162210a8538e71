"""Tests that run in the lab and are counted here, one by one.

A twin stands for a test in this pytest session. Before the first test the lab is booted, in which one pytest
runs the tests of all twins and writes its reports, a line of JSON each, to the folder that both sides see;
the tests that run out here go on beside it. When their turn comes, each twin gives pytest the reports of its
test as its own: outcome, traceback, captured output and times are those from inside, and -x, --lf and the
last line's counts work as for any test.
"""

from __future__ import annotations

import collections
import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

LAB = Path(__file__).with_name("lab")
PROGRAMS = LAB.parents[1] / "programs"
HANG_SECONDS = 240  # after which a test's Python stack is printed, for the post-mortem
CONSOLE_LINES = 200  # a panic alone takes more than 50
QEMU_DIED = "QEMU's status: 139"
"""What tests/lab/lab says where QEMU itself had a segmentation fault: what is left gets another boot.

Seen each time that guests/tests/breakpoints runs after guests/hostile/registers in one boot, and never
otherwise: what that guest leaves in the debug registers is too much for QEMU 7.2's CPU."""
HOSTILE = "test_hostile_guests"  # so these run last
MOST_BOOTS = 3


def turn(item: pytest.Item) -> int:
    """Where in the session's order an item belongs: what runs here, the lab's, those that may end the lab."""
    return (1 + (HOSTILE in item.path.name)) if isinstance(item, Twin) else 0


class Twin(pytest.Item):
    """A test that runs in the lab: the twin of ``test``, beside it in the tree."""

    def __init__(self, *, test: pytest.Item, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.test = test
        self.own_markers = list(test.own_markers)  # for -m
        self.keywords.update({mark.name: mark for mark in test.own_markers})

    @classmethod
    def of(cls, test: pytest.Item) -> Twin:
        base, bracket, rest = test.name.partition("[")
        name = f"{base}[{rest[:-1]}-lab]" if bracket else f"{base}[lab]"
        return cls.from_parent(test.parent, name=name, test=test)

    def runtest(self) -> None:
        raise AssertionError("TwinRunner runs twins")

    def reportinfo(self) -> tuple[object, int | None, str]:
        path, line, _ = self.test.reportinfo()
        return path, line, self.name


class TwinRunner:
    """The outer side: boots the lab once and hands its reports out."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.lab: Lab | None = None
        self.boots = 0
        self.twins: list[Twin] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.twins = [item for item in session.items if isinstance(item, Twin)]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        if self.lab is None and self.twins:
            marks = [mark for twin in self.twins for mark in twin.iter_markers("images")]
            self._make_images({name for mark in marks for name in mark.args})
            self._boot(self.twins)
        if not isinstance(item, Twin):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        while self.lab.died_before(item.test.nodeid) and self.boots < MOST_BOOTS:
            reporter = self.config.pluginmanager.get_plugin("terminalreporter")
            reporter.write_line(f"\nQEMU crashed in {item.nodeid}; the lab is started again from there")
            self.lab.close()
            self._boot(self.twins[self.twins.index(item) :])
        for report in self.lab.reports(item.test.nodeid):
            report.nodeid, report.location = item.nodeid, item.location
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _boot(self, twins: list[Twin]) -> None:
        self.boots += 1
        self.lab = Lab([twin.test.nodeid for twin in twins], self.config)

    def _make_images(self, names: set[str]) -> None:
        """Fetch, build and unpack what the tests boot: the lab sees pykvm's cache, but it has no network."""
        for name in sorted(names):
            pykvm = ["-m", "pykvm"]
            if name.startswith("foreign:"):
                commands = [[str(PROGRAMS / "foreign.py"), "--fetch", name.removeprefix("foreign:")]]
            elif name == "programs":
                commands = [[str(PROGRAMS / "run"), "--compile"]]
            elif name.startswith("debian:"):
                commands = [[*pykvm, "check", "--kernel", name]]
            else:
                commands = [[*pykvm, "guests", "build", name, "--yes"], [*pykvm, "check", name]]
            for command in commands:
                run = subprocess.run(
                    [sys.executable, *command],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
                if run.returncode != 0:  # the tests that boot it will fail of it
                    reporter = self.config.pluginmanager.get_plugin("terminalreporter")
                    reporter.write_line(f"\n{' '.join(command)}: {run.stdout}")

    def pytest_sessionfinish(self) -> None:
        if self.lab is not None:
            self.lab.close()


class Lab:
    """One boot of the lab, running the tests ``ids``."""

    def __init__(self, ids: list[str], config: pytest.Config) -> None:
        self.config = config
        self.folder = tempfile.TemporaryDirectory(prefix="pykvm-lab-")
        out = Path(self.folder.name)
        (out / "reports").touch()
        self._file = (out / "reports").open(encoding="utf-8")
        self._line = ""
        self._ended = False
        self._reports: dict[str, list[pytest.TestReport]] = collections.defaultdict(list)
        self._console: collections.deque[str] = collections.deque(maxlen=CONSOLE_LINES)
        # setpriv: if this process is killed, the lab ends too.
        lab = [
            "setpriv",
            "--pdeathsig",
            "TERM",
            LAB,
            "-o",
            out,
            "-t",
            str(config.getoption("lab_seconds")),
            "--",
        ]
        inside = [sys.executable, "-m", "pytest", "--inside=/out/reports", "-p", "no:cacheprovider"]
        inside += ["-o", f"faulthandler_timeout={HANG_SECONDS}", *ids]
        self._process = subprocess.Popen(
            lab + inside,
            cwd=config.rootpath,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()  # None: no more
        self._reader = threading.Thread(target=self._listen, name="lab's console")
        # Signals are the main thread's: one that holds them back, as a test may, would get them by this one.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self._reader.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _listen(self) -> None:
        """Take what the lab prints whether somebody waits for it or not: a full pipe would hold it up."""
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def reports(self, test: str) -> Iterator[pytest.TestReport]:
        """The reports of a test, as soon as it has ended; a failure where the lab ended before it."""
        self._wait_for(test)
        yield from self._reports[test]
        if not self._finished(test):
            text = f"The lab ended (status {self._process.wait()}) before this test had"
            if self._console:  # once is enough
                text += "; its last lines were:\n" + "".join(self._console)
                self._console.clear()
            yield pytest.TestReport(
                nodeid=test,
                location=("", None, ""),
                keywords={},
                outcome="failed",
                longrepr=text,
                when="call",
            )

    def died_before(self, test: str) -> bool:
        """Whether QEMU crashed before the test had ended; waits for either."""
        self._wait_for(test)
        return not self._finished(test) and any(QEMU_DIED in line for line in self._console)

    def _wait_for(self, test: str) -> None:
        # The inner pytest prints a line after each test, once its reports are written.
        while not (self._ended or self._finished(test)):
            line = self._lines.get()
            if line is None:
                self._ended = True
            else:
                self._console.append(line)
                self._read()

    def _finished(self, test: str) -> bool:
        return any(report.when == "teardown" for report in self._reports[test])

    def _read(self) -> None:
        for part in self._file:
            self._line += part
            if self._line.endswith("\n"):
                report = self.config.hook.pytest_report_from_serializable(
                    config=self.config, data=json.loads(self._line)
                )
                if isinstance(report.longrepr, list):  # a skip's place and reason: JSON has no tuples
                    report.longrepr = tuple(report.longrepr)
                self._reports[report.nodeid].append(report)
                self._line = ""

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        self._file.close()
        self.folder.cleanup()


class ReportWriter:
    """The inner side: writes every report as a line of JSON, then says on the console that there is one."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.path = Path(config.getoption("inside"))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(data) + "\n")

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        writer = self.config.get_terminal_writer()
        writer.line(f" {nodeid}")
        writer.flush()
