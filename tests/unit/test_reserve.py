"""A host that gives no more memory (``ulimit -v``) in the middle of a run: that is told, as one sentence."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pykvm.cli.main import main
from pykvm.machine.vcpu import VcpuThread

# A vCPU that takes what there is, to the last byte, and still has it when it fails.
GREEDY = """
import resource, sys, threading
from pykvm.libc.reserve import keep
from pykvm.machine.vcpu import RUN, Gate, VcpuThread

class Greedy:
    index = 0

    def run(self):
        self.taken = None
        size = 1 << 20
        while True:
            try:
                while True:
                    self.taken = bytes(size), self.taken
            except MemoryError:
                if size == 1:
                    raise
                size //= 2

    def wake(self):
        pass

    settle = wake

def ended(cause):
    causes.append(cause)
    told.set()

causes, told, gate = [], threading.Event(), Gate()
thread = VcpuThread(Greedy(), gate, ended)
gate.want(RUN)
keep()
with open("/proc/self/statm") as file:
    size = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (64 << 20),) * 2)
thread.start()
told.wait()
print(causes[0].status, causes[0].sentence)
"""


def test_a_vcpu_that_finds_no_memory_says_so():
    done = subprocess.run([sys.executable, "-c", GREEDY], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (
        "69 the host has no memory left; free some, or give the machine less\n",
        "",
    )


def test_a_vcpu_that_cannot_even_say_so_ends_the_machine(monkeypatch, capfd):
    def lost(thread):
        thread._ready = True

    monkeypatch.setattr(VcpuThread, "_main", lost)
    assert main(["boot", "hello", "--set", "backend=translate", "--timeout", "60s"]) == 69
    assert (
        capfd.readouterr().err == "pykvm: the host has no memory left; free some, or give the machine less\n"
    )


@pytest.mark.parametrize("mebibytes", range(40, 160, 20))
def test_a_boot_with_any_limit_goes_well_or_says_what_is_lacking(mebibytes):
    command = (
        f"ulimit -v {mebibytes << 10}; exec {sys.executable} -m pykvm boot hello --set backend=translate"
    )
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, env=os.environ)
    if done.returncode == 0:
        assert done.stderr == ""
    else:
        assert (done.returncode, done.stderr.count("\n")) == (69, 1)
        assert done.stderr.startswith("pykvm: ")
