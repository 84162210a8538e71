"""What the lab promises to the tests that run in it."""

import os
import re
import socket
from pathlib import Path


def test_kvm_is_amd_v_with_nested_paging():
    assert Path("/sys/module/kvm_amd/parameters/npt").read_text().strip() in ("1", "Y")


def test_there_is_a_tap_device_and_a_loopback_interface():
    assert Path("/dev/net/tun").is_char_device()
    assert {"lo"} <= {name for _, name in socket.if_nameindex()}


def test_a_pty_can_be_opened():
    controller, terminal = os.openpty()
    os.write(controller, b"x\n")
    assert os.read(terminal, 2) == b"x\n"


def test_the_checkout_is_writable_and_its_changes_are_kept_from_the_host(request):
    # That the host stays as it was is checked from outside: test_lab.py.
    (request.config.rootpath / "written-in-the-lab").write_text("x")


def test_the_ticks_come_by_themselves():
    # Else one interrupt that QEMU loses stops this machine for ever: see tests/lab/lab. 0 is periodic.
    timers = Path("/proc/timer_list").read_text()
    assert set(re.findall(r"^Tick Device: mode: +(\d)$", timers, re.MULTILINE)) == {"0"}
