"""ACPI's fixed hardware, driven as ACPICA and Linux drive it."""

import json
import random

import pytest
from doubles import Clock, Line

from pykvm.devices.bus import PortBus
from pykvm.devices.power import PM_PORT, PM_PORTS, PM_TIMER_HZ, RESET_REG, RESET_VALUE, Power, ResetControl

SECOND = 10**9
STATUS, ENABLE, CONTROL, TIMER = 0x600, 0x602, 0x604, 0x608
TMR, GBL, PWRBTN, RTC = 1, 1 << 5, 1 << 8, 1 << 10
SLP_EN = 1 << 13


class Machine:
    def __init__(self):
        self.sci, self.clock, self.bus, self.ends = Line(), Clock(), PortBus(), []
        self.power = Power(self.sci, self.clock, lambda: self.ends.append("poweroff"))
        self.bus.attach(self.power, PM_PORT, PM_PORTS, width=4)
        self.read, self.write = self.bus.read, self.bus.write


@pytest.fixture
def machine():
    return Machine()


def test_acpi_is_always_enabled(machine):
    assert machine.read(CONTROL, 2) & 1
    machine.write(CONTROL, 2, 0)
    assert machine.read(CONTROL, 2) & 1


def test_s5_powers_off(machine):
    machine.write(CONTROL, 2, 5 << 10)
    assert machine.ends == []
    machine.write(CONTROL, 2, 5 << 10 | SLP_EN)
    assert machine.ends == ["poweroff"]


def test_s5_by_bytes_powers_off(machine):
    machine.write(CONTROL + 1, 1, (5 << 10 | SLP_EN) >> 8)
    assert machine.ends == ["poweroff"]


@pytest.mark.parametrize("state", [0, 1, 3, 4, 6, 7])
def test_other_sleep_states_do_nothing(machine, state):
    machine.write(CONTROL, 2, state << 10 | SLP_EN)
    assert machine.ends == []


def test_slp_en_is_write_only(machine):
    # ACPI 6.5 table 4.13: "This is a write-only bit and reads to it always return a zero."
    machine.write(CONTROL, 2, 1 << 10 | SLP_EN)
    assert machine.read(CONTROL, 2) == 1 << 10 | 1


def test_power_button_raises_a_level_until_its_status_is_cleared(machine):
    machine.write(ENABLE, 2, PWRBTN)
    machine.power.press_button()
    assert machine.sci.level
    assert machine.read(STATUS, 2) == PWRBTN
    machine.write(STATUS, 2, TMR | GBL)
    assert machine.sci.level
    machine.write(STATUS, 2, PWRBTN)
    assert machine.read(STATUS, 2) == 0
    assert not machine.sci.level


def test_writing_zero_clears_no_status(machine):
    machine.power.press_button()
    machine.write(STATUS, 2, 0)
    assert machine.read(STATUS, 2) == PWRBTN


def test_event_that_is_not_enabled_waits(machine):
    machine.power.press_button()
    assert not machine.sci.level
    machine.write(ENABLE, 2, PWRBTN)
    assert machine.sci.level
    machine.write(ENABLE, 2, 0)
    assert not machine.sci.level


def test_dword_write_clears_status_and_sets_enables_at_once(machine):
    machine.power.press_button()
    machine.write(STATUS, 4, (PWRBTN | GBL) << 16 | PWRBTN)
    assert machine.read(STATUS, 4) == (PWRBTN | GBL) << 16
    assert not machine.sci.level


def test_byte_write_leaves_the_other_byte(machine):
    machine.write(ENABLE, 2, PWRBTN | GBL)
    machine.write(ENABLE, 1, 0)
    assert machine.read(ENABLE, 2) == PWRBTN
    machine.write(ENABLE + 1, 1, 0)
    assert machine.read(ENABLE, 2) == 0


def test_enables_of_events_that_do_not_exist_read_zero(machine):
    machine.write(ENABLE, 2, 0xFFFF)
    assert machine.read(ENABLE, 2) == TMR | GBL | PWRBTN | RTC


def test_timer_runs_at_3_579545_mhz_in_32_bits(machine):
    machine.clock.advance(SECOND)
    assert machine.read(TIMER, 4) == PM_TIMER_HZ
    machine.clock.advance(3599 * SECOND)
    assert machine.read(TIMER, 4) == 3600 * PM_TIMER_HZ % 2**32


