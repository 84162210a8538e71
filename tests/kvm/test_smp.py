"""Machines of several CPUs: under KVM, wherever the interrupt controllers are, and translated."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import several
from several import LONG

TESTS = Path(__file__).parents[2] / "guests" / "tests"


@pytest.fixture(params=["kernel", "split", "user", "translate"])
def boot(request, tmp_path):
    """Boots a kernel of four CPUs (several.py), in each way."""
    translated = request.param == "translate"
    backend = "backend: translate" if translated else f"backend: kvm\ninterrupts: {request.param}"
    return partial(several.boot, tmp_path, backend)


def test_a_machine_whose_cpus_all_spin_ends_in_time(boot):
    status, said, _ = boot("jmp $", 'say "all up"\n jmp $', "--timeout", "4s")
    assert status == 124, said
    assert said.count("CPU ") == 4  # the first's heading and a line for each of the others


def test_a_cpu_that_is_not_the_first_may_end_the_machine(boot):
    status, said, told = boot("mov al, 9\n out 0xf4, al\n jmp $", "jmp $", "--timeout", f"{LONG}s")
    assert (status, told["outcome"]) == (9, "debug-exit"), said


def test_the_post_mortem_is_of_the_cpu_that_crashed(boot):
    # The CPU that is counted last makes its IDT empty and raises #UD.
    crash = "mov dx, 1\n lock xadd [cs:0x102], dx\n cmp dx, 2\n jne $\n o32 lidt [cs:0x110]\n ud2"
    status, said, told = boot(crash, "jmp $", "--timeout", f"{LONG}s")
    assert (status, told["crash"]["kind"]) == (125, "triple-fault"), said
    assert told["crash"]["cpu"] in (1, 2, 3)
    assert len(told["crash"]["other_cpus"]) == 3


def test_all_cpus_halted_is_the_end(boot):
    status, said, told = boot("cli\n hlt\n jmp $", "cli\n hlt\n jmp $", "--timeout", f"{LONG}s")
    assert (status, told["crash"]["kind"]) == (125, "halted"), said


def test_cpus_that_nobody_starts_do_not_keep_a_halted_machine_alive(boot):
    ends = """
first:  mov dword [APIC + 0x300], 0xc4500  ; INIT: they wait for a SIPI that never comes
        mov ecx, 100000
        loop $
        mov dword [APIC + 0x300], 0xc4500
        cli
        hlt
        jmp $
"""
    status, said, told = boot(ends.replace("first:", "jmp $\nbits 32\nfirst:"), "", all_up=False)
    assert (status, told["crash"]["kind"]) == (125, "halted"), said
    assert said.count("not started") == 3


def test_a_host_that_allows_fewer_cpus_says_so(monkeypatch):
    from pykvm.config import defaults_for
    from pykvm.errors import HostError
    from pykvm.kvm.system import Kvm
    from pykvm.kvm.vm import Vm
    from pykvm.machine import plan as plans
    from pykvm.machine.build import build

    capability = Vm.capability
    monkeypatch.setattr(
        Vm, "capability", lambda self, name: 2 if name == "KVM_CAP_MAX_VCPUS" else capability(self, name)
    )
    image = str(TESTS / "smp" / "smp.bin")
    config = defaults_for(
        image,
        ["kernel.format=flat", "kernel.entry=protected", "kernel.load=0xa000", "cpus=3", "devices=[]"],
    )
    plan = plans.make(config, config.kernel)
    try:
        with Kvm() as kvm, pytest.raises(HostError, match="3 CPUs are more than the 2") as caught:
            build(plan, kvm)
        assert caught.value.where == "cpus"
        assert caught.value.status == 69
    finally:
        plan.memory.close()


def test_every_byte_of_cpus_that_print_at_once_arrives(boot, tmp_path):
    count, printed = 4000, tmp_path / "printed"
    macro = f"""
%macro  sends 1
        mov     ecx, {count}
%%next: mov     dx, 0x3fd
%%wait: in      al, dx
        test    al, 0x20
        jz      %%wait
        mov     dx, 0x3f8
        mov     al, %1
        out     dx, al
        dec     ecx
        jnz     %%next
%endmacro
"""
    others = f"{macro} sends 'o'\n lock inc word [cs:0x102]\n cli\n hlt\n"
    first = " sends 'f'\n.all: cmp word [0x30102], 3\n jne .all\n mov al, 0\n out 0xf4, al\n jmp $"
    devices = f"[{{serial: {{port: com1, to: {printed}}}}}, {{debug-exit: {{port: 0xf4}}}}]"
    status, said, _ = boot(others, first, "--timeout", f"{LONG}s", "--set", f"devices={devices}")
    assert status == 0, said
    text = printed.read_bytes()
    assert (text.count(b"o"), text.count(b"f"), len(text)) == (3 * count, count, 4 * count)
