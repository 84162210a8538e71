"""The local APIC as kernels use it. Sections are those of Intel's SDM, volume 3A."""

import json
import random

import pytest
from apic_doubles import Board

from pykvm.devices import lapicregisters as reg

APIC_BASE, TSC_DEADLINE = 0x1B, 0x6E0
EN, EXTD, BSP = 0x800, 0x400, 0x100

EXTINT, FIXED, LOWEST, SMI, NMI, INIT, STARTUP = (mode << 8 for mode in (7, 0, 1, 2, 4, 5, 6))
LOGICAL, ASSERT, LEVEL, MASKED = 1 << 11, 1 << 14, 1 << 15, 1 << 16
SELF, ALL, OTHERS = 1 << 18, 2 << 18, 3 << 18


@pytest.fixture
def board():
    return Board()


@pytest.fixture
def cpu(board):
    return board.cpus[0]


def interrupt(board, *vectors, destination=0, level=False):
    for vector in vectors:
        board.bus.deliver(destination, False, 0, vector, level)


# After power-up.


def test_registers_after_power_up():
    cpu = Board(2, enabled=False).cpus[1]
    values = {row[1]: cpu.read(row[0]) for row in reg.REGISTERS if "R" in row[2]}
    assert values.pop("ID") == 1 << 24
    assert values.pop("VERSION") == 0x0106_0014
    assert values.pop("SVR") == 0xFF
    assert values.pop("DFR") == 0xFFFF_FFFF
    assert {values.pop(name) for name in list(values) if name.startswith("LVT")} == {MASKED}
    assert set(values.values()) == {0}


def test_the_bootstrap_cpu_runs_and_the_others_wait():
    first, second = Board(2, enabled=False).cpus
    assert (first.apic.waiting, second.apic.waiting) == (False, True)
    assert first.rdmsr(APIC_BASE) == 0xFEE0_0000 | EN | BSP
    assert second.rdmsr(APIC_BASE) == 0xFEE0_0000 | EN


def test_a_kernel_that_knows_no_apic_gets_the_pics_interrupts():
    board = Board(2, enabled=False)
    for offset, value in ((0, 0x11), (1, 0x08), (1, 0x04), (1, 0x01), (1, 0x00)):
        board.pic.write(offset, 1, value)
    board.pic.line(0).set(True)
    assert [cpu.take() for cpu in board.cpus] == [0x08, None]


def test_a_disabled_apic_takes_no_fixed_interrupt_but_nmi():
    board = Board(enabled=False)
    assert not board.bus.deliver(0, False, 0, 0x40, False)
    assert board.bus.deliver(0, False, 4, 0, False)
    assert board.cpus[0].take() is None
    assert board.cpus[0].events == ["nmi"]


# The page.


def test_read_only_registers_stay(cpu):
    # Linux's verify_local_APIC
    version = cpu.read(reg.VERSION)
    cpu.write(reg.VERSION, version ^ 0xFFFF)
    assert cpu.read(reg.VERSION) == version
    cpu.write(reg.ESR, 0)
    assert cpu.read(reg.ESR) == 0


@pytest.mark.parametrize("row", [r for r in reg.REGISTERS if "W" in r[2] and r[1].startswith("LVT")])
def test_an_lvt_keeps_the_bits_that_it_has(cpu, row):
    offset, _, _, _, bits, *_ = row
    cpu.write(offset, 0xFFFF_FFFF)
    assert cpu.read(offset) == bits
    cpu.write(offset, 0)
    assert cpu.read(offset) == 0


def test_a_reserved_register_is_an_error_once_esr_is_written(cpu):
    cpu.write(reg.LVT_ERROR, 0xFE)
    assert cpu.read(0x040) == 0
    assert cpu.take() == 0xFE
    assert cpu.read(reg.ESR) == 0
    cpu.write(reg.ESR, 0)
    assert cpu.read(reg.ESR) == 0x80
    cpu.write(reg.ESR, 0)
    assert cpu.read(reg.ESR) == 0


