"""The image of the kernel that this host runs: ``kernel.image: host``."""

from __future__ import annotations

import os

from pykvm.errors import HostError

#: Where distributions keep it; the last is a link to the newest one, which need not be the running one.
PLACES = (
    "boot/vmlinuz-{release}",
    "usr/lib/modules/{release}/vmlinuz",
    "lib/modules/{release}/vmlinuz",
    "boot/kernel-{release}",
    "vmlinuz",
)

# Documentation/arch/x86/boot.rst: kernel_version is a pointer to a string, less 0x200.
KERNEL_VERSION = 0x20E
REMEDY = "give another kernel: --kernel PATH, or kernel.image: debian:linux-image-cloud-amd64"


def kernel(root: str = "/", release: str | None = None) -> str:
    """The path of the running kernel's image under ``root``. Raises HostError where none can be read."""
    release = release or os.uname().release
    unreadable = ""
    for place in PLACES:
        path = os.path.join(root, place.format(release=release))
        if not os.path.exists(path) or (place == "vmlinuz" and _release_in(path) != release):
            continue
        if os.access(path, os.R_OK):
            return path
        unreadable = unreadable or path
    if unreadable:
        raise HostError(
            "the running kernel's image may not be read by this user",
            where=unreadable,
            remedy=f"sudo chmod a+r {unreadable}, or {REMEDY}",
        )
    where = os.path.join(root, PLACES[0].format(release=release))
    raise HostError("no image of the running kernel is on this host", where=where, remedy=REMEDY)


def _release_in(path: str) -> str:
    """The release that a bzImage says it is, or nothing."""
    try:
        with open(path, "rb") as file:
            start = file.read(0x8000)
    except OSError:
        return ""
    pointer = int.from_bytes(start[KERNEL_VERSION : KERNEL_VERSION + 2], "little") + 0x200
    return start[pointer : pointer + 256].partition(b"\0")[0].partition(b" ")[0].decode("ascii", "replace")
