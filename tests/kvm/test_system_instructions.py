"""System instructions and far transfers in ring 0 and 1: the interpreter and a KVM come to the same.

One instruction at a time, then HLT, where all handlers are as well. KVM's own emulator checks segments as the
manual does. What it is known to do otherwise is left out: IRET, SYSRET, faults' error codes of selectors into
the LDT, flags of POPF in ring 1.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
from x86_machine import (
    ABSENT_CODE,
    ABSENT_DATA,
    CODE,
    CODE_16,
    CONFORMING,
    DATA_16,
    EXECUTE_ONLY,
    FREE_TASK,
    KERNEL_CODE,
    KERNEL_DATA,
    LIMIT,
    LOCAL,
    READ_ONLY,
    RING1_CODE,
    RING1_DATA,
    SMALL_DATA,
    TABLES,
    TASK,
    USER_CODE,
    USER_CODE_64,
    USER_DATA,
    Machine,
)

from pykvm.kvm import run
from pykvm.kvm.abi import KVM_EXIT_HLT, KVM_EXIT_SHUTDOWN
from pykvm.kvm.system import Kvm, cpuid_table
from pykvm.memory import GuestMemory
from pykvm.x86.execute import step
from pykvm.x86.execute.interrupts import raise_exception
from pykvm.x86.execute.linear import Linear

pytestmark = pytest.mark.no_lab("its processor, QEMU's, checks neither limits nor types of segments")

RAM = 1 << 20
HALTS = 0xA000
"""From here on all memory is HLT."""
OPERAND, NEAR_OPERAND, NEAR = 0x4_0000, 0x200, 0x1234
ROUNDS = 40
MODES = {"real": ("real", 0), "protected": ("protected", 0), "ring 1": ("protected", 1), "long": ("long", 0)}
SELECTORS = (
    *(0, 3, KERNEL_CODE, KERNEL_DATA, TASK, USER_CODE, USER_DATA, USER_CODE_64, CONFORMING, READ_ONLY),
    *(CODE_16, DATA_16, ABSENT_CODE, ABSENT_DATA, EXECUTE_ONLY, RING1_CODE, RING1_DATA, LOCAL, FREE_TASK),
    *(SMALL_DATA, LIMIT + 1, 0xC0),
)
SEGMENTS = ("cs", "ss", "ds", "es", "fs", "gs", "tr", "ldt")
FIELDS = ("selector", "base", "limit", "type", "dpl", "db", "s", "l", "g")
CR0_TOGGLED, CR4_TOGGLED = (1, 2, 3, 5, 16, 18, 29, 30), (0, 2, 3, 4, 5, 7, 9, 10)

Form = Callable[[Random, Machine], bytes]


def selector(rng: Random, machine: Machine) -> int:
    return rng.choice(SELECTORS) | rng.choice((0, 0, 1, 3)) if _protected(machine) else 0x1000


def _protected(machine: Machine) -> bool:
    return bool(machine.sregs["cr0"] & 1)


def fixed(*codes: str) -> Form:
    return lambda rng, machine: bytes.fromhex(rng.choice(codes))


def by_selector(*codes: str) -> Form:
    """The selector in AX; 66 before some."""

    def form(rng: Random, machine: Machine) -> bytes:
        machine.regs["rax"] = selector(rng, machine)
        return rng.choice((b"", b"\x66")) + bytes.fromhex(rng.choice(codes))

    return form


def pointed(*codes: str) -> Form:
    """[EBX], or [BX]: a far pointer, or another operand; ``codes`` without ModRM, and the digit."""

    def form(rng: Random, machine: Machine) -> bytes:
        code, digit = rng.choice(codes).split("/")
        narrow, place = (7, NEAR_OPERAND) if not _protected(machine) else (3, OPERAND)
        machine.regs["rbx"] = place
        size = rng.choice((2, 4))
        machine.memory.write(place, far_pointer(rng, machine, size) + rng.randbytes(32))
        prefix = b"\x66" if (size == 2) == _protected(machine) else b""
        return prefix + bytes.fromhex(code) + bytes((narrow | int(digit) << 3,))

    return form


def far_pointer(rng: Random, machine: Machine, size: int) -> bytes:
    place = rng.choice((CODE + 0x40, NEAR, 0xFF_FFFF, CODE + 0x10)) if _protected(machine) else 0x40
    return (place & (1 << 8 * size) - 1).to_bytes(size, "little") + selector(rng, machine).to_bytes(
        2, "little"
    )


def direct(rng: Random, machine: Machine) -> bytes:
    size = rng.choice((2, 4))
    prefix = b"\x66" if (size == 2) == _protected(machine) else b""
    return prefix + rng.choice((b"\xea", b"\x9a")) + far_pointer(rng, machine, size)


def far_return(rng: Random, machine: Machine) -> bytes:
    size = rng.choice((4, 8)) if machine.long else 4 if _protected(machine) else 2
    pointer = far_pointer(rng, machine, 4)
    values = [int.from_bytes(pointer[4:], "little"), int.from_bytes(pointer[:4], "little")]
    if rng.random() < 0.5:
        values = [selector(rng, machine), 0x3_0000, *values]
    machine.push(*(value & (1 << 8 * size) - 1 for value in values), width=size)
    return (b"\x48" if size == 8 else b"") + rng.choice((b"\xcb", b"\xca\x08\x00"))


def pop(rng: Random, machine: Machine) -> bytes:
    machine.push(selector(rng, machine), width=8 if machine.long else 4 if _protected(machine) else 2)
    return bytes.fromhex(rng.choice(("07", "17", "1f", "0fa1", "0fa9")))


def move_control(rng: Random, machine: Machine) -> bytes:
    number, bits = rng.choice(((0, CR0_TOGGLED), (2, range(32)), (4, CR4_TOGGLED)))
    machine.regs["rax"] = machine.sregs[f"cr{number}"] ^ 1 << rng.choice(list(bits))
    return bytes((0x0F, 0x22, 0xC0 | number << 3))


def machine_status(rng: Random, machine: Machine) -> bytes:
    machine.regs["rax"] = rng.getrandbits(4) | (machine.sregs["cr0"] & 1)
    return bytes.fromhex("0f01f0")


FORMS: dict[str, Form] = {
    "mov to a segment": by_selector("8ec0", "8ed0", "8ed8", "8ee0", "8ee8", "8ec8", "8ef0"),
    "mov from a segment": fixed(*(f"8c{0xC0 | digit << 3:02x}" for digit in range(8))),
    "pop to a segment": pop,
    "far pointer": pointed("ff/5", "ff/3"),
    "far direct": direct,
    "far return": far_return,
    "lds": pointed("c4/0", "c5/0", "0fb2/0", "0fb4/0", "0fb5/0"),
    "lar lsl": by_selector("0f02c8", "0f03c8"),
    "verr verw": by_selector("0f00e0", "0f00e8"),
    "lldt ltr": by_selector("0f00d0", "0f00d8"),
    "sldt str smsw": fixed("0f00c0", "0f00c8", "0f01e0", "660f01e0"),
    "tables": pointed("0f01/0", "0f01/1", "0f01/2", "0f01/3"),
    "lmsw": machine_status,
    "clts cli sti": fixed("0f06", "fa", "fb"),
    "mov to a control register": move_control,
    "mov from a control register": fixed("0f20c0", "0f20d0", "0f20d8", "0f20e0"),
    "int": fixed("cd40", "cd41", "cd42", "cd43", "cd44", "cd45", "cd80", "cd0d", "cc"),
    "stack": fixed("9c", "60", "61", "c9", "c8100000", "c8100002"),
}

GIVEN_UP = ("lar lsl", "verr verw", "int")
"""By KVM's emulator: judged where ring 0 runs on the hardware."""


