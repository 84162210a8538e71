"""The keyboard controller and its keyboard as BIOSes, Linux (i8042, atkbd) and small systems drive them."""

from __future__ import annotations

import random

import pytest
from doubles import Line

from pykvm.devices.bus import PortBus
from pykvm.devices.fasta20 import FastA20
from pykvm.devices.i8042 import I8042

OBF, IBF, SYS, COMMAND, UNLOCKED, AUX, TIMEOUT = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40
INTERRUPT, DISABLED, TRANSLATE = 0x01, 0x10, 0x40


class Board:
    """The controller at its ports, and how drivers talk to it: no one waits, an answer is there or isn't."""

    def __init__(self) -> None:
        self.line = Line()
        self.resets = 0
        self.controller = I8042(self.line, self.reset)
        self.bus = PortBus()
        self.bus.attach(self.controller, 0x60, 1)
        self.bus.attach(self.controller, 0x64, 1, offset=4)

    def reset(self) -> None:
        self.resets += 1

    def status(self) -> int:
        return self.bus.read(0x64, 1)

    def data(self) -> int:
        return self.bus.read(0x60, 1)

    def command(self, command: int, *options: int) -> None:
        assert not self.status() & IBF
        self.bus.write(0x64, 1, command)
        for option in options:
            assert not self.status() & IBF
            self.bus.write(0x60, 1, option)

    def ask(self, command: int, *options: int) -> int:
        self.command(command, *options)
        assert self.status() & OBF, f"no answer to {command:#x}"
        return self.data()

    def send(self, *bytes_: int) -> list[int]:
        """Give bytes to the keyboard, and read all that comes back."""
        for byte in bytes_:
            self.bus.write(0x60, 1, byte)
        return self.drain()

    def drain(self) -> list[int]:
        got = []
        while self.status() & OBF:
            assert not self.status() & (AUX | TIMEOUT)
            got.append(self.data())
        return got

    def by_interrupts(self) -> list[int]:
        """What a driver gets that reads one byte for each edge of the line."""
        got, handled = [], 0
        while self.line.edges > handled:
            handled = self.line.edges
            if self.status() & OBF:
                got.append(self.data())
        return got


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def plain(board: Board) -> Board:
    """Without translation: the keyboard's own codes."""
    board.command(0x60, INTERRUPT)
    return board


# The controller


def test_after_reset_it_is_as_a_bios_leaves_it(board: Board) -> None:
    assert board.status() == SYS | UNLOCKED
    assert board.ask(0x20) == 0x65  # interrupt, system flag, no mouse, translation
    assert not board.line.level


def test_it_passes_its_self_test(board: Board) -> None:
    board.command(0x60, 0x00)
    assert not board.status() & SYS
    assert board.ask(0xAA) == 0x55
    assert board.status() & SYS


@pytest.mark.parametrize(("command", "answer"), [(0xAB, 0x00), (0xA9, 0x01), (0xA4, 0xF1), (0xC0, 0x80)])
def test_a_question_has_its_answer_at_once(board: Board, command: int, answer: int) -> None:
    assert board.ask(command) == answer
    assert not board.status() & OBF


def test_the_status_tells_commands_from_data(board: Board) -> None:
    board.command(0x60)
    assert board.status() & COMMAND
    board.bus.write(0x60, 1, 0x45)
    assert not board.status() & COMMAND


def test_all_of_the_ram_is_written_and_read(board: Board) -> None:
    for n in range(1, 32):
        board.command(0x60 + n, n ^ 0xA5)
    assert [board.ask(0x20 + n) for n in range(1, 32)] == [n ^ 0xA5 for n in range(1, 32)]
    assert board.ask(0x20) == 0x65


@pytest.mark.parametrize(("disable", "enable", "bit"), [(0xAD, 0xAE, DISABLED), (0xA7, 0xA8, 0x20)])
def test_ports_are_disabled_and_enabled_in_the_command_byte(
    board: Board, disable: int, enable: int, bit: int
) -> None:
    board.command(enable)
    before = board.ask(0x20)
    board.command(disable)
    assert board.ask(0x20) == before | bit
    board.command(enable)
    assert board.ask(0x20) == before & ~bit


def test_a_byte_that_was_read_stays_on_the_port(board: Board) -> None:
    assert board.ask(0xAA) == 0x55
    assert board.data() == 0x55
    assert not board.status() & OBF


