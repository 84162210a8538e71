"""Programs that are waited for: whatever is raised, none runs on alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from pykvm.libc.processes import ENDING, running


class Ended(Exception):
    pass


@pytest.fixture
def raising():
    """Signals of ENDING raise, as the command line has it."""

    def end(number, frame):
        raise Ended

    before = {number: signal.signal(number, end) for number in ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def start(command, session):
    # Not in the test's own loop: there the last round's Popen would be dropped just when the signal comes,
    # and an exception in a destructor is lost.
    with running(command, session=session) as process:
        process.wait()


@pytest.mark.parametrize("session", [False, True])
def test_a_signal_while_it_starts_ends_it(raising, tmp_path, session):
    told = tmp_path / "pid"
    command = ["sh", "-c", 'echo $$ >"$0"; kill -TERM $PPID; exec sleep 60', str(told)]
    for _ in range(20):
        with pytest.raises(Ended):
            start(command, session)
        with pytest.raises(ProcessLookupError):
            os.kill(int(told.read_text()), 0)


KILLED = """
import os, signal, sys
from pykvm.libc.processes import running

with running(["sleep", "1000"], session=bool(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("session", ["", "session"])
def test_who_is_killed_leaves_none_running(session):
    # Its output ends when nobody has the pipe any more.
    done = subprocess.run([sys.executable, "-c", KILLED, session], stdout=subprocess.PIPE, timeout=60)
    assert done.returncode == -signal.SIGKILL


def test_it_may_be_ended_by_the_signals_that_were_held_back_for_it():
    with running(["sh", "-c", "kill -TERM $$; sleep 1000"]) as process:
        assert process.wait() == -signal.SIGTERM


def test_a_program_that_is_missing_leaves_no_signal_held_back():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pytest.raises(FileNotFoundError), running(["/no/such/program"]):
        pass
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
