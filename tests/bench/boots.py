"""What tests/bench/run --boots measures: Linux, under pykvm over KVM and in QEMU's microvm.

And pykvm beside itself: interrupt controllers that are pykvm's own, and KVM's.
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import guest_programs as guests
from guest_programs import Failure
from monitors import Measure, pykvm, qemu
from rows import RATIO, Row
from watched import Watched

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from monitors import Numbers

LONG = 300.0  # seconds for one boot
PROMPT = b"/root # "
AT_INIT = b"at init"

#: The first program of the guest that is measured to its end. microvm's ends by a reset (reboot=t: a triple
#: fault) and -no-reboot; to pykvm a triple fault is a crash, so there it is the power switch.
INIT = f"""#!/bin/busybox sh
busybox mount -t proc proc /proc
busybox echo {AT_INIT.decode()}
busybox grep -q reboot=t /proc/cmdline && busybox reboot -f
busybox poweroff -f
"""


#: From when on time is taken.
SPANS = {"whole": "from the process's start", "run": "from the first KVM_RUN"}


# QEMU's board has a clock (rtc=on), as pykvm's has: without one Linux looks for it for seconds. The guest
# "linux" doesn't look in ACPI for a serial port's interrupt, and microvm's ACPI tells Linux that there are no
# legacy interrupts: that of com1 never comes. So no ACPI for it.


@dataclass(frozen=True)
class Boot:
    """What is booted with how many MiB, how far, and the floors: by the keys of SPANS."""

    name: str
    about: str
    kernel: str
    initrd: str
    memory: int
    cmdline: str
    done: Callable[[Watched], float]
    board: str  # QEMU's
    limits: dict[str, float]
    cpus: int = 1

    def numbers(self, whole: float, start: float) -> Numbers:
        """The rows' numbers for a boot of ``whole`` seconds whose guest began to run at ``start``."""
        return {f"{self.name}, whole": whole, f"{self.name}, run": whole - start}


class Boots:
    """Knows the measures; all they leave is in ``folder``, pykvm's cache too."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._warm: set[tuple[str, Callable[[Boot], Numbers]]] = set()

    def measures(self) -> list[Measure]:
        off = guests.initramfs(self._folder / "off.cpio", INIT, {})
        debian = Boot(
            name="debian",
            about="Debian's 6.12 cloud kernel to init and off",
            kernel=guests.kernel("debian"),
            initrd=str(off),
            memory=512,
            cmdline="console=ttyS0 quiet",
            done=_off,
            board="microvm,rtc=on",
            limits={"whole": 1.2, "run": 0.8},
        )
        linux = Boot(
            name="linux",
            about="the guest linux to its prompt",
            kernel=guests.kernel("linux"),
            initrd=guests.shell_initramfs(),
            memory=256,
            cmdline="console=ttyS0",
            done=_prompt,
            board="microvm,acpi=off,rtc=on",
            limits={"run": 1.0},
        )
        several = [
            replace(
                debian,
                name=f"cpus {cpus}",
                about=f"the same kernel to init, cpus: {cpus}",
                done=_init,
                limits={"run": 1.0},
                cpus=cpus,
            )
            for cpus in (1, 2, 4)
        ]
        boots = (debian, linux, *several)
        return [*(self._measure(boot) for boot in boots), self._interrupts(debian)]

    def _interrupts(self, boot: Boot) -> Measure:
        name, about = f"interrupts, {boot.name}", f"{boot.about}, {SPANS['run']}, interrupts: user"
        row = Row(name, RATIO, 2.0, "s", about)

        def side(place: str, boot: Boot) -> Numbers:
            whole, start = self._boot(boot, f"interrupts={place}")
            return {name: whole - start}

        user, kernel = (partial(self._when_warm, partial(side, place), boot) for place in ("user", "kernel"))
        return Measure(name, (row,), user, kernel, "pykvm, interrupts: kernel")

    def _measure(self, boot: Boot) -> Measure:
        rows = tuple(
            Row(f"{boot.name}, {span}", RATIO, limit, "s", f"{boot.about}, {SPANS[span]}")
            for span, limit in boot.limits.items()
        )
        ours, theirs = (
            partial(self._when_warm, self._ours, boot),
            partial(self._when_warm, self._theirs, boot),
        )
        return Measure(boot.name, rows, ours, theirs, "QEMU microvm")

    def _when_warm(self, run: Callable[[Boot], Numbers], boot: Boot) -> Numbers:
        """The first run of each side isn't counted: it fills caches, pykvm's, Python's and the host's."""
        if (boot.name, run) not in self._warm:
            self._warm.add((boot.name, run))
            run(boot)
        return run(boot)

    def _ours(self, boot: Boot) -> Numbers:
        return boot.numbers(*self._boot(boot))

    def _boot(self, boot: Boot, *settings: str) -> tuple[float, float]:
        """A boot of pykvm's: how long it took, and when the guest began to run."""
        report = self._folder / f"{boot.name}.json"
        words = [
            *pykvm(boot.kernel, "kvm", f"cpus={boot.cpus}", *settings, memory=boot.memory),
            *("--set", f"kernel.cmdline={boot.cmdline}"),
            *("--initrd", boot.initrd, "--report", str(report)),
        ]
        with Watched(words, str(self._folder)) as guest:
            whole = boot.done(guest)
        return whole, json.loads(report.read_text())["seconds"]["first_run"]

    def _theirs(self, boot: Boot) -> Numbers:
        """Two boots: as users start it, and one that is set up and waits for ``cont`` (-S)."""
        words = [
            *qemu(boot.kernel, "kvm", boot.memory, boot.board),
            *("-smp", str(boot.cpus), "-no-reboot"),
            *("-initrd", boot.initrd, "-append", f"{boot.cmdline} reboot=t"),
        ]
        with Watched(words, str(self._folder)) as guest:
            whole = boot.done(guest)
        here, there = socket.socketpair()
        with here, here.makefile("rwb", buffering=0) as control:
            with there:
                words += ["-S", "-chardev", f"socket,id=qmp,fd={there.fileno()}", "-mon", "qmp,mode=control"]
                guest = Watched(words, str(self._folder), inherits=[there.fileno()])
            with guest:
                here.settimeout(LONG)
                told = control.readline()  # its greeting
                for command in ("qmp_capabilities", "query-status", "cont"):
                    start = guest.seconds()
                    control.write(b'{"execute": "%s"}\n' % command.encode())
                    told = control.readline() if command != "cont" else told
                if b"prelaunch" not in told:
                    raise Failure(f"QEMU isn't ready to run its guest: {told.decode()}")
                run = boot.done(guest) - start
        return boot.numbers(whole, whole - run)


def _prompt(guest: Watched) -> float:
    return guest.until(PROMPT, LONG)


def _init(guest: Watched) -> float:
    return guest.until(AT_INIT, LONG)


def _off(guest: Watched) -> float:
    _init(guest)
    return guest.until_end(LONG)