def test_an_answer_takes_the_place_of_one_that_was_not_read(board: Board) -> None:
    board.command(0xAA)
    assert board.ask(0xAB) == 0x00
    assert not board.status() & OBF


def test_a_command_takes_the_place_of_an_option(board: Board) -> None:
    board.command(0x60)
    assert board.ask(0x20) == 0x65
    assert board.send(0xEE) == [0xEE]  # data is the keyboard's again


def test_a_command_that_is_unknown_does_nothing(board: Board) -> None:
    for command in (0x00, 0x1F, 0x40, 0x5F, 0x80, 0xB0, 0xC8, 0xE0, 0xEF):
        board.command(command)
    assert not board.status() & OBF
    assert board.resets == 0


# Reset and A20


def test_linux_reboots_by_a_pulse(board: Board) -> None:
    board.command(0xFE)
    assert board.resets == 1
    board.command(0xF0)  # all four lines
    assert board.resets == 2


@pytest.mark.parametrize("command", [0xF1, 0xFF, 0xFD, 0xF5])
def test_a_pulse_that_spares_line_0_does_not_reset(board: Board, command: int) -> None:
    board.command(command)
    assert board.resets == 0


def test_the_output_port_resets_where_bit_0_is_clear(board: Board) -> None:
    board.command(0xD1, 0xDF)
    assert board.resets == 0
    board.command(0xD1, 0xDE)
    assert board.resets == 1


def test_a_small_system_opens_the_a20_gate(board: Board) -> None:
    """As xv6 and many a boot sector do."""
    assert board.ask(0xD0) & 0x03 == 0x03
    board.command(0xD1, 0xDD)
    assert board.ask(0xD0) & 0x03 == 0x01
    board.command(0xD1, 0xDF)
    assert board.ask(0xD0) & 0x03 == 0x03
    board.command(0xDD)
    assert board.ask(0xD0) & 0x03 == 0x01
    board.command(0xDF)
    assert board.ask(0xD0) & 0x03 == 0x03


def test_the_output_port_shows_the_buffer(board: Board) -> None:
    board.controller.key(b"\x1c")
    assert board.ask(0xD0) & 0x30 == 0x10
    board.command(0xD4, 0xFF)
    assert board.ask(0xD0) & 0x30 == 0x20
    assert board.ask(0xD0) & 0x30 == 0x00


def test_the_fast_port_resets_on_a_rising_bit_and_keeps_the_gate() -> None:
    resets: list[None] = []
    port = FastA20(lambda: resets.append(None))
    assert port.read(0, 1) == 0x02
    port.write(0, 1, 0x00)
    assert port.read(0, 1) == 0x00
    port.write(0, 1, 0xFE)
    assert port.read(0, 1) == 0x02
    assert not resets
    port.write(0, 1, 0x03)
    port.write(0, 1, 0x03)
    assert len(resets) == 1
    copy = FastA20(lambda: resets.append(None))
    copy.load(port.save())
    copy.write(0, 1, 0x01)
    assert len(resets) == 1
    copy.write(0, 1, 0x00)
    copy.write(0, 1, 0x01)
    assert len(resets) == 2


# The line


def test_the_line_is_up_while_a_byte_waits(board: Board) -> None:
    board.controller.key(b"\x1c")
    assert board.line.level
    board.data()
    assert not board.line.level


def test_each_byte_makes_an_edge(board: Board) -> None:
    board.controller.key(b"\x1c\xf0\x1c\x32")
    assert board.by_interrupts() == [0x1E, 0x9E, 0x30]
    assert board.line.edges == 3


def test_an_answer_over_an_unread_key_makes_an_edge_too(board: Board) -> None:
    board.controller.key(b"\x1c")
    board.command(0xAA)
    assert board.line.edges == 2


def test_without_the_interrupt_bit_the_line_stays_down(board: Board) -> None:
    board.command(0x60, TRANSLATE)
    board.controller.key(b"\x1c")
    assert not board.line.level
    board.command(0x60, TRANSLATE | INTERRUPT)
    assert board.line.level
    board.command(0x60, TRANSLATE)
    assert not board.line.level


