"""What a machine file says, checked and complete: the frozen records that the machine is built from.

Sizes and addresses are bytes, durations nanoseconds, paths absolute. Words with a fixed set of
values (``model``, ``format``, …) are the text of the machine file; pykvm/config/schema.py lists them.
"""

from __future__ import annotations

from pykvm.frozen import frozen


@frozen
class CpusConfig:
    count: int
    model: str
    features: tuple[tuple[str, bool], ...]
    max: int | None = None


@frozen
class MemoryConfig:
    size: int
    hugepages: bool
    max: int | None = None


@frozen
class KernelConfig:
    """``image`` is an absolute path, ``recipe:`` and one, ``debian:PACKAGE`` or ``host``; an ``initrd``
    is one of the first two.

    ``load`` and ``start`` are guest-physical addresses of a flat binary, or None where the file
    doesn't say: then ``start`` is ``load``, and ``load`` is the loader's choice.
    """

    image: str
    initrd: tuple[str, ...]
    cmdline: str
    format: str
    entry: str
    load: int | None
    start: int | None


@frozen
class SerialConfig:
    """``to`` is ``terminal``, ``none``, ``pty``, an absolute path, or ``unix:`` and an absolute path."""

    port: str
    to: str


@frozen
class DebugExitConfig:
    port: int


@frozen
class OnConfig:
    reset: str
    panic: str


@frozen
class ExpectConfig:
    output: str
    within_ns: int


@frozen
class MachineConfig:
    """``source`` is the file's name for messages, ``folder`` the absolute path that it lies in.

    ``interrupts`` and ``pit`` are None where the file doesn't say: pykvm/config/backend.py tells then.
    """

    name: str
    folder: str
    source: str
    cpus: CpusConfig
    memory: MemoryConfig
    kernel: KernelConfig | None
    firmware: str
    backend: str
    interrupts: str | None
    pit: str | None
    hpet: bool
    display: str
    transport: str
    devices: tuple[SerialConfig | DebugExitConfig, ...]
    on: OnConfig
    expect: ExpectConfig | None
