"""Messages to the local APICs of a KVM that has only these in the kernel (`interrupts: split`)."""

from __future__ import annotations

from struct import pack_into, unpack_from

import pytest

from pykvm.devices.apicbus import FIXED, as_msi
from pykvm.kvm.system import Kvm

VECTOR = 0x49
LDR, DFR, SVR, IRR = 0xD0, 0xE0, 0xF0, 0x200
SVR_ENABLED = 0x1FF


@pytest.fixture
def parts():
    """A VM with a CPU whose local APIC is enabled, which never runs."""
    with Kvm() as kvm, kvm.create_vm() as vm:
        vm.split_irqchip(24)
        with vm.create_vcpu(0) as vcpu:
            put(vcpu, {SVR: SVR_ENABLED})
            yield vm, vcpu


def put(vcpu, values: dict[int, int]) -> None:
    registers = bytearray(vcpu.lapic())
    for offset, value in values.items():
        pack_into("<I", registers, offset, value)
    vcpu.set_lapic(bytes(registers))


def waits(vcpu) -> bool:
    (word,) = unpack_from("<I", vcpu.lapic(), IRR + (VECTOR >> 5) * 16)
    return bool(word >> (VECTOR & 31) & 1)


@pytest.mark.parametrize("level", [False, True])
@pytest.mark.parametrize("destination", [0, 0xFF])
def test_a_message_waits_in_the_apic_that_it_is_for(parts, destination, level):
    vm, vcpu = parts
    assert vm.signal_msi(*as_msi(destination, False, FIXED, VECTOR, level))
    assert waits(vcpu)


@pytest.mark.parametrize(("destination", "logical"), [(1, False), (0x80, True)])
def test_a_message_to_an_apic_that_is_not_there_is_not_taken(parts, destination, logical):
    vm, vcpu = parts
    assert not vm.signal_msi(*as_msi(destination, logical, FIXED, VECTOR, False))
    assert not waits(vcpu)


def test_nor_is_one_for_which_kvm_has_to_ask_each_apic(parts):
    vm, flat = parts
    with vm.create_vcpu(1) as cluster:  # of two models of logical destinations KVM makes no map
        put(flat, {SVR: SVR_ENABLED, LDR: 1 << 24, DFR: 0xFFFF_FFFF})
        put(cluster, {SVR: SVR_ENABLED, LDR: 0x11 << 24, DFR: 0x0FFF_FFFF})
        assert vm.signal_msi(*as_msi(0x11, True, FIXED, VECTOR, False))
        assert not vm.signal_msi(*as_msi(0x80, True, FIXED, VECTOR, False))


def test_a_disabled_apic_takes_no_message(parts):
    vm, vcpu = parts
    put(vcpu, {SVR: 0xFF})
    assert not vm.signal_msi(*as_msi(0, False, FIXED, VECTOR, True))
    assert not waits(vcpu)


@pytest.mark.parametrize("mode", range(8))
@pytest.mark.parametrize("vector", [0, 15, 255])
def test_no_message_of_a_guests_is_an_error(parts, mode, vector):
    vm, _ = parts
    for destination in (0, 1, 0xFF):
        assert vm.signal_msi(*as_msi(destination, False, mode, vector, True)) in (True, False)
    vm.set_msi_routes([(9, *as_msi(0xFF, True, mode, vector, True))])