def test_one_interrupt_tells_of_many_errors_until_esr_is_written(cpu):
    cpu.write(reg.LVT_ERROR, 0xFE)
    cpu.write(0x040, 1)
    assert cpu.take_all() == [0xFE]
    cpu.write(reg.ICR_LOW, SELF | 0x0E)
    assert cpu.take_all() == []
    cpu.write(reg.ESR, 0)
    assert cpu.read(reg.ESR) == 0x80 | 0x20
    cpu.write(0x040, 1)
    assert cpu.take_all() == [0xFE]


def test_an_error_interrupt_with_an_illegal_vector_is_one_more_error(cpu):
    cpu.write(reg.LVT_ERROR, 0x05)
    cpu.read(0x040)
    cpu.write(reg.ESR, 0)
    assert cpu.read(reg.ESR) == 0x80 | 0x40


def test_bytes_of_a_register_can_be_read_and_only_whole_ones_written(cpu):
    cpu.write(reg.SVR, 0x11E7)
    assert [cpu.apic.read(reg.SVR + n, 1) & 0xFF for n in range(5)] == [0xE7, 0x11, 0, 0, 0]
    cpu.apic.write(reg.TPR, 1, 0x55)
    cpu.apic.write(reg.TPR, 8, 0x55)
    cpu.apic.write(reg.TPR + 4, 4, 0x55)
    assert cpu.read(reg.TPR) == 0


# Priorities (§10.8).


def test_the_highest_vector_comes_first(board, cpu):
    interrupt(board, 0x31, 0xF0, 0x60, 0x10)
    assert cpu.vectors(reg.IRR) == [0x10, 0x31, 0x60, 0xF0]
    assert cpu.take_all() == [0xF0, 0x60, 0x31, 0x10]


def test_a_higher_class_interrupts_a_lower_one_in_service(board, cpu):
    interrupt(board, 0x41)
    assert cpu.take() == 0x41
    assert (cpu.vectors(reg.ISR), cpu.vectors(reg.IRR)) == ([0x41], [])
    assert cpu.read(reg.PPR) == 0x40
    interrupt(board, 0x4F)
    assert cpu.take() is None  # the same class
    interrupt(board, 0x50)
    assert cpu.take() == 0x50
    cpu.eoi()
    assert cpu.vectors(reg.ISR) == [0x41]
    assert cpu.take() is None
    cpu.eoi()
    assert cpu.take() == 0x4F


def test_tpr_holds_its_class_and_those_below_back(board, cpu):
    cpu.write(reg.TPR, 0x5A)
    assert cpu.read(reg.PPR) == 0x5A
    interrupt(board, 0x41, 0x5F)
    assert cpu.take() is None
    interrupt(board, 0x60)
    assert cpu.take() == 0x60
    assert cpu.read(reg.PPR) == 0x60
    cpu.eoi()
    cpu.write(reg.TPR, 0x4F)
    assert cpu.take() == 0x5F
    cpu.eoi()
    cpu.write(reg.TPR, 0)
    assert cpu.take() == 0x41


def test_tpr_and_what_is_in_service_make_ppr_and_apr(board, cpu):
    # §10.8.3.1: by TPR, in service, waiting
    for tpr, serving, waiting, ppr, apr in (
        (0x00, 0x00, 0x00, 0x00, 0x00),
        (0x4A, 0x00, 0x00, 0x4A, 0x4A),
        (0x3A, 0x41, 0x00, 0x40, 0x00),
        (0x4A, 0x41, 0x00, 0x4A, 0x40),
        (0x6A, 0x41, 0x00, 0x6A, 0x6A),
        (0x6A, 0x41, 0x51, 0x6A, 0x6A),
        (0x6A, 0x41, 0x6F, 0x6A, 0x6A),
        (0x6A, 0x41, 0x71, 0x6A, 0x70),
        (0x4A, 0x71, 0x31, 0x70, 0x40),
    ):
        cpu.write(reg.TPR, 0)
        if serving:
            interrupt(board, serving)
            assert cpu.take() == serving
        cpu.write(reg.TPR, tpr)
        if waiting:
            interrupt(board, waiting)
        assert (cpu.read(reg.PPR), cpu.read(reg.APR)) == (ppr, apr)
        cpu.write(reg.TPR, 0)
        cpu.take_all()
        cpu.eoi()


