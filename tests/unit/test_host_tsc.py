"""The speed of the TSC: right where the host is disturbed, and measured once."""

from __future__ import annotations

import platform

import pytest

from pykvm.host import tsc as module
from pykvm.host.tsc import ROUND_HZ, measure, tsc_hz


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PYKVM_CACHE", str(tmp_path / "cache"))


class Host:
    """A clock and a counter that go on with each look; ``pauses``: at which looks the host stands still."""

    def __init__(self, hz, pauses=()):
        self.hz, self.pauses = hz, pauses
        self.ns = self.looks = 0

    def _look(self):
        self.looks += 1
        self.ns += 5_000_000 if self.looks in self.pauses else 50

    def now(self):
        self._look()
        return self.ns

    def tsc(self):
        self._look()
        return self.ns * self.hz // 1_000_000_000

    def sleep(self, seconds):
        self.ns += int(seconds * 1e9)


@pytest.mark.parametrize("hz", [1_000_000_000, 2_445_430_000, 4_999_990_000])
def test_the_rate_is_found_to_the_rounding(hz):
    host = Host(hz)
    assert measure(host.tsc, host.now, host.sleep) == hz


def test_pauses_of_the_host_do_not_count():
    host = Host(2_445_430_000, pauses=range(1, 300, 5))
    assert measure(host.tsc, host.now, host.sleep) == 2_445_430_000


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the counter of an x86-64 processor")
def test_this_hosts_is_measured_once(monkeypatch):
    first = tsc_hz()
    assert 500_000_000 < first < 10_000_000_000
    assert first % ROUND_HZ == 0
    monkeypatch.setattr(module, "measure", None)
    assert tsc_hz() == first
