"""The MP tables, read as a kernel reads them: MultiProcessor Specification 1.4 §4."""

import struct

import pytest

from pykvm.boot import mptable
from pykvm.boot.acpi.board import Board
from pykvm.devices.pci.bus import interrupt_of
from pykvm.memory.layout import EBDA, IOAPIC, LAPIC, VGA

BASE = 0xE4000
SIZES = {0: 20, 1: 8, 2: 8, 3: 8, 4: 8}  # table 4-3


def entries(board):
    """The entries by type, as a kernel walks them."""
    _, table = mptable.build(board, BASE)
    length, count = struct.unpack_from("<H", table, 4)[0], struct.unpack_from("<H", table, 34)[0]
    found, at = {kind: [] for kind in SIZES}, 44
    for _ in range(count):
        size = SIZES[table[at]]
        found[table[at]].append(table[at : at + size])
        at += size
    assert at == length == len(table)
    return found


def test_the_pointer_lies_where_kernels_look_and_leads_to_the_table():
    pointer, table = mptable.build(Board(), BASE)
    assert EBDA < mptable.POINTER < mptable.POINTER + 16 <= VGA and mptable.POINTER % 16 == 0
    assert pointer[:4] == b"_MP_" and len(pointer) == 16
    assert struct.unpack_from("<IBB", pointer, 4) == (BASE, 1, 4)
    assert sum(pointer) % 256 == 0
    assert pointer[11] == 0  # a configuration table is there
    assert pointer[12] & 0x80 == 0  # no IMCR: virtual wire mode
    assert table[:4] == b"PCMP" and table[6] == 4 and sum(table) % 256 == 0
    assert struct.unpack_from("<I", table, 36)[0] == LAPIC


@pytest.mark.parametrize(("cpus", "most"), [(1, 1), (2, 4), (64, 64)])
def test_cpus_that_may_come_are_listed_as_unusable(cpus, most):
    found = entries(Board(cpus=cpus, max_cpus=most))[0]
    assert [entry[1] for entry in found] == list(range(most))
    assert [entry[3] & 1 for entry in found] == [1] * cpus + [0] * (most - cpus)
    assert [entry[3] & 2 for entry in found] == [2] + [0] * (most - 1)


def test_interrupts_go_where_the_board_has_its_wires():
    found = entries(Board())
    assert [(entry[1], entry[2:]) for entry in found[1]] == [(0, b"PCI   "), (1, b"ISA   ")]
    assert struct.unpack("<BBBBI", found[2][0]) == (2, 0, 0x20, 1, IOAPIC)
    wires = [struct.unpack("<BBHBBBB", entry) for entry in found[3]]
    isa = {source: pin for _, kind, _, bus, source, _, pin in wires if bus == 1 and kind == 0}
    assert isa == {0: 2, **{irq: irq for irq in (1, *range(3, 16))}}
    pci = {(source >> 2, source & 3): pin for _, _, _, bus, source, _, pin in wires if bus == 0}
    assert pci == {(device, line): interrupt_of(device, line) for device in range(32) for line in range(4)}


def test_the_pics_output_and_nmi_go_to_all_cpus():
    local = [struct.unpack("<BBHBBBB", entry) for entry in entries(Board())[4]]
    assert [(kind, apic, pin) for _, kind, _, _, _, apic, pin in local] == [(3, 0xFF, 0), (1, 0xFF, 1)]