def test_cr8_is_the_class_of_tpr(board, cpu):
    cpu.apic.cr8 = 4
    assert cpu.read(reg.TPR) == 0x40
    interrupt(board, 0x41)
    assert cpu.take() is None
    cpu.write(reg.TPR, 0x3F)
    assert cpu.apic.cr8 == 3
    assert cpu.take() == 0x41


def test_an_interrupt_that_tpr_held_back_in_time_is_spurious(board, cpu):
    # §10.9: TPR is raised between the signal to the CPU and its acknowledge
    cpu.write(reg.SVR, 0x1EF)
    interrupt(board, 0x41)
    assert cpu.told
    cpu.write(reg.TPR, 0x40)
    assert cpu.apic.acknowledge() == 0xEF
    assert cpu.vectors(reg.ISR) == []
    cpu.write(reg.TPR, 0)
    assert cpu.take() == 0x41


def test_an_interrupt_that_comes_twice_is_taken_once(board, cpu):
    interrupt(board, 0x41, 0x41)
    assert cpu.take_all() == [0x41]


def test_an_interrupt_that_comes_while_it_is_served_is_taken_again(board, cpu):
    interrupt(board, 0x41)
    assert cpu.take() == 0x41
    interrupt(board, 0x41)
    assert (cpu.vectors(reg.ISR), cpu.vectors(reg.IRR)) == ([0x41], [0x41])
    cpu.eoi()
    assert cpu.take() == 0x41


def test_an_eoi_with_nothing_in_service_changes_nothing(board, cpu):
    cpu.eoi()
    interrupt(board, 0x41)
    cpu.eoi()
    assert cpu.take() == 0x41


def test_disabling_keeps_what_has_come_and_masks_all_lvts(board, cpu):
    # §10.4.7.2
    cpu.write(reg.LVT_LINT1, NMI)
    interrupt(board, 0x41)
    cpu.write(reg.SVR, 0xFF)
    assert cpu.read(reg.LVT_LINT1) == MASKED | NMI
    cpu.write(reg.LVT_LINT1, NMI)
    assert cpu.read(reg.LVT_LINT1) == MASKED | NMI
    assert cpu.take() == 0x41
    cpu.enable()
    cpu.write(reg.LVT_LINT1, NMI)
    assert cpu.read(reg.LVT_LINT1) == NMI


def test_only_levels_are_told_to_the_ioapic(board, cpu):
    ended = []
    board.bus.on_eoi = ended.append
    interrupt(board, 0x41)
    interrupt(board, 0x51, level=True)
    assert cpu.take_all() == [0x51, 0x41]
    assert ended == [0x51]
    interrupt(board, 0x51)  # now as an edge
    assert cpu.take_all() == [0x51]
    cpu.write(reg.SVR, 0x11FF)
    interrupt(board, 0x51, level=True)
    assert cpu.take_all() == [0x51]
    assert ended == [0x51]


# LINT0 and LINT1 (§10.5.1).


def test_linux_takes_lint0_for_the_pic_and_lint1_for_nmi(board, cpu):
    for offset, value in ((0, 0x11), (1, 0x30), (1, 0x04), (1, 0x01), (1, 0x00)):
        board.pic.write(offset, 1, value)
    cpu.write(reg.LVT_LINT0, EXTINT)
    cpu.write(reg.LVT_LINT1, NMI)
    board.pic.line(0).set(True)
    cpu.apic.lint1.set(True)
    cpu.apic.lint1.set(True)
    assert cpu.take() == 0x30
    assert cpu.vectors(reg.ISR) == []  # the PIC keeps the books, and needs the EOI
    assert cpu.take() is None
    assert cpu.events == ["nmi"]


def test_masking_lint0_silences_the_pic(board, cpu):
    for offset, value in ((0, 0x11), (1, 0x30), (1, 0x04), (1, 0x01), (1, 0x00)):
        board.pic.write(offset, 1, value)
    cpu.write(reg.LVT_LINT0, EXTINT | MASKED)
    board.pic.line(0).set(True)
    assert cpu.take() is None
    cpu.write(reg.LVT_LINT0, EXTINT)
    assert cpu.take() == 0x30


