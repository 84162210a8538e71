"""The machine's clock."""

from __future__ import annotations

import gc
import threading

from pykvm.machine.clock import MachineClock, Timer
from pykvm.machine.io import IoLoop


def test_timers_that_were_cancelled_take_no_memory() -> None:
    """A guest may move its alarm without end."""
    loop = IoLoop(threading.Lock(), lambda failure: None)
    clock = MachineClock(loop)
    try:
        keep = [clock.call_at(10**18, lambda: None) for _ in range(10)]
        for n in range(5000):
            clock.call_at(10**18 - n, lambda: None).cancel()
        gc.collect()
        alive = sum(isinstance(thing, Timer) for thing in gc.get_objects())
        assert len(keep) <= alive < 200
    finally:
        clock.close()
        loop.close()