def made(mode: str, cpl: int) -> Machine:
    """A machine whose handlers, and all else that isn't a table, are HLT."""
    machine = Machine(mode, cpl)
    machine.memory.size = RAM
    machine.memory.write(HALTS, b"\xf4" * (RAM - HALTS))
    if machine.long:  # a KVM that interprets ring 0 has no pages of 1 GiB
        machine.memory.put_u64(TABLES + 0x1000, TABLES + 0x2000 | 7)
        machine.memory.put_u64(TABLES + 0x2000, 0x87)
    if mode == "real":
        for vector in range(256):
            machine.memory.put_u32(4 * vector, (HALTS >> 4) << 16 | vector)
        machine.memory.write(NEAR, b"\xf4" * 16)
        return machine
    for vector in range(32):
        machine.gate(vector, HALTS + 16 * vector)
    for number, more in enumerate(
        ({"dpl": 3}, {}, {"kind": 15}, {"present": 0}, {"selector": CONFORMING}, {"selector": KERNEL_DATA})
    ):
        machine.gate(0x40 + number, HALTS + 0x400 + 16 * number, **more)
    return machine


class Judge:
    """This host's KVM, with one vCPU."""

    def __init__(self, kvm: Kvm) -> None:
        self.memory = GuestMemory.pc(RAM)
        self.view = self.memory.regions[0].view
        self.vm = kvm.create_vm()
        self.vm.set_memory(0, 0, RAM, self.memory.regions[0].hva)
        self.vcpu = self.vm.create_vcpu(0)
        self.vcpu.set_cpuid(cpuid_table(kvm.supported_cpuid()))
        self.apic_base = self.vcpu.sregs()["apic_base"]

    def load(self, machine: Machine) -> None:
        self.view[:] = bytes(RAM)
        for number, page in machine.memory.pages.items():
            self.view[number << 12 : number + 1 << 12] = page
        wanted = (*SEGMENTS, "gdt", "idt", "cr0", "cr2", "cr3", "cr4", "cr8", "efer")
        self.vcpu.set_sregs({name: machine.sregs[name] for name in wanted} | {"apic_base": self.apic_base})
        self.vcpu.set_regs(dict(machine.regs))

    def run(self) -> int | None:
        """The exit's reason; None where there is none within some time."""
        before = signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 1)
        try:
            return None if self.vcpu.run() else self.vcpu.page.u32[run.EXIT_REASON]
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def close(self) -> None:
        self.vcpu.close()
        self.vm.close()
        self.memory.close()


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Kvm() as kvm:
        found = Judge(kvm)
        yield found
        found.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FORMS)
