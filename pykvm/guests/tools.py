"""The programs that a build needs: which are missing, and the one command that brings them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from pykvm.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.progress import Progress


def missing(tools: dict[str, str]) -> list[str]:
    """The packages of ``tools`` (package → a program, or the path of a file) that aren't installed."""
    return [
        package
        for package, sign in tools.items()
        if not (os.path.exists(sign) if sign.startswith("/") else shutil.which(sign))
    ]


def require(tools: dict[str, str], *, yes: bool, progress: Progress) -> None:
    """See that all ``tools`` are there: root is asked whether to install what isn't, or says ``yes`` first.

    Raises HostError that names what is missing, and the command, where it isn't installed.
    """
    packages = missing(tools)
    if not packages:
        return
    words = f"apt-get update && apt-get install -y --no-install-recommends {' '.join(packages)}"
    told = f"to build this, {', '.join(packages)} must be installed"
    if os.geteuid() != 0:
        command = words.replace("apt-get", "sudo apt-get")
        raise HostError(told, remedy=f"let root do it, then try again: {command}")
    if not yes and not _agreed(told, words, progress):
        raise HostError(told, remedy=f"run {words}, or give pykvm guests build the option --yes")
    progress.note(f"running {words}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        status = subprocess.run(
            words, shell=True, stdin=subprocess.DEVNULL, stdout=sys.stderr, env=environment
        ).returncode
    except OSError as error:
        raise HostError(f"{told}, and no shell can be started: {error.strerror}") from error
    still = missing(tools)
    if status or still:
        raise HostError(
            f"the installation ended with status {status}; missing: {', '.join(still) or 'nothing'}",
            where="apt-get",
            remedy="its own messages above say why",
        )


def _agreed(told: str, command: str, progress: Progress) -> bool:
    """Ask at the terminal; where there is none, the answer is no."""
    if sys.stdin is None or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    progress.note(f"{told}. This does it:\n  {command}")
    sys.stderr.write("Run it now? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
