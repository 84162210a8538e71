"""Which back end runs a machine on this host, decided by what was measured and never by a name."""

from __future__ import annotations

import os

from pykvm.config.backend import asks_for_kvm
from pykvm.errors import HostError
from pykvm.frozen import frozen
from pykvm.host.speed import INTERPRETED, UNKNOWN, kind
from pykvm.kvm.system import Kvm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pykvm.config.model import MachineConfig
    from pykvm.host.kept import Kept

ASKED = "the machine asks for it"
KVM, TRANSLATE = "kvm", "translate"


@frozen
class Choice:
    """``backend`` is kvm or translate, ``why`` a part of a sentence.

    ``mips`` is the measured speed of ring 0 under KVM, None where it wasn't measured. ``for_linux`` is why
    Linux is refused all the same, or nothing.
    """

    backend: str
    why: str
    mips: float | None = None
    for_linux: str = ""

    def report(self) -> dict[str, Any]:
        """What the report says of the host."""
        told: dict[str, Any] = {
            "backend": self.backend,
            "why": self.why,
            "kernel": os.uname().release,
            "ring0": UNKNOWN if self.mips is None else kind(self.mips),
        }
        if self.mips is not None:
            told["ring0_mips"] = round(self.mips, 1)
        return told


def choose(config: MachineConfig) -> Choice:
    """The back end for ``config``. /dev/kvm is opened only where it may come to be used.

    Raises HostError where this host has no back end that the machine file allows.
    """
    if config.backend == TRANSLATE:
        reason = translation_impossible()
        if reason is not None:
            raise _no_translation(reason)
        return Choice(backend=TRANSLATE, why=ASKED)
    if config.backend == KVM:
        Kvm().close()
        return Choice(backend=KVM, why=ASKED)
    asked = asks_for_kvm(config)
    if asked:
        try:
            with Kvm() as kvm:
                return _only_kvm(ring0_mips(kvm), f"`{asked}` asks for it")
        except HostError as error:
            raise HostError(
                f"{error.what}, and `{asked}` asks for KVM",
                where=error.where,
                remedy=f"leave that out, or {error.remedy}" if error.remedy else "leave that out",
            ) from error
    try:
        with Kvm() as kvm:
            measured = ring0_mips(kvm)
    except HostError as error:
        return without_kvm(error, translation_impossible())
    return with_kvm(measured, translation_impossible)


def with_kvm(measured: float, impossible: Callable[[], str | None]) -> Choice:
    """What ``auto`` takes where KVM's ring 0 has this speed; ``impossible()`` is asked where it is slow."""
    if kind(measured) != INTERPRETED:
        return Choice(backend=KVM, why="it runs a guest's kernel on the hardware", mips=measured)
    reason = impossible()
    if reason is not None:
        return _only_kvm(measured, f"translation is impossible here: {reason}")
    return Choice(
        backend=TRANSLATE,
        why=f"this host's KVM interprets a guest's kernel, at {measured:.1f} million instructions a second",
        mips=measured,
    )


def without_kvm(error: HostError, impossible: str | None) -> Choice:
    """What ``auto`` takes where KVM fails with ``error``. HostError where translation can't help."""
    if impossible is None:
        return Choice(backend=TRANSLATE, why=f"{error.where}: {error.what}" if error.where else error.what)
    raise HostError(
        f"{error.what}, and translation is impossible here: {impossible}",
        where=error.where,
        remedy=error.remedy,
    ) from error


def require_linux(choice: Choice) -> None:
    """Raises HostError where Linux has no place in what was chosen."""
    if choice.for_linux:
        raise HostError(
            choice.for_linux,
            where="/dev/kvm",
            remedy="run it where KVM has hardware virtualization, nested or not",
        )


def translation_impossible() -> str | None:
    """Why this host can't run translated code; None where it can."""
    from pykvm.translate import usable  # late: where KVM is quick nobody needs the translator

    return usable()


def ring0_mips(kvm: Kvm, *, fresh: bool = False) -> float:
    """Million instructions a second in the guest's ring 0: measured once on a host, then remembered."""
    kept = kept_speed()
    text = None if fresh else kept.read()
    if text is not None:
        return float(text)
    measured = _measure(kvm)
    kept.write(f"{measured:.1f}")
    return measured


def kept_speed() -> Kept:
    """Where the speed of ring 0 is remembered."""
    from pykvm.host.kept import Kept  # late: a guest that isn't measured shouldn't wait for it

    return Kept("the speed of ring 0", "host/speed.py", "host/guest.py")


def _only_kvm(measured: float, why: str) -> Choice:
    """KVM, where there is no choice: Linux is refused where it would run for an hour and not arrive."""
    for_linux = ""
    if kind(measured) == INTERPRETED:
        for_linux = (
            f"this host's KVM interprets the guest's kernel code (about {measured:.1f} million instructions "
            f"a second, where hardware does thousands), too slow and incomplete for Linux, and {why}"
        )
    return Choice(backend=KVM, why=why, mips=measured, for_linux=for_linux)


def _no_translation(reason: str) -> HostError:
    return HostError(
        f"this host can't run translated code: {reason}",
        where="backend: translate",
        remedy="run it by KVM (`backend: kvm`), or on another host",
    )


def _measure(kvm: Kvm) -> float:
    from pykvm.host.guest import ProbeGuest
    from pykvm.host.speed import mips

    guest = ProbeGuest(kvm)
    try:
        guest.show(kvm.supported_cpuid())
        return mips(guest)
    finally:
        guest.close()
