"""Several translated CPUs: what only their way of standing still makes right."""

from __future__ import annotations

import subprocess
import sys

import kernels
import pytest
import several

LONG = 120
COUNT = 2000

# The kernel `smp`, with room for little code: it is thrown away again and again.
LITTLE_ROOM = f"""
import sys
from pykvm.cli.main import main
from pykvm.translate.blocks import Blocks

resets = []
reset = Blocks.reset
Blocks.full = property(lambda self: self.used > self.first + 0x800)
Blocks.reset = lambda self: (resets.append(1), reset(self))
status = main(["boot", {str(kernels.FOLDER / "smp")!r}, "--set", "backend=translate", "--timeout", "{LONG}s"])
sys.exit(status or (0 if len(resets) > 20 else 99))
"""


def test_locked_operations_of_all_cpus_lose_nothing_interpreted_and_across_pages(tmp_path):
    """Three CPUs in real mode, which is interpreted, and one in emitted code."""
    others = f"""
        mov     ax, 0x4000
        mov     ds, ax
        mov     cx, {COUNT}
.next:  lock inc dword [0xffe]
        lock inc dword [0x1100]
        loop    .next
        lock inc word [cs:0x102]
        cli
        hlt
        jmp     $
"""
    first = f"""
        xor     ebx, ebx
        xor     ecx, ecx
.next:  mov     edx, 1000
.often: lock inc dword [0x41100]
        inc     ebx
        dec     edx
        jnz     .often
        lock inc dword [0x40ffe]
        inc     ecx
        cmp     word [0x30102], 3
        jne     .next
        add     ebx, {3 * COUNT}
        add     ecx, {3 * COUNT}
        mov     al, 1
        cmp     [0x40ffe], ecx
        jne     .end
        mov     al, 2
        cmp     [0x41100], ebx
        jne     .end
        mov     al, 0
.end:   out     0xf4, al
        jmp     $
"""
    status, said, _ = several.boot(tmp_path, "backend: translate", others, first, "--timeout", f"{LONG}s")
    assert status == 0, said


def test_code_is_thrown_away_while_all_cpus_run_it():
    done = subprocess.run(
        [sys.executable, "-c", LITTLE_ROOM],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * LONG,
    )
    assert done.returncode == 0, done.stderr
    assert kernels.differences("smp", done.stdout) == {}


def test_cpus_that_interpret_for_ever_leave_the_others_their_turn(tmp_path):
    first = """
        mov     ecx, 2000
.next:  in      al, 0x61
        dec     ecx
        jnz     .next
        mov     al, 0
        out     0xf4, al
        jmp     $
"""
    status, said, _ = several.boot(tmp_path, "backend: translate", "jmp $", first, "--timeout", f"{LONG}s")
    assert status == 0, said


@pytest.mark.parametrize("name", ["crossing", "interrupted", "pae", "paging32", "selfmod", "stringio", "v86"])
def test_a_cpu_that_is_not_the_only_one_does_what_it_does_alone(name):
    """The other is never started: what is done with an eye to others must come to the same."""
    status, printed, said = kernels.boot(name, "--set", "backend=translate", "--set", "cpus=2")
    assert kernels.differences(name, printed) == {}, said
    assert status == 0, said


def test_a_return_to_ring_3_marks_the_code_segment_and_has_the_stack_of_ring_3(tmp_path):
    """The accessed bit of CS is written when SS is loaded already (SDM vol. 2, IRET)."""
    first = """
        lgdt    [table]
        push    dword 0x23
        push    dword 0x80000
        push    dword 0x3002
        push    dword 0x1b
        push    dword outer
        iret
outer:  mov     dx, ss
        mov     al, 2
        cmp     dx, 0x23
        jne     .end
        mov     al, [linux + 0x1d]
        sub     al, 0xfb
.end:   out     0xf4, al
        jmp     $
        align   8
linux:  dq      0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00cffa000000ffff, 0x00cff2000000ffff
table:  dw      $ - linux - 1
        dd      linux
"""
    status, said, _ = several.boot(tmp_path, "backend: translate", "cli\nhlt", first, "--timeout", f"{LONG}s")
    assert status == 0, said
