"""The gate at which vCPUs wait."""

from __future__ import annotations

from pykvm.machine.vcpu import PAUSE, RUN, STOP, Gate


def test_nothing_comes_after_stop():
    """A cause that another thread posts while the machine stops must not hold the vCPUs at the gate."""
    gate = Gate()
    for wanted in (RUN, PAUSE, RUN, STOP, PAUSE, RUN):
        gate.want(wanted)
    assert gate.wanted == STOP
