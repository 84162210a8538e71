"""What the host says of itself: its kernel, its KVM driver, its processor."""

from __future__ import annotations

import os

from pykvm.frozen import frozen

MODULES = "/sys/module"


@frozen
class Facts:
    """``driver`` is KVM's module for this processor: a name to be read, and never to decide by."""

    release: str
    version: str
    driver: str
    parameters: str
    cpu: str
    flags: str

    @property
    def key(self) -> tuple[str, ...]:
        """What the result of a probe depends on."""
        return self.release, self.version, self.driver, self.parameters, self.cpu, self.flags


def facts(modules: str = MODULES, cpuinfo: str = "/proc/cpuinfo") -> Facts:
    """Read them; what can't be read is empty."""
    kernel = os.uname()
    driver = ""
    try:
        driver = ", ".join(sorted(name for name in os.listdir(modules) if name.startswith("kvm_")))
    except OSError:  # no /sys in this container
        driver = ""
    folders = [os.path.join(modules, name, "parameters") for name in ("kvm", *driver.split(", ")) if name]
    said = _cpuinfo(cpuinfo)
    return Facts(
        release=kernel.release,
        version=kernel.version,
        driver=driver,
        parameters="; ".join(filter(None, map(_parameters, folders))),
        cpu=said.get("model name", ""),
        flags=said.get("flags", ""),
    )


def _parameters(folder: str) -> str:
    """The parameters of a module, as ``name=value`` words."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return ""
    return " ".join(f"{name}={_first_line(os.path.join(folder, name))}" for name in names)


def _cpuinfo(path: str) -> dict[str, str]:
    """The first processor's lines."""
    said: dict[str, str] = {}
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                name, colon, value = line.partition(":")
                if not colon:
                    break
                said[name.strip()] = value.strip()
    except OSError:
        return said
    return said


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline().strip()
    except OSError:  # some are for root only
        return "?"
