"""Executable memory."""

from __future__ import annotations

from pykvm.libc.calls import MAP_ANONYMOUS, MAP_NORESERVE, MAP_PRIVATE, PROT_READ, PROT_WRITE, Mapping

PROT_EXEC = 4


def executable(size: int) -> Mapping:
    """``size`` bytes that can be written and executed. Raises OSError where the host refuses that."""
    return Mapping(size, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)