def test_the_mouses_bytes_are_not_on_the_keyboards_line(board: Board) -> None:
    board.command(0xD4, 0xF4)
    assert board.status() & (OBF | AUX | TIMEOUT) == OBF | AUX | TIMEOUT
    assert not board.line.level
    assert board.data() == 0xFE
    assert board.status() & (OBF | AUX | TIMEOUT) == 0


def test_a_byte_can_be_put_there_as_if_it_were_a_key(board: Board) -> None:
    assert board.ask(0xD2, 0x1C) == 0x1C  # as it is: this one is not translated
    assert board.line.edges == 1


# The keyboard


def test_keys_come_in_set_1_for_a_pc(board: Board) -> None:
    """A pressed and let go, Enter, right Ctrl let go, F7 (0x83), Pause."""
    board.controller.key(b"\x1c\xf0\x1c\x5a")
    assert board.drain() == [0x1E, 0x9E, 0x1C]
    board.controller.key(b"\xe0\xf0\x14\x83\xf0\x83")
    assert board.drain() == [0xE0, 0x9D, 0x41, 0xC1]
    board.controller.key(b"\xe1\x14\x77\xe1\xf0\x14\xf0\x77")
    assert board.drain() == [0xE1, 0x1D, 0x45, 0xE1, 0x9D, 0xC5]


def test_the_letters_are_where_set_1_has_them(board: Board) -> None:
    rows = {
        0x10: "15 1d 24 2d 2c 35 3c 43 44 4d",  # Q to P
        0x1E: "1c 1b 23 2b 34 33 3b 42 4b",  # A to L
        0x2C: "1a 22 21 2a 32 31 3a",  # Z to M
        0x02: "16 1e 26 25 2e 36 3d 3e 46 45",  # 1 to 0
        0x3B: "05 06 04 0c 03 0b 83 0a 01 09",  # F1 to F10
        0x47: "6c 75 7d 7b 6b 73 74 79 69 72 7a 70 71",  # keypad 7 to the point
    }
    for first, codes in rows.items():
        for n, code in enumerate(bytes.fromhex(codes)):
            board.controller.key(bytes([code]))
            assert board.drain() == [first + n]


def test_a_byte_that_is_no_code_of_a_key_goes_through(board: Board) -> None:
    board.controller.key(b"\x84\x85\xee\xff")
    assert board.drain() == [0x54, 0x85, 0xEE, 0xFF]


def test_keys_come_in_set_2_where_the_guest_takes_translation_away(plain: Board) -> None:
    plain.controller.key(b"\x1c\xf0\x1c")
    assert plain.drain() == [0x1C, 0xF0, 0x1C]


def test_the_keyboard_itself_knows_set_1(plain: Board) -> None:
    assert plain.send(0xF0, 0x01) == [0xFA, 0xFA]
    plain.controller.key(b"\x1c\xf0\x1c")
    assert plain.drain() == [0x1E, 0x9E]
    assert plain.send(0xF0, 0x00) == [0xFA, 0xFA, 0x01]
    assert plain.send(0xF0, 0x02) == [0xFA, 0xFA]
    assert plain.send(0xF0, 0x00) == [0xFA, 0xFA, 0x02]
    assert plain.send(0xF0, 0x03) == [0xFA, 0xFE]  # set 3 is not there


def test_a_disabled_port_keeps_the_keys_until_it_is_enabled(board: Board) -> None:
    board.command(0xAD)
    board.controller.key(b"\x1c")
    assert not board.status() & OBF
    board.command(0xAE)
    assert board.drain() == [0x1E]
    board.command(0x60, INTERRUPT | DISABLED)
    board.controller.key(b"\x1c")
    assert not board.status() & OBF
    board.command(0x60, INTERRUPT)
    assert board.drain() == [0x1C]


def test_a_byte_for_the_keyboard_enables_its_port(board: Board) -> None:
    board.command(0xAD)
    assert board.send(0xEE) == [0xEE]
    assert not board.ask(0x20) & DISABLED


