"""Builds the programs of this folder, runs them here and in guests, and compares what they print.

A guest is a kernel of pykvm's guests with an initramfs of busybox and the programs. Its back end is ``kvm``
or ``translate`` (pykvm's), or ``tcg``: QEMU's translator, to see whether a difference is pykvm's or the
program's.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from pykvm.boot import debian
from pykvm.boot.cpio import Archive
from pykvm.cache import Cache, key_of
from pykvm.guests import recipe

FOLDER = Path(__file__).parent
LINUX = FOLDER.parents[1] / "guests" / "linux"
PROGRAMS = tuple(sorted(path.stem for path in FOLDER.glob("*.c")))
SMOKE = "smoke"
BACKENDS = ("kvm", "translate", "tcg")
KERNELS = ("linux", "debian")

#: No frame below the stack pointer (the programs push in inline assembly), no surprise from optimization.
COMPILE = ["gcc", "-O2", "-static", "-pthread", "-mno-red-zone", "-frounding-math", "-D_GNU_SOURCE"]
WARNINGS = ["-Wall", "-Wextra", "-Werror"]

#: The shell's environment on both sides. Without a PATH busybox runs its own applets.
ENVIRONMENT = {"PATH": "/nonexistent", "HOME": "/", "TZ": "UTC"}

BEGIN, END = "#### begin", "#### end"
ROOM = 32 << 20  # bytes on the disk for all programs
LONGEST = 180  # seconds for one program in a guest
LONG = 900  # seconds for a guest; a busy host is slow


class Failure(Exception):
    """A guest or a program didn't do what it should; the text says which and how."""


@dataclass(frozen=True)
class Ran:
    """What one program printed and how it ended; no status if it didn't end."""

    output: str
    status: int | None


