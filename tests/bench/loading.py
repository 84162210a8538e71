"""How long it takes to load a vmlinux of 60 MB, and to read as much: each in a process of its own.

    loading.py make FILE     an ELF file with segments as a vmlinux has them
    loading.py load FILE     pykvm parses it and puts it into a guest's memory
    loading.py read FILE     its bytes are read into memory that is as new

Seconds are printed, of the quicker of two times: what Python takes to import is in other measures.
"""

from __future__ import annotations

import mmap
import os
import sys
import time
from struct import pack

MIB = 1 << 20
BASE = 16 * MIB
VIRTUAL = 0xFFFF_FFFF_8000_0000
SEGMENTS = ((0, 24 * MIB, 0), (24 * MIB, 30 * MIB, 0), (56 * MIB, 6 * MIB, 4 * MIB))
"""Offset from BASE, bytes in the file, bytes of .bss: text, data that isn't written, the rest."""
MEMORY = 256 * MIB
EHDR, PHDR, PAGE = 64, 56, 4096


def make(path: str) -> None:
    """System V ABI, "ELF Header", "Program Header": EM_X86_64, ET_EXEC, PT_LOAD."""
    ident = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)
    entry = BASE
    with open(path, "wb") as file:
        file.write(
            ident + pack("<HHIQQQIHHHHHH", 2, 62, 1, entry, EHDR, 0, 0, EHDR, PHDR, len(SEGMENTS), 0, 0, 0)
        )
        offset = PAGE
        for at, size, bss in SEGMENTS:
            gpa = BASE + at
            file.write(pack("<IIQQQQQQ", 1, 7, offset, VIRTUAL + gpa, gpa, size, size + bss, PAGE))
            offset += size
        file.write(bytes(PAGE - file.tell()))
        for _, size, _ in SEGMENTS:
            for _ in range(size // MIB):
                file.write(os.urandom(MIB))


def load(path: str) -> float:
    from pykvm.boot.image import Image
    from pykvm.boot.load import load as put
    from pykvm.config.model import KernelConfig
    from pykvm.memory import GuestMemory

    given = {"format": "auto", "entry": "auto", "load": None, "start": None, "cmdline": "", "initrd": ()}
    memory = GuestMemory.pc(MEMORY)
    try:
        began = time.monotonic()
        with Image.open(path) as image:
            entry = put(memory, image, [], KernelConfig(image=path, **given))
        took = time.monotonic() - began
    finally:
        memory.close()
    assert (entry.format, entry.address) == ("elf", BASE)
    return took


def read(path: str) -> float:
    began = time.monotonic()
    file = os.open(path, os.O_RDONLY)
    size = os.fstat(file).st_size
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        view = memoryview(memory)
        done = 0
        while done < size:
            done += os.preadv(file, [view[done:]], done)
        took = time.monotonic() - began
        view.release()
    os.close(file)
    return took


if __name__ == "__main__":
    work, path = sys.argv[1:]
    if work == "make":
        make(path)
    else:
        run = {"load": load, "read": read}[work]
        print(min(run(path), run(path)))