def test_timer_is_read_only(machine):
    machine.clock.advance(SECOND)
    machine.write(TIMER, 4, 0)
    assert machine.read(TIMER, 4) == PM_TIMER_HZ


def test_timer_status_tells_each_change_of_the_top_bit(machine):
    # ACPI 6.5 §4.8.4.3: "any time the last bit of the timer (bit 23 or bit 31) toggles"
    half = -(-(2**31) * SECOND // PM_TIMER_HZ)
    machine.clock.advance(half - 1)
    assert not machine.read(STATUS, 2) & TMR
    machine.clock.advance(1)
    assert machine.read(STATUS, 2) & TMR
    machine.write(STATUS, 2, TMR)
    assert not machine.read(STATUS, 2) & TMR
    machine.clock.advance(half)
    assert machine.read(STATUS, 2) & TMR


def test_enabled_timer_event_raises_the_sci_each_time(machine):
    machine.write(ENABLE, 2, TMR)
    half = -(-(2**31) * SECOND // PM_TIMER_HZ)
    for turn in (1, 2, 3):
        machine.clock.advance(half)
        assert (machine.sci.level, machine.sci.edges) == (True, turn)
        machine.write(STATUS, 2, TMR)
        assert not machine.sci.level


def test_toggling_the_timers_enable_leaves_one_timer(machine):
    for _ in range(10_000):
        machine.write(ENABLE, 2, TMR)
        machine.write(ENABLE, 2, 0)
    assert len(machine.clock._queue) == 1


def test_every_access_of_any_size_is_answered(machine):
    guest = random.Random(6)
    for _ in range(10_000):
        port, size = guest.randrange(PM_PORT - 3, PM_PORT + PM_PORTS), guest.choice((1, 2, 4))
        machine.write(port, size, guest.getrandbits(8 * size))
        assert 0 <= machine.read(port, size) < 1 << 8 * size
        machine.clock.advance(guest.randrange(10**11))


def test_restored_power_goes_on_as_the_saved_one(machine):
    machine.clock.advance(700 * SECOND)
    machine.write(STATUS, 2, TMR)
    machine.write(ENABLE, 2, PWRBTN | TMR)
    machine.write(CONTROL, 2, 3 << 10)
    machine.power.press_button()
    other = Machine()
    other.clock.advance(5 * SECOND)
    for _ in range(2):  # a rollback loads what was loaded before
        other.power.load(json.loads(json.dumps(machine.power.save())))
    assert other.sci.level
    for each in (machine, other):
        each.write(STATUS, 2, PWRBTN)
        each.clock.advance(450 * SECOND)
    for port, size in ((STATUS, 4), (CONTROL, 2), (TIMER, 4)):
        assert other.read(port, size) == machine.read(port, size)
    for each in (machine, other):
        each.clock.advance(60 * SECOND)
        assert each.sci.level


# The reset register.


@pytest.fixture
def reset():
    return Reset()


class Reset:
    def __init__(self):
        self.bus, self.resets = PortBus(), []
        self.control = ResetControl(lambda: self.resets.append(1))
        self.bus.attach(self.control, RESET_REG, 1)


def test_the_fadts_reset_value_resets(reset):
    reset.bus.write(RESET_REG, 1, RESET_VALUE)
    assert len(reset.resets) == 1


def test_linux_reboot_by_cf9_resets(reset):
    # arch/x86/kernel/reboot.c, BOOT_CF9_SAFE: read, request hard reset, then actually do it.
    cf9 = reset.bus.read(RESET_REG, 1) & ~0x06
    reset.bus.write(RESET_REG, 1, cf9 | 0x02)
    assert reset.resets == []
    reset.bus.write(RESET_REG, 1, cf9 | 0x06)
    assert len(reset.resets) == 1


def test_reset_register_keeps_the_kind_of_reset_over_a_snapshot(reset):
    reset.bus.write(RESET_REG, 1, 0x0A)
    other = Reset()
    other.control.load(json.loads(json.dumps(reset.control.save())))
    assert other.bus.read(RESET_REG, 1) == 0x0A