def test_the_interpreter_does_what_kvm_does(name, mode, judge):
    judged = 0
    for number in range(ROUNDS):
        seed = f"{name}:{mode}:{number}"
        rng = Random(seed)
        machine = made(*MODES[mode])
        code = FORMS[name](rng, machine)
        base = machine.sregs["cs"]["base"] if not machine.long else 0
        machine.memory.write(machine.regs["rip"] + base, code)
        judge.load(machine)
        ended = interpreted(machine)
        if ended is None:
            continue
        reason = judge.run()
        if reason not in (KVM_EXIT_HLT, KVM_EXIT_SHUTDOWN):
            continue  # KVM gives the instruction up, or leaves for a place where no memory is
        judged += 1
        assert ended == ("halted" if reason == KVM_EXIT_HLT else "shutdown"), f"{code.hex()}, seed {seed}"
        if ended == "halted":
            assert state(machine.regs, machine.sregs, machine) == state(
                judge.vcpu.regs(), judge.vcpu.sregs(), machine
            ), f"{code.hex()}, seed {seed}"
            for page, data in machine.memory.pages.items():
                theirs = bytes(judge.view[page << 12 : page + 1 << 12])
                assert bytes(data) == theirs, f"{code.hex()}, seed {seed}: memory of page {page:#x}"
    assert judged > ROUNDS // 8 or name in GIVEN_UP


def interpreted(machine: Machine) -> str | None:
    """Up to a HLT, "halted"; "shutdown" at a triple fault; None for what isn't known or doesn't end."""
    linear = Linear(machine.cpu, machine.memory)
    for _ in range(8):
        outcome = step(machine.cpu, linear)
        if outcome is None:
            return None
        if outcome.fault is not None and not raise_exception(machine.cpu, linear, outcome.fault):
            return "shutdown"
        if machine.cpu.halted:
            return "halted"
    return None


def state(regs: Any, sregs: Any, machine: Machine) -> dict[str, Any]:
    mask = (1 << 64) - 1 if machine.long else 0xFFFF_FFFF
    found: dict[str, Any] = {name: regs[name] & mask for name in machine.regs}
    found["rflags"] &= ~0x1_0000  # RF
    for name in SEGMENTS:
        segment = sregs[name]
        empty = segment["unusable"] or not segment["present"] or segment["selector"] < 4
        found[name] = segment["selector"] if empty else [segment[field] for field in FIELDS]
    return found | {name: sregs[name] for name in ("cr0", "cr2", "cr3", "cr4", "efer", "gdt", "idt")}
