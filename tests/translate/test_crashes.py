"""A crash is explained: each planted bug by the fault that began it, its place and what is behind it."""

from __future__ import annotations

import shutil
import subprocess

import crashes
import pytest


def test_every_guest_has_its_bug_told():
    assert sorted([*crashes.BUGS, crashes.SPINS]) == crashes.NAMES


@pytest.mark.parametrize("name", crashes.BUGS)
def test_the_post_mortem_names_the_bug(name, tmp_path):
    ended = crashes.boot(name, "translate", tmp_path)
    crashes.check(name, ended)
    assert ended.crash["fault"]["source"] == "recorded"


def test_a_loop_without_an_end_is_told_at_the_timeout(tmp_path):
    crashes.check_spin(crashes.boot(crashes.SPINS, "translate", tmp_path, "500ms"))


def test_the_names_of_an_elf_kernel_are_told(tmp_path):
    if not shutil.which("ld"):
        pytest.skip("ld is not installed")
    source = tmp_path / "kernel.asm"
    source.write_text("bits 64\nglobal _start\n_start: call deep\nhlt\ndeep: nop\nud2\n")
    subprocess.run(["nasm", "-f", "elf64", "-o", tmp_path / "kernel.o", source], check=True)
    command = ["ld", "-Ttext=0x200000", "-o", tmp_path / "kernel", tmp_path / "kernel.o"]
    subprocess.run(command, check=True)
    (tmp_path / "machine.yaml").write_text("memory: 16M\nkernel: {image: kernel}\n")
    said = crashes.pykvm(tmp_path, "translate").stderr
    assert "\npykvm: at rip 0x200007: deep+0x1 in 64-bit code in ring 0, 4-level paging\n" in said
    assert ": 0000000000200005 _start+0x5 (a return address: a call is before it)\n" in said