def test_tpr_does_not_hold_the_pic_back(board, cpu):
    for offset, value in ((0, 0x11), (1, 0x30), (1, 0x04), (1, 0x01), (1, 0x00)):
        board.pic.write(offset, 1, value)
    cpu.write(reg.LVT_LINT0, EXTINT)
    cpu.write(reg.TPR, 0xFF)
    board.pic.line(5).set(True)
    assert cpu.take() == 0x35


def test_a_fixed_edge_on_lint0_is_an_interrupt_of_its_own(cpu):
    # Linux's "virtual wire" trial for its timer
    cpu.write(reg.LVT_LINT0, 0x31)
    cpu.apic.lint0.set(True)
    assert cpu.take_all() == [0x31]
    assert cpu.vectors(reg.TMR) == []
    cpu.apic.lint0.set(False)
    cpu.apic.lint0.set(True)
    assert cpu.take_all() == [0x31]


def test_a_level_on_lint0_comes_again_after_each_eoi(cpu):
    cpu.write(reg.LVT_LINT0, LEVEL | 0x31)
    cpu.apic.lint0.set(True)
    assert cpu.read(reg.LVT_LINT0) == LEVEL | 1 << 14 | 0x31
    assert cpu.take() == 0x31
    assert cpu.take() is None
    cpu.eoi()
    assert cpu.take() == 0x31
    cpu.apic.lint0.set(False)
    cpu.eoi()
    assert cpu.take() is None
    assert cpu.read(reg.LVT_LINT0) == LEVEL | 0x31


def test_a_level_on_lint0_waits_for_its_mask(cpu):
    cpu.write(reg.LVT_LINT0, MASKED | LEVEL | 0x31)
    cpu.apic.lint0.set(True)
    assert cpu.take() is None
    cpu.write(reg.LVT_LINT0, LEVEL | 0x31)
    assert cpu.take() == 0x31
    cpu.write(reg.LVT_LINT0, 0x31)
    assert cpu.read(reg.LVT_LINT0) == 0x31  # no remote IRR: it is an edge now


def test_a_masked_edge_is_lost(cpu):
    cpu.write(reg.LVT_LINT1, MASKED | 0x31)
    cpu.apic.lint1.set(True)
    cpu.write(reg.LVT_LINT1, 0x31)
    assert cpu.take() is None


def test_a_counter_overflow_masks_its_own_lvt(cpu):
    # §10.5.1, the mask flag
    cpu.write(reg.LVT_PERF, NMI)
    cpu.apic.signal(reg.LVT_PERF)
    cpu.apic.signal(reg.LVT_PERF)
    assert cpu.events == ["nmi"]
    assert cpu.read(reg.LVT_PERF) == MASKED | NMI


# IPIs (§10.6.1).


def took(board):
    return [cpu.take_all() for cpu in board.cpus]


@pytest.mark.parametrize(
    "icr, destination, takers",
    [
        (0, 1, [1]),
        (0, 0xFF, [0, 1, 2]),
        (LOGICAL, 0b110, [1, 2]),
        (LOGICAL, 0xFF, [0, 1, 2]),
        (SELF, 2, [0]),
        (ALL, 2, [0, 1, 2]),
        (OTHERS, 2, [1, 2]),
        (0, 9, []),
    ],
)
def test_a_fixed_ipi_goes_where_it_says(icr, destination, takers):
    board = Board(3)
    board.cpus[0].write(reg.ICR_HIGH, destination << 24)
    board.cpus[0].write(reg.ICR_LOW, icr | ASSERT | 0xFD)
    assert took(board) == [[0xFD] if n in takers else [] for n in range(3)]
    assert not board.cpus[0].read(reg.ICR_LOW) & 1 << 12  # "delivery status": idle


@pytest.mark.parametrize("shorthand", [0, SELF, ALL])
def test_ipis_are_edges_whatever_the_icr_says(board, cpu, shorthand):
    cpu.write(reg.ICR_LOW, shorthand | LEVEL | ASSERT | 0x10)
    assert cpu.vectors(reg.IRR) == [0x10]
    assert cpu.vectors(reg.TMR) == []


def test_writing_the_destination_alone_sends_nothing():
    board = Board(2)
    board.cpus[0].write(reg.ICR_HIGH, 1 << 24)
    assert took(board) == [[], []]


