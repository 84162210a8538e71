"""A signal while a guest is being fetched or built: the status, the report, the terminal and the cache."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "pykvm"]
LONG = 60  # seconds; what would be waited for here takes 1000
ENDING = [signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGINT]

# An apt that knows the package and downloads it for ever. It tells its process id through a FIFO.
APT_CACHE = """#!/bin/sh
echo "Package: thing
Version: 1
Size: 1000000
Installed-Size: 1000
SHA256: 0000000000000000000000000000000000000000000000000000000000000000
"
"""
APT_GET = """#!/bin/sh
echo $$ >"$FIFO"
exec sleep 1000
"""
RECIPE = """
kind = "initramfs"
package = "thing"
directories = []
[from_package]
[files]
[links]
[devices]
"""


class Downloading:
    """A pykvm whose apt is busy, on a terminal, which ``end`` ends by a signal."""

    def __init__(self, folder: Path, *words: str | Path, ignored: tuple[int, ...] = ()) -> None:
        self.cache = folder / "cache"
        for name, text in (("apt-cache", APT_CACHE), ("apt-get", APT_GET)):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        recipe = folder / "recipe"
        recipe.mkdir()
        (recipe / "recipe.toml").write_text(RECIPE)
        (folder / "kernel.bin").write_bytes(b"\xf4")
        (folder / "machine.yaml").write_text(
            f"memory: 1M\nkernel: {{image: {folder}/kernel.bin, initrd: 'recipe:{recipe}'}}\n"
        )
        fifo = folder / "fifo"
        os.mkfifo(fifo)
        self.terminal, slave = pty.openpty()
        self.child = subprocess.Popen(
            [*COMMAND, *map(str, words)],
            cwd=folder,
            env={
                **os.environ,
                "PATH": f"{folder}:{os.environ['PATH']}",
                "FIFO": str(fifo),
                "PYKVM_CACHE": str(self.cache),
                "PYTHONPATH": os.getcwd(),
            },
            stdin=subprocess.DEVNULL,
            stdout=slave,
            stderr=slave,
            # The others by their default: tests in the background of a script have SIGINT ignored.
            preexec_fn=lambda: [
                signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
                for number in ENDING
            ],
        )
        os.close(slave)
        self.apt = int(fifo.read_text())

    def end(self, number: int) -> tuple[int, str]:
        """The status, and what the terminal shows in the end."""
        self.child.send_signal(number)
        return self.child.wait(LONG), self.shown()

    def shown(self) -> str:
        text = b""
        try:
            while piece := os.read(self.terminal, 4096):
                text += piece
        except OSError:  # EIO: nobody has the other side any more
            os.close(self.terminal)
        return text.decode().split("\x1b[K")[-1]


@pytest.mark.parametrize("number", ENDING)
def test_a_boot_that_still_fetches_ends_with_the_signal_and_a_report(tmp_path, number):
    downloading = Downloading(tmp_path, "boot", "machine.yaml", "--report", "r.json")
    status, shown = downloading.end(number)
    name = signal.Signals(number).name
    assert status == 128 + number
    assert shown == ("" if number == signal.SIGINT else f"pykvm: stopped by {name}\r\n")
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["outcome"], report["status"]) == ("signal", 128 + number)


def test_what_was_begun_is_cleaned_up_and_apt_ended(tmp_path):
    downloading = Downloading(tmp_path, "boot", "machine.yaml")
    assert os.listdir(downloading.cache / "work") != []
    downloading.end(signal.SIGTERM)
    assert os.listdir(downloading.cache / "work") == []
    with pytest.raises(ProcessLookupError):
        os.kill(downloading.apt, 0)


def test_a_signal_that_was_ignored_from_the_start_stays_so(tmp_path):
    downloading = Downloading(tmp_path, "boot", "machine.yaml", ignored=(signal.SIGHUP,))
    downloading.child.send_signal(signal.SIGHUP)
    assert downloading.end(signal.SIGTERM)[0] == 128 + signal.SIGTERM


SWALLOWS = """
import _thread, os, sys, time
from pykvm.cli.ending import Signalled, raise_on_signals

class Object:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[1]))
        for _ in range(1000):
            pass

if sys.argv[2] == "busy":  # all that is to come later comes before the main thread goes on
    def now(function, arguments, real=_thread.start_new_thread):
        _thread.start_new_thread = real
        os.kill(os.getpid(), *arguments)
    _thread.start_new_thread = now
raise_on_signals()
try:
    Object()  # goes at once, and with it what the signal raises
    time.sleep(1000)
except Signalled as ended:
    print(int(ended.number))
except KeyboardInterrupt:
    print(2)
"""


@pytest.mark.parametrize("machine", ["idle", "busy"])
@pytest.mark.parametrize("number", ENDING)
def test_a_signal_that_comes_inside_a_destructor_ends_it_too(number, machine):
    command = [sys.executable, "-c", SWALLOWS, str(int(number)), machine]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG)
    assert (done.stdout, done.stderr) == (f"{int(number)}\n", "")
