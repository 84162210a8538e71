#!/usr/bin/env python3
"""Kernels that others wrote and Debian's packages carry: each is fetched, booted, and says what it should.

    tests/programs/foreign.py [--fetch] [--backend kvm|translate] [NAME …]

fetches (and with --fetch does no more), boots each NAME, or all, and prints a line for each. Packages are
fetched by apt, checked by hash and kept in pykvm's cache; nothing is installed. README.md has the table of
what runs where: ``stated()`` reads it, tests/kvm/test_foreign.py goes by it.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from pykvm.boot.apt import LISTS_SIZE, Apt, files_in
from pykvm.boot.cpio import Archive
from pykvm.cache import Cache, key_of
from pykvm.errors import PykvmError
from pykvm.progress import Progress

FOLDER = Path(__file__).parent
README = FOLDER.parents[1] / "README.md"
LONG = 200  # seconds of a guest; the lab is slow

FLOPPY = "usr/lib/grub-rescue/grub-rescue-floppy.img"
DOM0 = "Panic on CPU 0: dom0 kernel not specified"
I386, PAE = "debian:linux-image-6.1-686", "debian:linux-image-6.1-686-pae"
GRUB = ("GNU GRUB", 0)


@dataclass(frozen=True)
class Foreign:
    """``image`` is a file of ``package``, or the image as the machine file names it where there is none.

    ``says`` is printed by the guest, or (``status`` 125) by pykvm of its end. With status 0 and no
    initramfs the boot ends when that is printed. ``by_hand``: the tests leave it out, as another shows the
    same and to fetch it takes long.
    """

    name: str
    package: str
    image: str
    says: str
    status: int = 0
    arguments: tuple[str, ...] = ()
    initrd: tuple[str, str] | None = None  # package, file
    own_init: bool = False
    by_hand: bool = False


def linux(name: str, image: str, *arguments: str, by_hand: bool = True) -> Foreign:
    arguments = ("--append", "quiet", *arguments)
    return Foreign(name, "", image, "init runs", arguments=arguments, own_init=True, by_hand=by_hand)


def memtest(image: str) -> Foreign:
    little = ("--set", "memory=32M")  # which it goes over quickly
    return Foreign(image, "memtest86+", f"boot/{image}", "Test #2", arguments=little)


def xen(form: str) -> Foreign:
    arguments = (
        "--append",
        "xen com1=115200,8n1 console=com1 no-real-mode",
        "--set",
        f"kernel.format={form}",
    )
    name, package, image = f"Xen, {form}", "xen-hypervisor-4.17-amd64", "boot/xen-4.17-amd64.gz"
    return Foreign(name, package, image, DOM0, 125, arguments)


IMAGES = (
    linux("Linux 6.1, i386", I386, "--set", "cpus=2", by_hand=False),
    linux("the same, unpacking itself", I386, "--set", "kernel.entry=protected"),
    linux("the same, by its 16-bit entry", I386, "--set", "kernel.entry=real"),
    linux("Linux 6.1, i386 with PAE", PAE),
    linux("Linux 6.1 cloud, amd64", "debian:linux-image-6.1-cloud"),
    linux("Linux 6.1, amd64", "debian:linux-image-6.1"),
    linux("Linux 6.12 cloud, amd64", "debian:linux-image-6.12-cloud"),
    linux("Linux 6.12, amd64", "debian:linux-image-6.12"),
    memtest("memtest86+x64.bin"),
    memtest("memtest86+ia32.bin"),
    memtest("memtest86+x64.efi"),
    memtest("memtest86+ia32.efi"),
    Foreign(
        "GNU Mach, multiboot", "gnumach-image-1.8-486", "boot/gnumach-1.8-486.gz",
        "No bootstrap code loaded", arguments=("--append", "gnumach console=com0"),
    ),
    xen("multiboot"),
    xen("multiboot2"),
    Foreign("GRUB invaders, multiboot", "grub-invaders", "boot/invaders.exec", "-*-"),  # on the screen
    Foreign("GRUB's rescue diskette", "grub-rescue-pc", FLOPPY, *GRUB),
    Foreign(
        "GRUB's rescue disk", "grub-rescue-pc", "usr/lib/grub-rescue/grub-rescue-cdrom.iso", *GRUB,
        by_hand=True,
    ),
    Foreign(
        "memdisk with GRUB's diskette", "syslinux-common", "usr/lib/syslinux/memdisk", *GRUB,
        initrd=("grub-rescue-pc", FLOPPY),
    ),
    Foreign("ISOLINUX, of iPXE's image", "ipxe", "usr/lib/ipxe/ipxe.iso", "Loading ipxe.krn... ok"),
    Foreign("iPXE", "ipxe", "boot/ipxe.lkrn", "iPXE initialising devices"),
)  # fmt: skip
NAMES = tuple(image.name for image in IMAGES)
COLUMNS = ("KVM on hardware", "KVM that interprets", "translation")
RUNS = "yes"


def named(name: str) -> Foreign:
    return IMAGES[NAMES.index(name)]


def unpacked(package: str, path: str, cache: Cache, progress: Progress) -> str:
    """Where the file ``path`` of ``package`` lies in the cache; it is fetched if that wasn't done yet."""
    key = key_of("a file of a package of Debian", package, path)

    def fill(folder: str) -> dict[str, str]:
        apt = Apt(cache, progress)
        _, deb = apt.fetch(lambda: apt.get(package), folder)
        for name, _, content in files_in(deb):
            if name == path:
                target = os.path.join(folder, "file")
                Path(target).write_bytes(content.read())
                return {"file": target}
        raise FileNotFoundError(f"{package} has no {path}")

    return cache.make(key, fill, LISTS_SIZE)["file"]