def test_clusters_are_matched_by_number_and_mask():
    board = Board(4)
    for n, cpu in enumerate(board.cpus):
        cpu.write(reg.DFR, 0x0FFF_FFFF)
        cpu.write(reg.LDR, (n >> 1) << 28 | 1 << (n & 1) << 24)
    for destination, takers in ((0x11, [2]), (0x03, [0, 1]), (0x13, [2, 3]), (0xFF, [0, 1, 2, 3])):
        board.cpus[0].write(reg.ICR_HIGH, destination << 24)
        board.cpus[0].write(reg.ICR_LOW, LOGICAL | 0xFD)
        assert took(board) == [[0xFD] if n in takers else [] for n in range(4)]


def test_a_lowest_priority_ipi_goes_to_one():
    board = Board(3)
    board.cpus[1].write(reg.TPR, 0x20)
    board.cpus[0].write(reg.ICR_LOW, OTHERS | LOWEST | 0xFD)
    assert took(board) == [[], [], [0xFD]]


def test_an_nmi_goes_to_the_others():
    board = Board(3)
    board.cpus[0].write(reg.ICR_LOW, OTHERS | NMI | ASSERT)
    assert [cpu.events for cpu in board.cpus] == [[], ["nmi"], ["nmi"]]


def test_linux_starts_a_second_cpu():
    board = Board(2, enabled=False)
    first, second = board.cpus
    first.enable()
    first.write(reg.ICR_HIGH, 1 << 24)
    first.write(reg.ICR_LOW, LEVEL | ASSERT | INIT)
    first.write(reg.ICR_LOW, LEVEL | INIT)  # de-assert
    assert second.events == ["init"]
    first.write(reg.ICR_LOW, STARTUP | 0x99)
    first.write(reg.ICR_LOW, STARTUP | 0x99)  # Linux sends two
    assert second.events == ["init", "start 0x99"]
    assert not second.apic.waiting
    assert first.events == []


def test_init_resets_the_apic_and_waits_for_a_startup_again():
    board = Board(2)
    second = board.cpus[1]
    second.apic.waiting = False
    second.write(reg.DFR, 0x0FFF_FFFF)
    second.write(reg.LVT_TIMER, 0x40)
    second.write(reg.INITIAL_COUNT, 1000)
    interrupt(board, 0x41, destination=1)
    board.cpus[0].write(reg.ICR_LOW, OTHERS | INIT | ASSERT)
    assert second.apic.waiting
    assert second.take() is None
    assert second.read(reg.SVR) == 0xFF
    assert (second.read(reg.LDR), second.read(reg.DFR)) == (0, 0xFFFF_FFFF)
    assert second.read(reg.CURRENT_COUNT) == 0
    assert second.read(reg.ID) == 1 << 24
    board.clock.advance(10**6)
    assert second.take() is None


def test_init_sends_the_bootstrap_cpu_to_its_reset_vector():
    board = Board(2)
    board.cpus[1].write(reg.ICR_LOW, INIT | ASSERT)
    assert board.cpus[0].events == ["init"]
    assert not board.cpus[0].apic.waiting


def test_a_startup_for_a_cpu_that_runs_is_ignored(board, cpu):
    cpu.write(reg.ICR_LOW, STARTUP | 0x99)
    assert cpu.events == []


@pytest.mark.parametrize("shorthand", [SELF, ALL])
@pytest.mark.parametrize("mode", [INIT, STARTUP])
def test_no_cpu_resets_or_starts_itself_by_a_shorthand(shorthand, mode):
    board = Board(2)
    board.cpus[0].write(reg.ICR_LOW, shorthand | mode | ASSERT)
    assert board.cpus[0].events == []


@pytest.mark.parametrize("mode", [3 << 8, EXTINT])
def test_modes_that_an_icr_does_not_have_send_nothing(mode):
    board = Board(2)
    board.cpus[0].write(reg.ICR_LOW, ALL | mode | 0x40)
    assert took(board) == [[], []]
    assert [cpu.events for cpu in board.cpus] == [[], []]


