"""What tests/bench/run measures: small kernels under pykvm, under QEMU, and under the least of monitors."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from guest_programs import Failure
from rows import MOST, RATIO, SPEED, Row
from watched import SETTLE, Watched

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Numbers = dict[str, float]

KERNELS = Path(__file__).parent / "kernels"
LOADING = Path(__file__).with_name("loading.py")
LOAD = 1 << 20  # where guest.S is linked to
MEMORY = 16  # MiB of the guest
LONG = 60.0  # seconds for one run that takes a few
EXITS = 100_000
SENT = 200_000  # bytes to the serial port
TRANSLATED_SENT = 800_000
FIFO_DEPTH = 16
IPIS = 20_000
DRAWN = 64 << 10  # characters on the screen
TRANSLATED_DRAWN = 1024 << 10
HELLO = 40  # bytes that the guest hello sends
QEMU_DONE = 1  # isa-debug-exit's status for 0
BAREST = "microvm,pit=off,pic=off,rtc=off,acpi=off"
VMS = 20
IDLE_SECONDS = 10.0


@dataclass(frozen=True)
class Measure:
    """A name, its floors as rows to be filled, and what to run for each side: numbers by the rows' names."""

    name: str
    rows: tuple[Row, ...]
    ours: Callable[[], Numbers]
    theirs: Callable[[], Numbers]
    peer: str


def measured(measures: Sequence[Measure], times: int, say: Callable[[str], None]) -> list[str]:
    """Run each so often, both sides in turn, and fill its rows; what went wrong."""
    failures = []
    for turn in range(times):
        for measure in measures:
            say(f"{turn + 1}/{times} {measure.name}")
            for run, ours in ((measure.ours, True), (measure.theirs, False)):
                try:
                    numbers = run()
                except Failure as error:
                    failures.append(f"{measure.name}, {'pykvm' if ours else measure.peer}: {error}")
                    continue
                for row in measure.rows:
                    if row.name in numbers:
                        (row.ours if ours else row.theirs).append(numbers[row.name])
    return failures


