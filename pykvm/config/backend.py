"""What a machine file says with an eye to the back end, and what it means where it doesn't say.

KVM has interrupt controllers and a timer chip in the kernel; the translator works with pykvm's own. The
timer chip in the kernel needs all the controllers there, and can't share its interrupt with an HPET.
"""

from __future__ import annotations

from pykvm.frozen import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.config.model import MachineConfig
    from pykvm.config.node import Node

IN_KERNEL = ("interrupts", "pit")
"""The keys some of whose values, ``ONLY_KVM``, only KVM can give."""
ONLY_KVM = ("kernel", "split")


def check(config: MachineConfig, root: Node) -> None:
    """Raise the error of keys that contradict one another."""
    cpus = config.cpus
    if cpus.max is not None and cpus.max < cpus.count:
        raise root.nearest("cpus.max").error(
            "cpus.max",
            f"'{cpus.max}' is less than the {cpus.count} CPUs that the machine starts with",
            f"write a number from {cpus.count} on, or leave it out",
        )
    for key in IN_KERNEL:
        value = getattr(config, key)
        if config.backend == "translate" and value in ONLY_KVM:
            raise root.nearest(key).error(
                key, f"'{value}' is for KVM, and the back end is translate", "write user, or leave it out"
            )
    if config.interrupts in ("split", "user") and config.pit == "kernel":
        raise root.nearest("pit").error(
            "pit",
            f"'kernel' needs the interrupt controllers there, and they are at {config.interrupts}",
            "write user, or leave it out",
        )
    if config.hpet and config.pit == "kernel":
        raise root.nearest("pit").error(
            "pit",
            "'kernel' can't give its interrupt to the HPET that the file asks for",
            "write user, or leave it out",
        )


def asks_for_kvm(config: MachineConfig) -> str:
    """What in the machine file only KVM can give, beside ``backend: kvm``: ``pit: kernel`` or nothing."""
    values = [(key, getattr(config, key)) for key in IN_KERNEL]
    asked = [f"{key}: {value}" for key, value in values if value in ONLY_KVM]
    return " and ".join(asked)


def on_backend(config: MachineConfig, backend: str) -> MachineConfig:
    """``config`` with nothing left open, on ``kvm`` or ``translate``."""
    interrupts = config.interrupts or ("kernel" if backend == "kvm" else "user")
    pit = config.pit or ("user" if config.hpet or interrupts == "split" else interrupts)
    return replace(config, backend=backend, interrupts=interrupts, pit=pit)