@pytest.mark.parametrize("mode", [FIXED, LOWEST])
def test_an_illegal_vector_is_not_sent(mode):
    board = Board(2)
    board.cpus[0].write(reg.ICR_LOW, ALL | mode | 0x0F)
    assert took(board) == [[], []]
    for cpu, esr in zip(board.cpus, (0x20, 0)):
        cpu.write(reg.ESR, 0)
        assert cpu.read(reg.ESR) == esr


# IA32_APIC_BASE and x2APIC mode (§10.12).

DISABLED, XAPIC, X2APIC, INVALID = 0, EN, EN | EXTD, EXTD


@pytest.mark.parametrize(
    "way, legal",
    [
        ((XAPIC,), True),
        ((DISABLED,), True),
        ((DISABLED, XAPIC), True),
        ((X2APIC,), True),
        ((X2APIC, DISABLED), True),
        ((X2APIC, DISABLED, XAPIC), True),
        ((X2APIC, XAPIC), False),
        ((DISABLED, X2APIC), False),
        ((INVALID,), False),
        ((X2APIC, INVALID), False),
        ((DISABLED, INVALID), False),
    ],
)
def test_modes_change_as_the_manual_allows(cpu, way, legal):
    *first, last = (0xFEE0_0000 | BSP | mode for mode in way)
    for value in first:
        cpu.wrmsr(APIC_BASE, value)
    before = cpu.rdmsr(APIC_BASE)
    assert cpu.apic.write_msr(APIC_BASE, last) == legal
    assert cpu.rdmsr(APIC_BASE) == (last if legal else before)


@pytest.mark.parametrize("bits", [1, 1 << 9, 1 << 36, 1 << 63])
def test_reserved_bits_of_the_base_fault(cpu, bits):
    assert not cpu.apic.write_msr(APIC_BASE, cpu.rdmsr(APIC_BASE) | bits)


def test_x2apic_mode_faults_where_cpuid_has_none():
    cpu = Board(x2apic=False).cpus[0]
    assert not cpu.apic.write_msr(APIC_BASE, 0xFEE0_0000 | X2APIC)
    assert cpu.apic.read_msr(0x802) is None


def test_the_page_can_be_moved_and_is_gone_without_xapic_mode(cpu):
    assert cpu.apic.page == 0xFEE0_0000
    cpu.wrmsr(APIC_BASE, 0x8_FEE0_1000 | EN)
    assert cpu.apic.page == 0x8_FEE0_1000
    cpu.enter_x2apic()
    assert cpu.apic.page is None
    cpu.wrmsr(APIC_BASE, 0xFEE0_0000)
    assert cpu.apic.page is None


def test_without_an_apic_the_pins_are_intr_and_nmi():
    # §10.4.3
    board = Board(2)
    for offset, value in ((0, 0x11), (1, 0x30), (1, 0x04), (1, 0x01), (1, 0x00)):
        board.pic.write(offset, 1, value)
    cpu = board.cpus[1]
    board.pic.line(3).set(True)
    assert cpu.take() is None
    cpu.wrmsr(APIC_BASE, 0xFEE0_0000)
    assert cpu.take() == 0x33
    cpu.apic.lint1.set(True)
    assert cpu.events == ["nmi"]
    assert not board.bus.deliver(1, False, 4, 0, False)
    board.pic.line(1).set(True)
    assert cpu.told
    cpu.wrmsr(APIC_BASE, 0xFEE0_0000 | EN)
    assert cpu.take() is None


def test_an_apic_that_was_off_is_as_after_power_up():
    board = Board(2)
    cpu = board.cpus[1]
    interrupt(board, 0x41, destination=1)
    cpu.write(reg.TPR, 0x20)
    cpu.wrmsr(APIC_BASE, 0xFEE0_0000)
    cpu.wrmsr(APIC_BASE, 0xFEE0_0000 | EN)
    assert cpu.take() is None
    assert (cpu.read(reg.SVR), cpu.read(reg.TPR)) == (0xFF, 0)


def test_going_to_x2apic_mode_keeps_what_was_there(board, cpu):
    cpu.write(reg.TPR, 0x20)
    interrupt(board, 0x41)
    cpu.enter_x2apic()
    assert cpu.rdmsr(0x808) == 0x20
    assert cpu.rdmsr(0x80F) == 0x1FF
    assert cpu.take() == 0x41
    cpu.wrmsr(0x80B, 0)
    assert cpu.rdmsr(0x812) == 0


