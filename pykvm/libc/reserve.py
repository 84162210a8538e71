"""Memory to fail with, where the host gives no more of it (``ulimit -v``).

A MemoryError whose handling meets the next one can't be caught: Python aborts, or a thread ends without a
word. So the handler's first act is ``reserve.clear()``, which needs none.
"""

from __future__ import annotations

SIZE = 16 << 20
"""Bytes: arenas of Python's, 1 MiB each, and what closing a machine and telling of it takes."""

reserve: list[bytes] = []


def keep() -> None:
    """Have it from now on. Nothing is written to it, so that it costs addresses and no memory."""
    reserve[:] = [bytes(SIZE)]