def files(image: Foreign) -> tuple[str, str | None]:
    """The image and the initrd out of packages; a ``debian:`` kernel is fetched too."""
    cache, progress = Cache(), Progress()
    if not image.package:
        from pykvm.boot import debian

        debian.kernel(image.image.removeprefix("debian:"), cache, progress)
        return image.image, None
    initrd = unpacked(*image.initrd, cache, progress) if image.initrd else None
    return unpacked(image.package, image.image, cache, progress), initrd


def initramfs(folder: Path) -> Path:
    """An initramfs whose /init says so and powers off, for any x86 Linux."""
    init, made = folder / "init", folder / "init.cpio"
    subprocess.run(["nasm", "-f", "bin", "-o", init, FOLDER / "init.asm"], check=True)
    with open(made, "wb") as out:
        archive = Archive(out)
        archive.file("init", init.read_bytes(), 0o755)
        archive.close()
    return made


def boot(image: Foreign, folder: Path, *more: str) -> tuple[int, str]:
    """Status, and all that guest and pykvm said."""
    path, initrd = files(image)
    command = [sys.executable, "-m", "pykvm", "boot", "--kernel", path, "--timeout", f"{LONG}s"]
    if image.own_init:
        initrd = str(initramfs(folder))
    elif not image.status:
        command += ["--set", f"expect.output={image.says}", "--set", f"expect.within={LONG}s"]
    command += ["--initrd", initrd] if initrd else []
    done = subprocess.run(
        [*command, *image.arguments, *more],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=2 * LONG,
    )  # fmt: skip
    return done.returncode, done.stdout.decode(errors="replace")


def fault(image: Foreign, status: int, said: str) -> str:
    """What is wrong with how a boot went; empty if nothing is."""
    if status != image.status:
        return f"status {status}, not {image.status}"
    heard = not (image.own_init or image.status)  # then `expect` has, perhaps on the screen
    return "" if heard or image.says in said else f"{image.says!r} is not said"


def stated() -> dict[str, dict[str, str]]:
    """README's table of what runs where: a row's cells by column, by the row's name."""
    lines = README.read_text().splitlines()
    head = next(n for n, line in enumerate(lines) if line.endswith(f"| {' | '.join(COLUMNS)} |"))
    rows = {}
    for line in lines[head + 2 :]:
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) != 1 + len(COLUMNS):
            break
        rows[cells[0]] = dict(zip(COLUMNS, cells[1:], strict=True))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--fetch", action="store_true", help="fetch, and boot nothing")
    parser.add_argument("--backend", choices=("kvm", "translate"), help="the machine file's key")
    parser.add_argument("names", nargs="*", metavar="NAME", default=NAMES)
    given = parser.parse_args()
    more = ("--set", f"backend={given.backend}") if given.backend else ()
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        for image in map(named, given.names):
            began = time.monotonic()
            try:
                if given.fetch:
                    files(image)
                    continue
                found = fault(image, *boot(image, Path(folder), *more))
            except (OSError, PykvmError) as error:
                found = str(error)
            except subprocess.TimeoutExpired:
                found = "pykvm did not end"
            faults += bool(found)
            print(f"{image.name}: {found or RUNS} ({time.monotonic() - began:.1f} s)", flush=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