def test_x2apic_ids_have_32_bits_and_make_the_logical_ones():
    board = Board(35, enabled=False)
    for number in (0, 34):
        board.cpus[number].enter_x2apic()
    assert board.cpus[34].rdmsr(0x802) == 34
    assert board.cpus[34].rdmsr(0x80D) == 2 << 16 | 1 << 2
    assert board.cpus[0].rdmsr(0x80D) == 1


def test_msrs_fault_outside_x2apic_mode(cpu):
    assert cpu.apic.read_msr(0x802) is None
    assert not cpu.apic.write_msr(0x80B, 0)


@pytest.mark.parametrize("number", range(0x800, 0x900))
def test_msrs_allow_what_table_10_6_allows(cpu, number):
    rows = {0x800 + (row[0] >> 4): row for row in reg.REGISTERS}
    access = rows[number][3] if number in rows else ""
    cpu.enter_x2apic()
    assert (cpu.apic.read_msr(number) is not None) == ("R" in access)
    value = 0x40 if number == 0x83F else 0
    assert cpu.apic.write_msr(number, value) == ("W" in access)


@pytest.mark.parametrize(
    "number, value",
    [
        (0x80B, 1),  # EOI: "WRMSR of a non-zero value causes #GP(0)"
        (0x828, 1),  # ESR, the same
        (0x808, 0x100),
        (0x80F, 0x400),
        (0x83F, 0x100),
        (0x832, 1 << 19),
        (0x838, 1 << 32),
        (0x83E, 4),
        (0x830, 1 << 13),
    ],
)
def test_reserved_bits_of_an_msr_fault(cpu, number, value):
    cpu.enter_x2apic()
    assert not cpu.apic.write_msr(number, value)


def test_what_is_read_from_an_lvt_can_be_written_back(cpu):
    cpu.write(reg.LVT_LINT0, LEVEL | 0x31)
    cpu.apic.lint0.set(True)
    cpu.enter_x2apic()
    value = cpu.rdmsr(0x835)
    assert value == LEVEL | 1 << 14 | 0x31
    cpu.wrmsr(0x835, value | MASKED)
    assert cpu.rdmsr(0x835) & MASKED


def test_an_x2apic_ipi_is_one_write():
    board = Board(3)
    for cpu in board.cpus:
        cpu.enter_x2apic()
    first = board.cpus[0]

    def takers():
        found = []
        for number, cpu in enumerate(board.cpus):
            if cpu.take() is not None:
                cpu.wrmsr(0x80B, 0)
                found.append(number)
        return found

    first.wrmsr(0x830, 2 << 32 | 0xFD)
    assert first.rdmsr(0x830) == 2 << 32 | 0xFD
    assert takers() == [2]
    first.wrmsr(0x830, 0b011 << 32 | LOGICAL | 0xFD)
    assert takers() == [0, 1]
    first.wrmsr(0x830, 0xFFFF_FFFF << 32 | 0xFD)
    assert takers() == [0, 1, 2]
    first.wrmsr(0x830, 0xFF << 32 | 0xFD)
    assert takers() == []
    first.wrmsr(0x830, (1 << 16 | 0b001) << 32 | LOGICAL | 0xFD)
    assert takers() == []
    first.wrmsr(0x83F, 0xFD)
    assert takers() == [0]


def test_an_interrupt_for_all_of_8_bits_reaches_x2apics():
    board = Board(2)
    for cpu in board.cpus:
        cpu.enter_x2apic()
    board.route(4, 0x41, destination=0xFF)
    board.ioapic.line(4).set(True)
    assert [cpu.take() for cpu in board.cpus] == [0x41, 0x41]


def test_init_keeps_x2apic_mode():
    board = Board(2)
    for cpu in board.cpus:
        cpu.enter_x2apic()
    board.cpus[0].wrmsr(0x830, 1 << 32 | INIT | ASSERT)
    assert board.cpus[1].rdmsr(0x80F) == 0xFF
    assert board.cpus[1].rdmsr(0x80D) == 0b10


