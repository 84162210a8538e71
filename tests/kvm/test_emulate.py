"""Instructions that a KVM may give up work all the same, also where their operand is a device's register."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator

import pytest

from pykvm.devices.bus import MemoryBus, PortBus
from pykvm.kvm.abi import CONSTANTS, KVM_EXIT_INTERNAL_ERROR
from pykvm.kvm.system import Kvm, cpuid_table
from pykvm.machine.kvmcpu import KvmCpu
from pykvm.memory import GuestMemory
from pykvm.x86 import entry

RAM = 0x80000
DEVICE = 0x90000
CODE = 0x1000
XMM0_HIGH = 168  # in the XSAVE area, whose XSTATE_BV says what in it counts (SDM vol. 1 §13.4)
XSTATE_BV, SSE = 512, 1 << 1

# Real mode, DS at the device. KVM's emulator knows neither of the last two; it gets them because of their
# operand, also where the CPU runs the rest itself.
PROGRAM = """
    b80090 8ed8         ; mov ax, 9000h; mov ds, ax
    b80002 0f22e0       ; mov ax, 200h; mov cr4, eax    (OSFXSR)
    f30fb81e1000        ; popcnt bx, [10h]
    0f17062400          ; movhps [24h], xmm0
    e680                ; out 80h, al
"""


class Machine:
    """One vCPU, a device in the address space, and a port that stops it."""

    def __init__(self, kvm: Kvm) -> None:
        self.memory = GuestMemory.pc(RAM)
        self.vm = kvm.create_vm()
        region = self.memory.regions[0]
        self.vm.set_memory(0, region.gpa, region.size, region.hva)
        self.vcpu = self.vm.create_vcpu(0)
        self.vcpu.set_cpuid(cpuid_table(kvm.supported_cpuid()))
        ports, mmio = PortBus(), MemoryBus()
        ports.attach(self, 0x80, 1, offset=0x80)
        mmio.attach(self, DEVICE, 0x40)
        self.cpu = KvmCpu(self.vcpu, ports, mmio, self.memory, threading.Lock())
        self.accesses: list[tuple[int, ...]] = []

    def read(self, offset: int, size: int) -> int:
        self.accesses.append((offset, size))
        return 0x1234

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == 0x80:
            self.cpu.wake()
        else:
            self.accesses.append((offset, size, value))

    def close(self) -> None:
        self.cpu.close()
        self.vm.close()
        self.memory.close()


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Kvm() as kvm:
        made = Machine(kvm)
        yield made
        made.close()


def test_an_instruction_that_kvm_gives_up_reaches_a_devices_registers(machine):
    machine.memory.write(CODE, bytes.fromhex("".join(re.findall(r"^ +([0-9a-f ]+);", PROGRAM, re.MULTILINE))))
    machine.cpu.load(entry.real(CODE, stack=0x8000))
    xsave = bytearray(machine.vcpu.xsave())
    xsave[XMM0_HIGH : XMM0_HIGH + 8] = bytes(range(8))
    xsave[XSTATE_BV] |= SSE
    machine.vcpu.set_xsave(bytes(xsave))
    assert machine.cpu.run() is None
    machine.cpu.settle()
    assert machine.accesses == [(0x10, 2), (0x24, 4, 0x03020100), (0x28, 4, 0x07060504)]
    assert machine.vcpu.regs()["rbx"] & 0xFFFF == 5  # bits of 0x1234
    assert machine.cpu.exits[KVM_EXIT_INTERNAL_ERROR] == 2


def test_what_another_cpu_sends_while_an_instruction_is_finished_is_not_lost():
    with Kvm() as kvm, kvm.create_vm() as vm:
        vm.create_irqchip()
        with vm.create_vcpu(0), vm.create_vcpu(1) as vcpu:
            vcpu.set_mp_state(CONSTANTS["KVM_MP_STATE_RUNNABLE"])
            events = vcpu.events()
            vcpu.nmi()
            vcpu.set_delivery({**events, "nmi": {**events["nmi"], "masked": 1}})
            assert vcpu.events()["nmi"]["pending"]
            assert vcpu.events()["nmi"]["masked"]
            assert vm.signal_msi(0xFEEFF000, 0x4500)  # INIT to all
            vcpu.set_delivery(events)
            assert not vcpu.events()["nmi"]["masked"]
            assert vcpu.mp_state() == CONSTANTS["KVM_MP_STATE_INIT_RECEIVED"]