@pytest.mark.parametrize(
    ("sent", "got"),
    [
        ([0xFF], [0xFA, 0xAA]),
        ([0xF2], [0xFA, 0xAB, 0x83]),
        ([0xEE], [0xEE]),
        ([0xF3, 0x20], [0xFA, 0xFA]),
        ([0xF4], [0xFA]),
        ([0xF5], [0xFA]),
        ([0xF6], [0xFA]),
        ([0xED, 0x07], [0xFA, 0xFA]),
        ([0xED, 0xEE], [0xFA, 0xEE]),  # a command in place of the option
        ([0xED, 0xED, 0x07], [0xFA, 0xFA, 0xFA]),
        ([0xF9], [0xFE]),
        ([0x00], [0xFE]),
        ([0xF2, 0xFE], [0xFA, 0xAB, 0x83, 0x83]),
    ],
)
def test_the_keyboard_answers_each_command(plain: Board, sent: list[int], got: list[int]) -> None:
    answers = []
    for byte in sent:
        answers += plain.send(byte)
    assert answers == got


def test_its_identity_is_translated_as_any_code_is(board: Board) -> None:
    assert board.send(0xF2) == [0xFA, 0xAB, 0x41]


def test_resend_gives_the_last_byte_again_and_no_acknowledge(plain: Board) -> None:
    plain.controller.key(b"\x1c\x32")
    assert plain.drain() == [0x1C, 0x32]
    assert plain.send(0xFE) == [0x32]
    assert plain.send(0xFE) == [0x32]


@pytest.mark.parametrize(("command", "enabled"), [(0xF4, True), (0xF5, False), (0xF6, True), (0xFF, True)])
def test_commands_that_clear_the_keys(plain: Board, command: int, enabled: bool) -> None:
    plain.command(0xAD)
    plain.controller.key(b"\x1c")
    assert 0x1C not in plain.send(command)
    plain.controller.key(b"\x32")
    assert plain.drain() == ([0x32] if enabled else [])


def test_defaults_leave_a_disabled_keyboard_disabled_and_reset_enables_it(plain: Board) -> None:
    plain.send(0xF5)
    plain.send(0xF6)
    assert plain.controller.key(b"\x1c")  # it is lost, which is no reason to keep it
    assert plain.drain() == []
    plain.send(0xFF)
    plain.controller.key(b"\x1c")
    assert plain.drain() == [0x1C]


def test_enable_lets_a_disabled_keyboard_report_again(plain: Board) -> None:
    plain.send(0xF5)
    plain.send(0xF4)
    plain.controller.key(b"\x1c")
    assert plain.drain() == [0x1C]


def test_a_change_of_set_leaves_no_key_of_the_other(plain: Board) -> None:
    plain.command(0xAD)
    plain.controller.key(b"\xf0\x1c")
    assert plain.send(0xF0, 0x01) == [0xFA, 0xFA]


def test_defaults_bring_set_2_back(plain: Board) -> None:
    plain.send(0xF0, 0x01)
    plain.send(0xF6)
    assert plain.send(0xF0, 0x00) == [0xFA, 0xFA, 0x02]


def test_answers_go_before_keys(plain: Board) -> None:
    plain.command(0xAD)
    plain.controller.key(b"\x1c")
    assert plain.send(0xED, 0x00) == [0xFA, 0xFA, 0x1C]
    plain.command(0xAD)
    plain.controller.key(b"\x1c")
    assert plain.send(0xEE) == [0xEE, 0x1C]


def test_keys_that_do_not_fit_are_refused_whole(plain: Board) -> None:
    plain.command(0xAD)
    assert plain.controller.key(b"\x1c" * 15)
    assert not plain.controller.key(b"\xf0\x1c")
    assert plain.controller.key(b"\x32")
    plain.command(0xAE)
    assert plain.drain() == [0x1C] * 15 + [0x32]
    assert plain.controller.key(b"\xf0\x1c")


def test_a_guest_that_reads_no_answers_costs_no_memory(plain: Board) -> None:
    for _ in range(1000):
        plain.bus.write(0x60, 1, 0xF2)
    got = plain.drain()
    assert len(got) <= 17
    assert got[:3] == [0xFA, 0xAB, 0x83]


# Linux's drivers