# Snapshots and hostile guests.


def test_restored_apics_go_on_as_the_saved_ones():
    saved, restored = Board(2), Board(2)
    first, second = saved.cpus
    interrupt(saved, 0x41, 0x61)
    first.take()
    interrupt(saved, 0x55, level=True)
    second.enter_x2apic()
    second.wrmsr(0x836, NMI)
    second.apic.lint1.set(True)
    second.events.clear()
    second.apic.waiting = False
    second.apic.accept(7, 0, False)  # ExtINT
    first.write(reg.LVT_ERROR, 0xFE | MASKED)
    first.read(0x040)
    first.write(reg.TPR, 0x3A)
    first.write(reg.LVT_LINT0, LEVEL | 0x31)
    first.apic.lint0.set(True)
    for ours, theirs in zip(saved.cpus, restored.cpus):
        theirs.told = None
        theirs.apic.load(json.loads(json.dumps(ours.apic.save())))

    def story(board):
        first, second = board.cpus
        assert (first.told, second.told) == (False, True)
        seen = [first.read(row[0]) for row in reg.REGISTERS if "R" in row[2]]
        second.apic.lint1.set(True)  # no edge
        seen += [second.rdmsr(0x80D), list(second.events), second.apic.waiting, second.take()]
        first.eoi()
        seen += [first.take(), first.read(reg.ISR + 0x20)]
        first.write(reg.ESR, 0)
        return [*seen, first.read(reg.ESR)]

    assert story(restored) == story(saved)


def test_a_reset_forgets_everything():
    board = Board(2)
    fresh = [cpu.apic.save() for cpu in Board(2, enabled=False).cpus]
    for cpu in board.cpus:
        cpu.write(reg.LVT_TIMER, 1 << 17 | 0x40)
        cpu.write(reg.INITIAL_COUNT, 10**6)
        cpu.enter_x2apic()
    interrupt(board, 0x41)
    board.cpus[0].take()
    for cpu in board.cpus:
        cpu.apic.reset()
    assert [cpu.apic.save() for cpu in board.cpus] == fresh
    board.clock.advance(10**9)
    assert [cpu.take() for cpu in board.cpus] == [None, None]


@pytest.mark.parametrize("seed", range(8))
def test_every_guest_access_is_answered(seed):
    guest = random.Random(seed)
    board = Board(3)
    offsets = [row[0] for row in reg.REGISTERS]
    for _ in range(6_000):
        cpu = guest.choice(board.cpus)
        chance = guest.random()
        offset = guest.choice(offsets) if guest.random() < 0.9 else guest.randrange(0x1000)
        number = guest.choice((APIC_BASE, TSC_DEADLINE, 0x800 + (offset >> 4), 0x830))
        value = guest.getrandbits(guest.choice((8, 16, 20, 32, 64)))
        if chance < 0.35:
            size = guest.choice((1, 2, 4, 4, 4, 4))
            cpu.apic.write(offset, size, value & (1 << 8 * size) - 1)
        elif chance < 0.5:
            assert cpu.apic.read(offset, 4) >= 0
        elif chance < 0.65:
            if number == APIC_BASE:
                value = 0xFEE0_0000 | guest.choice((0, EN, EN, EN | EXTD, EXTD)) | guest.choice((0, BSP))
            cpu.apic.write_msr(number, value)
        elif chance < 0.7:
            cpu.apic.read_msr(number)
        elif chance < 0.8:
            interrupt(board, guest.randrange(256), destination=guest.randrange(4), level=guest.random() < 0.3)
        elif chance < 0.85:
            guest.choice((cpu.apic.lint0, cpu.apic.lint1)).set(guest.random() < 0.5)
        elif chance < 0.95:
            vector = cpu.take()
            assert vector is None or 0 <= vector <= 0xFF
            if guest.random() < 0.8:
                cpu.eoi()
        else:
            board.clock.advance(guest.choice((1, 1000, 10**6)))
        cpu.events.clear()
        if guest.random() < 0.05:
            cpu.apic.reset()
            cpu.enable()
    for cpu in board.cpus:
        assert len(json.dumps(cpu.apic.save())) < 2000
