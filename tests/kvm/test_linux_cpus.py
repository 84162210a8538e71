"""Debian's kernel with many CPUs, where KVM runs ring 0 on the hardware: all come up, work and go."""

from __future__ import annotations

import json
import re

import pytest
from booting import boot, initrd

pytestmark = [pytest.mark.fast_kvm, pytest.mark.images("debian")]

# Field 39 of stat is the CPU that the process was on last (proc(5)).
SCRIPT = """#!/bin/sh
echo there are $(nproc)
for cpu in $(seq 0 $(($(nproc) - 1))); do
    set -- $(taskset -c $cpu cat /proc/self/stat)
    shift 38
    echo ran on $1
done
grep -E 'LOC|RES|CAL' /proc/interrupts
poweroff
"""


@pytest.mark.parametrize(("cpus", "interrupts"), [(8, "kernel"), (4, "split"), (4, "user")])
def test_debian_runs_programs_on_each_of_its_cpus(tmp_path, cpus, interrupts):
    extra, report = initrd(tmp_path / "extra.cpio", run_sh=SCRIPT), tmp_path / "r.json"
    settings = ("backend=kvm", f"cpus={cpus}", f"interrupts={interrupts}", f"kernel.initrd.1={extra}")
    words = [word for each in settings for word in ("--set", each)]
    done = boot("debian", *words, "--append", "quiet", "--report", report)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"there are {cpus}\n" in done.stdout.replace("\r", "")
    assert re.findall(r"ran on (\d+)", done.stdout) == [str(cpu) for cpu in range(cpus)]
    ticks = re.search(r"LOC:((?: +\d+)+)", done.stdout)
    assert ticks and len(ticks[1].split()) == cpus
    assert all(int(count) for count in ticks[1].split())
    assert json.loads(report.read_text())["outcome"] == "poweroff"