def compiled(folder: Path, sources: Path = FOLDER) -> dict[str, Path]:
    """All C programs of ``sources``, built into ``folder``: static, as a guest has no libraries."""
    made = {}
    for source in sorted(sources.glob("*.c")):
        made[source.stem] = folder / source.stem
        command = [*COMPILE, *WARNINGS, "-o", str(made[source.stem]), str(source)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise Failure(f"{source.name} doesn't compile:\n{done.stderr}")
    return made


def kept(folder: Path) -> dict[str, Path]:
    """As `compiled` of this folder, but once: the cache keeps them, for the lab too, whose gcc is slow."""

    def fill(work: str) -> dict[str, str]:
        return {name: str(path) for name, path in compiled(Path(work)).items()}

    version = subprocess.run([COMPILE[0], "--version"], capture_output=True, check=True).stdout
    sources = [path.read_bytes() for path in sorted(FOLDER.glob("*.[ch]"))]
    parts = Cache().make(key_of("pykvm's test programs", " ".join(COMPILE), version, *sources), fill, ROOM)
    made = {}
    for name, path in parts.items():
        made[name] = folder / name
        shutil.copyfile(path, made[name])
        made[name].chmod(0o755)
    return made


def busybox() -> Path:
    """Debian's static busybox; guest and host run the same file."""
    path = shutil.which("busybox")
    if path is None:
        raise Failure("no busybox here; apt-get install busybox-static")
    return Path(path)


def samples() -> bytes:
    """What the smoke test unpacks: busybox reads xz, but doesn't write it. The same bytes each time."""
    text = "".join(f"{number} {number * number % 9973:x}\n" for number in range(1, 3000)).encode()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz") as archive:
        member = tarfile.TarInfo("samples/text")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    return out.getvalue()


def native(program: Path) -> Ran:
    """Run a program on this host."""
    done = subprocess.run(
        [program], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=LONGEST
    )
    return Ran(done.stdout + done.stderr, done.returncode)


def native_smoke(folder: Path) -> Ran:
    """Run busybox's smoke test on this host, in ``folder``, which is empty."""
    (folder / "samples.tar.xz").write_bytes(samples())
    (folder / "smoke.sh").write_bytes((FOLDER / "smoke.sh").read_bytes())
    done = subprocess.run(
        [busybox(), "sh", "smoke.sh"],
        cwd=folder,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        umask=0o022,
        timeout=LONGEST,
    )
    return Ran(done.stdout, done.returncode)


def all_native(programs: dict[str, Path], folder: Path) -> dict[str, Ran]:
    """Each program and the smoke test, run on this host; ``folder`` is empty."""
    ran = {name: native(program) for name, program in programs.items()}
    return ran | {SMOKE: native_smoke(folder)}


def init(commands: dict[str, str]) -> str:
    """The guest's first program: runs ``commands`` (name to command), says where each begins and ends."""
    environment = " ".join(f"{name}={value}" for name, value in ENVIRONMENT.items())
    lines = [
        "#!/bin/busybox sh",
        "busybox mount -t proc proc /proc",
        "busybox mount -t devtmpfs dev /dev",
        "umask 022",
    ]
    for name, command in commands.items():
        lines += [
            f"echo; echo '{BEGIN}' {name}",
            f"busybox env -i {environment} /bin/busybox timeout {LONGEST} {command} 2>&1 </dev/null",
            f"echo; echo '{END}' {name} $?",
        ]
    return "\n".join([*lines, "busybox poweroff -f", ""])


def initramfs(path: Path, script: str, programs: dict[str, Path]) -> Path:
    """A first root file system with busybox, the programs in /programs, the smoke test in /smoke."""
    with open(path, "wb") as out:
        archive = Archive(out)
        for folder in ("bin", "dev", "proc", "sys", "programs", "smoke"):
            archive.directory(folder)
        archive.directory("tmp", 0o1777)
        archive.character_device("dev/console", 5, 1)
        archive.file("bin/busybox", busybox().read_bytes(), 0o755)
        archive.link("bin/sh", "busybox")
        archive.file("init", script.encode(), 0o755)
        archive.file("smoke/samples.tar.xz", samples())
        archive.file("smoke/smoke.sh", (FOLDER / "smoke.sh").read_bytes())
        for name, program in programs.items():
            archive.file(f"programs/{name}", program.read_bytes(), 0o755)
        archive.close()
    return path


def commands(names: list[str]) -> dict[str, str]:
    """What the guest runs under these names."""
    smoke = "/bin/busybox sh -c 'cd /smoke && exec /bin/busybox sh smoke.sh'"
    return {name: smoke if name == SMOKE else f"/programs/{name}" for name in names}


def kernel(name: str) -> str:
    """The path of a kernel: the guest linux's (built if it isn't in the cache), or Debian's for clouds."""
    if name == "debian":
        return debian.kernel("linux-image-6.12-cloud")
    return recipe.built(str(LINUX / "kernel"), Cache())


def shell_initramfs() -> str:
    """The path of the initramfs of the guest ``linux``, which ends in a shell's prompt."""
    return recipe.built(str(LINUX / "initramfs"), Cache())


def command(
    backend: str, image: str, initrd: str | Path, *, memory: int = 512, append: str = "quiet", cpus: int = 1
) -> list[str]:
    """The command line that boots it, with the console on standard output."""
    words = f"console=ttyS0 panic=-1 {append}".strip()
    if backend == "tcg":
        machine = "-accel tcg -cpu max -M pc -display none -no-reboot -nodefaults -serial stdio"
        return [
            *("qemu-system-x86_64", *machine.split(), "-m", str(memory), "-smp", str(cpus)),
            *("-kernel", image, "-initrd", str(initrd), "-append", words),
        ]
    settings = (f"backend={backend}", f"cpus={cpus}", f"memory={memory}M", f"kernel.cmdline={words}")
    return [
        *(sys.executable, "-m", "pykvm", "boot", "--kernel", image, "--initrd", str(initrd)),
        *(word for setting in settings for word in ("--set", setting)),
    ]


def boot(words: list[str], *, timeout: float) -> subprocess.CompletedProcess[str]:
    """Run a guest to its end; one that takes too long gives what it printed, and the status 124."""
    with subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        cwd=FOLDER.parents[1],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as guest:
        try:
            output, errors = guest.communicate(timeout=timeout)
            status = guest.returncode
        except subprocess.TimeoutExpired:
            guest.kill()
            output, errors = guest.communicate()
            status = 124
    return subprocess.CompletedProcess(words, status, output, errors)


def run_in_guest(
    backend: str,
    image: str,
    names: list[str],
    programs: dict[str, Path],
    folder: Path,
    *,
    timeout: float,
    cpus: int = 1,
) -> tuple[dict[str, Ran], list[subprocess.CompletedProcess[str]]]:
    """Run ``names`` in a guest; where it dies of one, in another guest from the next one on."""
    ran: dict[str, Ran] = {}
    boots = []
    left = names
    while left:
        initrd = initramfs(folder / "initramfs.cpio", init(commands(left)), programs)
        boots.append(boot(command(backend, image, initrd, cpus=cpus), timeout=timeout))
        ran |= parsed(boots[-1].stdout)
        begun = [name for name in left if name in ran]
        if not begun:  # not even the first one
            break
        left = left[left.index(begun[-1]) + 1 :]
    return ran, boots


@dataclass(frozen=True)
class Guests:
    """What the programs printed in a back end's guests, and how each guest ended."""

    ran: dict[str, Ran]
    boots: list[subprocess.CompletedProcess[str]]

    def faults(self, name: str, here: Ran) -> list[str]:
        """How a program's run in the guest differs from the one here; empty if it doesn't."""
        if name not in self.ran:
            return [f"{name} wasn't reached:\n{self.boots[-1].stdout[-2000:]}"]
        return differences(here, self.ran[name])

    def ends(self) -> list[int]:
        """The status of each guest: one, and 0, where all is right."""
        return [done.returncode for done in self.boots]

    def said(self) -> list[tuple[str, str]]:
        return [(done.stdout[-1000:], done.stderr[-1000:]) for done in self.boots]


def run_all(
    backend: str, names: list[str], programs: dict[str, Path], folder: Path, *, cpus: int = 1
) -> Guests:
    """`run_in_guest` of the guest ``linux``, with all the time that a busy host may need."""
    image = kernel("linux")
    return Guests(*run_in_guest(backend, image, names, programs, folder, timeout=LONG, cpus=cpus))


def parsed(console: str) -> dict[str, Ran]:
    """What each program printed, out of the console's text."""
    text = console.replace("\r", "")
    ran = {}
    begin = re.compile(rf"^{BEGIN} (\S+)\n", re.MULTILINE)
    for match in begin.finditer(text):
        name, rest = match[1], text[match.end() :]
        end = re.search(rf"^{END} {re.escape(name)} (\d+)$", rest, re.MULTILINE)
        if end:
            ran[name] = Ran(rest[: end.start()].removesuffix("\n"), int(end[1]))
        else:
            ran[name] = Ran(rest, None)
    return ran


def differences(here: Ran, there: Ran) -> list[str]:
    """The lines in which a guest's run differs, as sentences. A topic that the guest's CPU lacks is none."""
    found = []
    mine, others = here.output.rstrip("\n").split("\n"), there.output.rstrip("\n").split("\n")
    for number in range(max(len(mine), len(others))):
        host = mine[number] if number < len(mine) else "(nothing)"
        guest = others[number] if number < len(others) else "(nothing)"
        if host != guest and not guest.endswith(" absent"):
            found.append(f"line {number + 1}: host  {host}\n{' ' * len(str(number + 1))}      guest {guest}")
    if here.status != there.status:
        found.append(f"status: host {here.status}, guest {there.status}")
    return found
