"""Interrupt controllers under KVM, in the kernel, split, and pykvm's own, driven by tiny guests."""

from __future__ import annotations

import signal
import threading
from copy import deepcopy
from pathlib import Path
from struct import pack

import pytest

from pykvm.config import load
from pykvm.frozen import replace
from pykvm.kvm.system import Kvm
from pykvm.machine import plan as plans
from pykvm.machine.build import build
from pykvm.machine.session import Session
from pykvm.machine.vcpu import KICK

GUESTS = Path(__file__).parents[2] / "guests"
LONG_NS = 20_000_000_000

# The image: code, the handler of all vectors, the IDT, the code of a second CPU in real mode.
CODE, HANDLER, POINTER, IDT, SECOND_CPU = 0x1_0000, 0x1_0800, 0x1_0FF0, 0x1_1000, 0x1_2000
TAKEN, NOT_TAKEN, SECOND = 7, 9, 21
"""What is written to debug-exit: by the handler, at the end of the code, by the second CPU."""

SVR, TPR, EOI, ICR_LOW, ICR_HIGH, LVT_TIMER, LINT0 = 0xF0, 0x80, 0xB0, 0x300, 0x310, 0x320, 0x350
INITIAL_COUNT, DIVIDE = 0x380, 0x3E0
ENABLE, MASKED, VECTOR = 0x1FF, 0x1_0000, 0x40

STI, CLI, SPIN = "fb", "fa", "ebfe"
HALT = "f4 ebfd"  # again: hlt; jmp again
WAIT = "8b8720020000 85c0 74f6"  # again: mov eax, [edi + IRR2]; test eax, eax; jz again: until VECTOR waits
# A KVM that interprets ring 0 looks for interrupts only every thousand instructions.
A_WHILE = "b9a0860100 e2fe"  # mov ecx, 100000; again: loop again
END = A_WHILE + f"b0{NOT_TAKEN:02x} e6f4"
POINT_TO_APIC = "bf0000e0fe"  # mov edi, 0xfee00000
POINT_TO_IOAPIC = "bf0000c0fe"


def store(offset: int, value: int) -> str:
    """``mov dword [edi + offset], value``, the same in 32 and 64 bits."""
    return f"c787 {pack('<II', offset, value).hex()}"


def out(port: int, value: int) -> str:
    return f"b0{value:02x} e6{port:02x}"


ENABLE_APIC = POINT_TO_APIC + store(SVR, ENABLE)
TIMER = store(DIVIDE, 0xB) + store(LVT_TIMER, VECTOR) + store(INITIAL_COUNT, 1_000_000)  # 1 ms
NO_PIC = out(0x21, 0xFF) + out(0xA1, 0xFF)


def image(code: str, *, long: bool) -> bytes:
    """A flat kernel whose interrupts, of all vectors, lead to a handler that ends the machine."""
    load_idt = (b"\x0f\x01\x1c\x25" if long else b"\x0f\x01\x1d") + pack("<I", POINTER)
    if long:
        gate = pack("<HHHHQ", HANDLER & 0xFFFF, 0x10, 0x8E00, HANDLER >> 16, 0)
    else:
        gate = pack("<HHHH", HANDLER & 0xFFFF, 0x10, 0x8E00, HANDLER >> 16)
    parts = {
        CODE: load_idt + bytes.fromhex(code),
        HANDLER: bytes.fromhex(out(0xF4, TAKEN)),
        POINTER: pack("<HQ", 256 * len(gate) - 1, IDT),
        IDT: gate * 256,
        SECOND_CPU: bytes.fromhex(out(0xF4, SECOND)),
    }
    whole = bytearray(SECOND_CPU + 16 - CODE)
    for place, content in parts.items():
        whole[place - CODE : place - CODE + len(content)] = content
    return bytes(whole)


@pytest.fixture(params=["kernel", "split", "user"])
def run(request, tmp_path):
    """Runs code to the machine's end, with the controllers in each place: the status."""

    def run(code: str, *, long: bool = False, cpus: int = 1) -> int:
        (tmp_path / "code.bin").write_bytes(image(code, long=long))
        (tmp_path / "machine.yaml").write_text(
            f"memory: 1M\nbackend: kvm\ninterrupts: {request.param}\ndevices: [{{debug-exit: {{}}}}]\n"
            f"kernel: {{image: code.bin, format: flat, entry: {'long' if long else 'protected'}, "
            f"load: {CODE:#x}}}\n"
        )
        config = load(str(tmp_path / "machine.yaml"))
        config = replace(config, cpus=replace(config.cpus, count=cpus))
        plan = plans.make(config, config.kernel)
        try:
            with Kvm() as kvm:
                machine = build(plan, kvm)
            try:
                return Session(machine, timeout_ns=LONG_NS, linux=False).run().status
            finally:
                machine.close()
        finally:
            plan.memory.close()

    return run


@pytest.mark.parametrize("rest", [STI + HALT, STI + SPIN])
def test_the_apic_timer_interrupts_a_guest_that_halts_or_spins(run, rest):
    assert run(ENABLE_APIC + TIMER + rest) == TAKEN