def test_linux_sets_the_controller_up_without_a_wait_or_a_warning(board: Board) -> None:
    """drivers/input/serio/i8042.c: check, self test, init, no mouse, keyboard port."""
    assert board.drain() == []
    assert board.ask(0xAA) == 0x55
    ctr = board.ask(0x20)
    assert board.ask(0x20) == ctr
    assert board.status() & UNLOCKED, "Keylock active"
    assert ctr & TRANSLATE
    ctr = (ctr | DISABLED) & ~INTERRUPT
    board.command(0x60, ctr)
    assert board.drain() == []
    edges = board.line.edges
    # The loop test fails at once, as the byte is not the mouse's; the port test then says "absent".
    board.command(0xD3, 0x5A)
    assert board.status() & (OBF | AUX) == OBF
    assert board.ask(0xA9) not in (0x00, 0xFA, 0xFF)
    assert board.drain() == []
    board.command(0x60, (ctr & ~DISABLED) | INTERRUPT)
    assert board.line.edges == edges, "an interrupt without a byte, or a byte that nobody typed"


def test_linux_finds_an_at_keyboard(board: Board) -> None:
    """drivers/input/keyboard/atkbd.c: each byte is sent when the one before was acknowledged by interrupt."""
    edges = board.line.edges

    def command(*sent: int, answers: int = 0) -> list[int]:
        nonlocal edges
        got = []
        for byte in sent:
            board.bus.write(0x60, 1, byte)
            assert board.line.edges > edges
            edges = board.line.edges
            assert board.data() == 0xFA
        for _ in range(answers):
            assert board.line.edges > edges
            edges = board.line.edges
            got.append(board.data())
        return got

    assert command(0xF2, answers=2) in ([0xAB, 0x83], [0xAB, 0x41])
    command(0xF5)
    command(0xED, 0x00)
    command(0xF3, 0x00)
    command(0xF4)
    assert not board.status() & OBF


def test_linux_blinks_its_leds_in_a_panic(board: Board) -> None:
    for led in (0x05, 0x00):
        assert not board.status() & IBF
        board.bus.write(0x60, 1, 0xED)
        assert not board.status() & IBF
        board.bus.write(0x60, 1, led)
    assert set(board.drain()) == {0xFA}


# State, and guests that mean no good


def test_a_copy_made_between_the_prefix_and_its_code_goes_on_alike(board: Board) -> None:
    board.command(0xAD)
    board.controller.key(b"\xf0")
    board.command(0xAE)  # the controller has seen the prefix, and has nothing to give yet
    assert not board.status() & OBF
    copy = Board()
    copy.controller.load(board.controller.save())
    copy.controller.key(b"\x1c")
    assert copy.drain() == [0x9E]


def test_loading_sets_the_line_whatever_it_was(board: Board) -> None:
    idle = board.controller.save()
    board.controller.key(b"\x1c")
    full = board.controller.save()
    board.controller.load(idle)
    assert not board.line.level
    board.controller.load(full)
    assert board.line.level
    line = Line()
    line.set(True)
    I8042(line, lambda: None).load(idle)
    assert not line.level


@pytest.mark.parametrize("seed", range(20))
def test_no_guest_breaks_it_and_a_copy_made_in_the_middle_of_work_goes_on_alike(seed: int) -> None:
    chance = random.Random(seed)
    board, trace = Board(), []
    interesting = (
        0x20,
        0x60,
        0xAD,
        0xAE,
        0xD0,
        0xD2,
        0xD4,
        0xED,
        0xF0,
        0xF2,
        0xF4,
        0xFE,
        0xFF,
        0x01,
        0x02,
        0x45,
    )
    for _ in range(40):
        copy = Board()
        copy.controller.load(board.controller.save())
        assert copy.controller.save() == board.controller.save()
        assert copy.line.level == board.line.level
        board.resets = 0
        for _ in range(40):
            action = chance.choice(("data", "status", "read", "read", "key"))
            value = chance.choice((chance.randrange(256), *chance.choices(interesting, k=3)))
            codes = bytes(chance.choice((0x1C, 0xF0, 0xE0, 0x83)) for _ in range(chance.randrange(4)))
            trace.append((action, value, codes))
            results = []
            for one in (board, copy):
                if action == "data":
                    one.bus.write(0x60, 1, value)
                elif action == "status":
                    one.bus.write(0x64, 1, value)
                elif action == "read":
                    results += [one.status(), one.data()]
                else:
                    results += [one.controller.key(codes), 0]
            assert results[:2] == results[2:], trace[-50:]
            assert (board.line.level, board.resets) == (copy.line.level, copy.resets), trace[-50:]
        keyboard = board.controller.save()["keyboard"]
        assert len(keyboard["keys"]) <= 16
        assert len(keyboard["answers"]) <= 16
