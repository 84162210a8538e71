"""How fast this host's time stamp counter runs, measured where there is no KVM to be asked."""

from __future__ import annotations

import time
from itertools import pairwise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Sample = tuple[int, int]
    """Nanoseconds of the host's raw clock, and the counter then."""

WINDOW_NS = 20_000_000
WINDOWS = 5
TRIES = 16
ROUND_HZ = 10_000
"""A few millionths: finer than that nothing can be measured in so short a time."""


def tsc_hz() -> int:
    """Counts a second: measured once on a host, then remembered.

    Raises HostError where the host gives no executable memory (``pykvm.translate.usable`` tells why).
    """
    from pykvm.host.kept import Kept  # late: under KVM nobody asks
    from pykvm.translate.memory import Rdtsc

    kept = Kept("the speed of the TSC", "host/tsc.py")
    text = kept.read()
    if text is not None:
        return int(text)
    counter = Rdtsc()
    try:
        measured = measure(counter, _raw_ns, time.sleep)
    finally:
        counter.close()
    kept.write(str(measured))
    return measured


def measure(tsc: Callable[[], int], now: Callable[[], int], sleep: Callable[[float], None]) -> int:
    """The median of several windows, rounded; ``now`` is in nanoseconds, ``sleep`` takes seconds."""
    samples = [_sample(tsc, now)]
    for _ in range(WINDOWS):
        sleep(WINDOW_NS / 1e9)
        samples.append(_sample(tsc, now))
    rates = [
        (counts_2 - counts_1) * 1_000_000_000 / (ns_2 - ns_1)
        for (ns_1, counts_1), (ns_2, counts_2) in pairwise(samples)
    ]
    return round(sorted(rates)[len(rates) // 2] / ROUND_HZ) * ROUND_HZ


def _sample(tsc: Callable[[], int], now: Callable[[], int]) -> Sample:
    """The counter at a time: of several tries the one with the least between two looks at the clock."""
    tries = [(now(), tsc(), now()) for _ in range(TRIES)]
    before, counts, after = min(tries, key=lambda one: one[2] - one[0])
    return (before + after) // 2, counts


def _raw_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