@pytest.mark.parametrize(("flag", "status"), [(CLI, NOT_TAKEN), (STI, TAKEN)])
def test_an_interrupt_waits_for_the_interrupt_flag(run, flag, status):
    assert run(ENABLE_APIC + TIMER + WAIT + flag + END) == status


@pytest.mark.parametrize(("priority", "status"), [(0x30, TAKEN), (0x40, NOT_TAKEN)])
def test_an_interrupt_waits_for_a_lower_task_priority(run, priority, status):
    assert run(ENABLE_APIC + store(TPR, priority) + STI + TIMER + WAIT + END) == status


def test_an_interrupt_comes_when_the_task_priority_is_lowered(run):
    lower = store(TPR, 0x30)
    assert run(ENABLE_APIC + store(TPR, 0x40) + STI + TIMER + WAIT + lower + END) == TAKEN


# A KVM that interprets ring 0 doesn't leave the guest when CR8 is lowered: HLT does.
@pytest.mark.parametrize(("rest", "status"), [(END, NOT_TAKEN), ("31c0 440f22c0" + HALT, TAKEN)])
def test_cr8_is_the_task_priority_too(run, rest, status):
    raise_cr8 = "b804000000 440f22c0"
    assert run(raise_cr8 + ENABLE_APIC + STI + TIMER + WAIT + rest, long=True) == status


def test_cr8_reads_what_the_page_was_written(run):
    read = "440f20c0 e6f4"  # mov rax, cr8; out 0xf4, al
    assert run(ENABLE_APIC + store(TPR, 0x5F) + read, long=True) == 5


def test_an_nmi_comes_without_the_interrupt_flag(run):
    assert run(ENABLE_APIC + store(ICR_HIGH, 0) + store(ICR_LOW, 0x4400) + END) == TAKEN


@pytest.mark.parametrize("rest", [STI + HALT, STI + SPIN])
def test_the_timer_chip_comes_by_the_ioapic(run, rest):
    route = POINT_TO_IOAPIC + store(0, 0x14) + store(0x10, VECTOR)
    pit = out(0x43, 0x34) + out(0x40, 0) + out(0x40, 0x10)
    assert run(NO_PIC + ENABLE_APIC + store(LINT0, MASKED) + route + pit + rest) == TAKEN


def test_the_page_goes_where_the_guest_puts_it(run):
    move = "b91b000000 0f32 b80009d5fe 0f30"  # ecx = IA32_APIC_BASE; rdmsr; eax = 0xfed50900; wrmsr
    version = "bf0000d5fe 8b4730 e6f4"
    assert run(move + version) == 0x14


def test_a_page_that_is_switched_off_is_not_there(run):
    off = "b91b000000 0f32 b80001e0fe 0f30"
    assert run(POINT_TO_APIC + off + "8b4730 e6f4") == 63


def test_a_second_cpu_waits_for_its_sipi(run):
    target = store(ICR_HIGH, 1 << 24)
    sipi = target + store(ICR_LOW, 0x4500) + store(ICR_LOW, 0x4600 | SECOND_CPU >> 12)
    assert run(ENABLE_APIC + sipi + CLI + HALT, cpus=2) == SECOND


def test_a_cpu_that_halts_for_ever_is_told(run):
    assert run(CLI + HALT) == 125


@pytest.mark.parametrize("place", ["split", "user"])
def test_a_machine_goes_on_in_another_vm_in_the_middle_of_its_work(tmp_path, place):
    config = load(
        str(GUESTS / "ticks" / "machine.yaml"),
        [f"interrupts={place}", f"devices=[{{serial: {{to: {tmp_path / 'out'}}}}}]"],
    )
    printed = bytearray()
    enough = threading.Event()

    def listen(data: bytes) -> None:
        printed.extend(data)
        if printed.count(b".") >= 7:
            enough.set()

    before = signal.signal(KICK, lambda number, frame: None)
    machines, memories = [], []
    try:
        with Kvm() as kvm:
            for _ in range(2):
                plan = plans.make(config, config.kernel)
                memories.append(plan.memory)
                machines.append(build(plan, kvm))
                machines[-1].consoles["com1"].tap.listeners.append(listen)
        first, second = machines
        first.start()
        first.resume()
        assert enough.wait(60)
        first.pause()
        so_far = printed.count(b".")
        assert 7 <= so_far < 20
        devices = deepcopy({name: device.save() for name, device in first.devices.items()})
        cpu = first.cpus[0].cpu.state()
        first.stop()
        first.drain(60)
        memories[1].write(0, memories[0].read(0, memories[0].ram_size))
        for name, state in devices.items():
            second.devices[name].load(state)
        second.cpus[0].cpu.load(cpu)
        second.start()
        second.resume()
        cause = second.wait(lambda: None)
        second.stop()
        second.drain(60)
        assert cause.outcome == "poweroff"
        assert bytes(printed).startswith(b"." * 20 + b"\r\n20 ticks")
    finally:
        for machine in machines:
            machine.close()
        for memory in memories:
            memory.close()
        signal.signal(KICK, before)