@dataclass
class Bench:
    """Builds what is run, in ``folder``, and knows all measures."""

    folder: Path
    _built: dict[tuple[str, int], Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._loop = self.folder / "kvmloop"
        warnings = ("-Wall", "-Wextra", "-Werror")
        _build("gcc", "-O2", "-pthread", *warnings, "-o", self._loop, KERNELS / "kvmloop.c")

    def measures(self) -> list[Measure]:
        found = [
            self._exit("port out", "OUT", "a byte to port 0x80"),
            self._exit("port in", "IN", "a byte from port 0x80"),
            self._exit("memory hole", "HOLE_WRITE", "32 bits to an address where nothing is"),
            self._exit("port out, user", "OUT", "the same with interrupts: user", user=True),
            self._exit("memory write, user", "MMIO_WRITE", "32 bits to the I/O APIC", user=True),
            self._exit("memory read, user", "MMIO_READ", "32 bits from the I/O APIC", user=True),
            self._ipi(),
        ]
        for name, kernel, each, about in (
            ("serial", "BYTES", 1, "com1, LSR before each byte"),
            ("serial fifo", "FIFO", FIFO_DEPTH, "com1, LSR before each 16 bytes"),
        ):
            found.append(self._serial(name, kernel, each, "kvm", SENT, about))
            found.append(self._serial(f"{name}, transl.", kernel, each, "translate", TRANSLATED_SENT, about))
        found += [self._screen("kvm", DRAWN), self._screen("translate", TRANSLATED_DRAWN)]
        found += [self._hello(), self._alone(), self._many(), self._vmlinux()]
        return found

    def kernel(self, work: str, count: int) -> Path:
        """guest.S, built to do ``work`` so often."""
        if (work, count) not in self._built:
            made = self.folder / f"{work.lower()}-{count}"
            link = f"-Wl,--oformat=binary,-Ttext={LOAD:#x},--build-id=none,-e,start"
            options = ("-m32", "-nostdlib", "-static", "-no-pie", f"-D{work}", f"-DCOUNT={count}", link)
            _build("gcc", *options, "-o", made, KERNELS / "guest.S")
            self._built[work, count] = made
        return self._built[work, count]

    def _exit(self, name: str, work: str, about: str, *, user: bool = False) -> Measure:
        kernel = self.kernel(work, EXITS)
        settings = ("interrupts=user",) if user else ()
        loop = [str(self._loop), str(kernel), *(("user",) if user else ())]
        row = Row(name, RATIO, 1.3, "µs", about)
        return Measure(
            name,
            (row,),
            partial(self._between, name, pykvm(kernel, "kvm", *settings), EXITS),
            partial(self._between, name, loop, EXITS),
            "C loop",
        )

    def _serial(self, name: str, work: str, each: int, backend: str, sent: int, about: str) -> Measure:
        kernel = self.kernel(work, sent // each)
        peer = "kvm" if backend == "kvm" else "tcg"
        return Measure(
            name,
            (Row(name, SPEED, 1.0, "µs/B", about),),
            partial(self._between, name, pykvm(kernel, backend), sent),
            partial(self._between, name, qemu(kernel, peer), sent),
            f"QEMU {peer}",
        )

    def _ipi(self) -> Measure:
        """An interrupt to a CPU that halts, and its answer to one that has halted meanwhile."""
        name, kernel = "ipi", self.kernel("IPI", IPIS)
        return Measure(
            name,
            (Row(name, RATIO, 1.2, "µs", "to a second CPU and back, both halted"),),
            partial(self._between, name, pykvm(kernel, "kvm", "cpus=2"), IPIS),
            partial(self._between, name, [str(self._loop), str(kernel), "two"], IPIS),
            "C loop",
        )

    def _screen(self, backend: str, drawn: int) -> Measure:
        name = "screen" if backend == "kvm" else "screen, transl."
        kernel = self.kernel("VGA", drawn)
        peer = "kvm" if backend == "kvm" else "tcg"
        words = [*qemu(kernel, peer, board="pc"), "-vga", "std"]
        return Measure(
            name,
            (
                Row(
                    name,
                    RATIO,
                    1.5,
                    "µs/B",
                    f"{drawn >> 10} Ki characters in text mode, in lines that scroll",
                ),
            ),
            partial(self._between, name, pykvm(kernel, backend), drawn),
            partial(self._between, name, words, drawn),
            f"QEMU {peer}",
        )

    def _between(self, name: str, words: list[str], count: int) -> Numbers:
        """Microseconds for each of ``count`` things that the guest does between its first and last byte."""
        with Watched(words, str(self.folder)) as guest:
            start = guest.until(b"b", LONG)
            end = guest.until(b"e", LONG)
        return {name: (end - start) / count * 1e6}

    def _hello(self) -> Measure:
        """The guest of that name; in QEMU one that sends as many bytes, but starts by multiboot."""
        words = qemu(self.kernel("SEND", HELLO - 2), "kvm", board=BAREST)

        def measure(words: list[str], begin: bytes, status: int) -> Numbers:
            with Watched(words, str(self.folder)) as guest:
                output = guest.until(begin, LONG)
                return {"hello, output": output, "hello": guest.until_end(LONG, status)}

        rows = (
            Row("hello", RATIO, 2.0, "s", f"whole process, {HELLO} bytes to com1 in it"),
            Row("hello, output", RATIO, 2.0, "s", "until the first of them"),
        )
        ours = partial(measure, [*command(), "boot", "hello"], b"H", 0)
        return Measure("hello", rows, ours, partial(measure, words, b"b", QEMU_DONE), "QEMU kvm")

    def _vmlinux(self) -> Measure:
        """Without a guest: the loader beside a program that reads the file into memory that is as new."""
        image = self.folder / "vmlinux"
        script = [sys.executable, str(LOADING)]

        def measure(work: str) -> Numbers:
            if not image.exists():
                _build(*script, "make", image)
            done = subprocess.run([*script, work, str(image)], capture_output=True, text=True, timeout=LONG)
            if done.returncode:
                raise Failure(done.stderr)
            return {"vmlinux": float(done.stdout)}

        row = Row("vmlinux", RATIO, 2.0, "s", "an ELF kernel of 60 MB parsed and loaded")
        return Measure("vmlinux", (row,), partial(measure, "load"), partial(measure, "read"), "read")

    def _alone(self) -> Measure:
        kernel = self.kernel("IDLE", 1)

        def measure(words: list[str]) -> Numbers:
            with Watched(words, str(self.folder)) as guest:
                guest.until(b"b", LONG)
                used = guest.cpu_seconds_in(IDLE_SECONDS)
                return {"memory": guest.beyond(MEMORY << 20) / (1 << 20), "idle": used}

        rows = (
            Row("memory", MOST, 30.0, "MiB", "resident beyond the guest's RAM"),
            Row("idle", MOST, 0.1, "s", f"CPU time of a halted guest in {IDLE_SECONDS:.0f} s"),
        )
        ours, theirs = pykvm(kernel, "kvm"), qemu(kernel, "kvm")
        return Measure("idle", rows, partial(measure, ours), partial(measure, theirs), "QEMU kvm")

    def _many(self) -> Measure:
        kernel = self.kernel("IDLE", 1)

        def measure(words: list[str]) -> Numbers:
            with ExitStack() as stack:
                start = time.monotonic()
                guests = [stack.enter_context(Watched(words, str(self.folder))) for _ in range(VMS)]
                for guest in guests:
                    guest.until(b"b", LONG)
                printed = time.monotonic() - start
                time.sleep(SETTLE)
                return {
                    f"{VMS} at once": printed,
                    f"{VMS}, memory": max(guest.beyond(MEMORY << 20) for guest in guests) / (1 << 20),
                    f"{VMS}, shared": max(guest.own(MEMORY << 20) for guest in guests) / (1 << 20),
                }

        rows = (
            Row(f"{VMS} at once", RATIO, 2.0, "s", "from the first start until all have printed"),
            Row(f"{VMS}, memory", MOST, 30.0, "MiB", "the largest one's resident beyond its guest's RAM"),
            Row(f"{VMS}, shared", MOST, 20.0, "MiB", "the same with what they share divided among them"),
        )
        ours, theirs = pykvm(kernel, "kvm"), qemu(kernel, "kvm")
        return Measure("many", rows, partial(measure, ours), partial(measure, theirs), "QEMU kvm")


def pykvm(kernel: Path | str, backend: str, *settings: str, memory: int = MEMORY) -> list[str]:
    """The command line that boots ``kernel``."""
    words = (f"backend={backend}", f"memory={memory}M", *settings)
    return [
        *(*command(), "boot", "--kernel", str(kernel)),
        *(word for each in words for word in ("--set", each)),
    ]


def command() -> list[str]:
    """pykvm, as a user starts it: by the console script beside this Python."""
    script = Path(sys.executable).with_name("pykvm")
    return [str(script)] if script.exists() else [sys.executable, "-m", "pykvm"]


def qemu(kernel: Path | str, accelerator: str, memory: int = MEMORY, board: str = "microvm") -> list[str]:
    """The same for QEMU, as small as it gets: microvm. The CPU is one that host A takes (HOSTS.md)."""
    if shutil.which("qemu-system-x86_64") is None:
        raise Failure("no QEMU here; apt-get install qemu-system-x86")
    cpu = "host,arch-capabilities=off" if accelerator == "kvm" else "max"
    options = "-nodefaults -no-user-config -display none -serial stdio -device isa-debug-exit,iobase=0xf4"
    return [
        *("qemu-system-x86_64", "-M", board, "-accel", accelerator, "-cpu", cpu, "-m", str(memory)),
        *(*options.split(), "-kernel", str(kernel)),
    ]


def _build(*command: str | Path) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise Failure(f"{command[-1]} doesn't build:\n{done.stderr}")
