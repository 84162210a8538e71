"""The 16550A as drivers drive it: polled, by interrupts in good and bad style, and Linux's own probes.

"DS" is the data sheet of the PC16550D.
"""

from __future__ import annotations

import random

import pytest
from doubles import Line

from pykvm.devices.serial import Serial
from pykvm.devices.serialregisters import (
    FCR,
    FCR_ENABLE,
    FCR_RESET_RCVR,
    FCR_RESET_XMIT,
    FIFO_DEPTH,
    IER,
    IER_EDSSI,
    IER_ELSI,
    IER_ERBFI,
    IER_ETBEI,
    IIR,
    IIR_DATA,
    IIR_FIFOS,
    IIR_LINE_STATUS,
    IIR_MODEM_STATUS,
    IIR_NONE,
    IIR_THR_EMPTY,
    IIR_TIMEOUT,
    LCR,
    LCR_BREAK,
    LCR_DLAB,
    LSR,
    LSR_BI,
    LSR_DR,
    LSR_FIFO_ERROR,
    LSR_OE,
    LSR_TEMT,
    LSR_THRE,
    MCR,
    MCR_DTR,
    MCR_LOOP,
    MCR_OUT1,
    MCR_OUT2,
    MCR_RTS,
    MSR,
    MSR_CTS,
    MSR_DCD,
    MSR_DSR,
    MSR_RI,
    MSR_TERI,
    RBR,
    SCR,
    THR,
)  # fmt: skip

EMPTY = LSR_THRE | LSR_TEMT
TRIGGER_14 = 0xC0


class Terminal:
    """A sink that has room for so many bytes."""

    def __init__(self, space: int = 1 << 30) -> None:
        self.space = space
        self.text = bytearray()

    def put(self, byte: int) -> bool:
        if not self.space:
            return False
        self.space -= 1
        self.text.append(byte)
        return True


class Board:
    """A serial port with its line and its terminal, and what a driver has: in and out."""

    def __init__(self, space: int = 1 << 30) -> None:
        self.line = Line()
        self.terminal = Terminal(space)
        self.serial = Serial(self.line, self.terminal)

    def inb(self, offset: int) -> int:
        return self.serial.read(offset, 1)

    def outb(self, offset: int, value: int) -> None:
        self.serial.write(offset, 1, value)

    def start(self, *, fcr: int = FCR_ENABLE, ier: int = 0) -> None:
        """As a driver opens the port."""
        self.outb(LCR, 0x03)
        self.outb(FCR, fcr)
        self.outb(MCR, MCR_DTR | MCR_RTS | MCR_OUT2)
        self.outb(IER, ier)

    def source(self) -> int:
        return self.inb(IIR) & 0x0F


@pytest.fixture
def board() -> Board:
    return Board()


# Registers


def test_after_reset_it_is_a_16450_with_an_empty_transmitter(board: Board) -> None:
    assert [board.inb(offset) for offset in (IER, IIR, LCR, MCR, LSR)] == [0, IIR_NONE, 0, 0, EMPTY]
    assert board.inb(MSR) == MSR_CTS | MSR_DSR | MSR_DCD
    assert not board.line.level


def test_the_divisor_is_behind_dlab_and_nothing_is_sent_by_setting_it(board: Board) -> None:
    board.outb(IER, IER_ERBFI)
    board.outb(LCR, LCR_DLAB | 3)
    board.outb(0, 0x0C)
    board.outb(1, 0x01)
    assert (board.inb(0), board.inb(1)) == (0x0C, 0x01)
    board.outb(0, 0x30)
    board.outb(1, 0x02)
    assert (board.inb(0), board.inb(1)) == (0x30, 0x02)
    board.outb(LCR, 3)
    assert board.inb(IER) == IER_ERBFI
    assert not board.terminal.text


def test_reserved_bits_read_as_zero(board: Board) -> None:
    board.outb(IER, 0xFF)
    board.outb(MCR, 0xFF)
    assert (board.inb(IER), board.inb(MCR)) == (0x0F, 0x1F)


def test_the_scratch_register_keeps_what_is_written(board: Board) -> None:
    for value in (0xA5, 0x5A):
        board.outb(SCR, value)
        assert board.inb(SCR) == value


def test_lsr_and_msr_are_not_written(board: Board) -> None:
    board.outb(LSR, 0)
    board.outb(MSR, 0)
    assert board.inb(LSR) == EMPTY
    assert board.inb(MSR) == MSR_CTS | MSR_DSR | MSR_DCD


# Sending


def test_a_polling_driver_sends_its_text(board: Board) -> None:
    for byte in b"Hello\n":
        assert board.inb(LSR) & LSR_THRE
        board.outb(THR, byte)
    assert board.terminal.text == b"Hello\n"


def test_early_printk_sets_the_port_up_and_prints(board: Board) -> None:
    for offset, value in ((LCR, 0x03), (IER, 0), (FCR, 0), (MCR, 0x03)):
        board.outb(offset, value)
    lcr = board.inb(LCR)
    for offset, value in ((LCR, lcr | LCR_DLAB), (0, 1), (1, 0), (LCR, lcr & ~LCR_DLAB)):
        board.outb(offset, value)
    for byte in b"early console":
        assert board.inb(LSR) & LSR_THRE
        board.outb(THR, byte)
    assert board.terminal.text == b"early console"
    assert board.line.edges == 0


@pytest.mark.parametrize(("fcr", "kept"), [(0, 1), (FCR_ENABLE, FIFO_DEPTH)])
def test_a_full_terminal_leaves_thre_clear_until_there_is_room(fcr: int, kept: int) -> None:
    board = Board(space=3)
    board.start(fcr=fcr)
    for byte in b"abc" + bytes(range(kept)):
        board.outb(THR, byte)
    assert not board.inb(LSR) & EMPTY
    board.terminal.space = kept - 1
    board.serial.room()
    assert not board.inb(LSR) & EMPTY
    board.terminal.space = 10
    board.serial.room()
    assert board.inb(LSR) & EMPTY == EMPTY
    assert board.terminal.text == b"abc" + bytes(range(kept))
    board.outb(THR, 0x21)
    assert board.terminal.text[-1] == 0x21


def test_a_driver_that_ignores_thre_loses_bytes_and_costs_no_memory() -> None:
    board = Board(space=0)
    board.start()
    for n in range(1000):
        board.outb(THR, n & 0xFF)
    assert len(board.serial.save()["unsent"]) == FIFO_DEPTH
    board.terminal.space = 1000
    board.serial.room()
    assert board.terminal.text == bytes(range(15)) + bytes([999 & 0xFF])


def test_resetting_the_transmit_fifo_drops_what_the_terminal_did_not_take() -> None:
    board = Board(space=0)
    board.start(ier=IER_ETBEI)
    board.outb(THR, 1)
    assert not board.inb(LSR) & LSR_THRE
    edges = board.line.edges
    board.outb(FCR, FCR_ENABLE | FCR_RESET_XMIT)
    assert board.inb(LSR) == EMPTY
    assert (board.line.level, board.line.edges) == (True, edges + 1)
    board.terminal.space = 10
    board.serial.room()
    assert not board.terminal.text


def test_what_is_sent_while_the_line_is_in_break_is_lost(board: Board) -> None:
    board.start()
    board.outb(LCR, 0x03 | LCR_BREAK)
    board.outb(THR, 0)
    assert board.inb(LSR) == EMPTY
    board.outb(LCR, 0x03)
    board.outb(THR, ord("x"))
    assert board.terminal.text == b"x"


def test_writing_fcr_again_keeps_what_is_in_the_fifos() -> None:
    board = Board(space=0)
    board.start()
    board.serial.receive(b"in")
    board.outb(THR, ord("o"))
    board.outb(FCR, FCR_ENABLE | TRIGGER_14)
    assert [board.inb(RBR), board.inb(RBR)] == list(b"in")
    board.terminal.space = 1
    board.serial.room()
    assert board.terminal.text == b"o"


# The THR empty interrupt


def test_reading_iir_clears_thre(board: Board) -> None:
    """DS §8.6: reset by "Reading the IIR Register (if source of interrupt)"."""
    board.start(ier=IER_ETBEI)
    assert board.line.level
    assert board.inb(IIR) == IIR_FIFOS | IIR_THR_EMPTY
    assert not board.line.level
    assert board.inb(IIR) == IIR_FIFOS | IIR_NONE


def test_reading_iir_leaves_thre_when_another_source_is_what_it_shows(board: Board) -> None:
    board.start(ier=IER_ETBEI | IER_ERBFI)
    board.serial.receive(b"x")
    assert board.source() == IIR_DATA
    board.inb(RBR)
    assert board.source() == IIR_THR_EMPTY


def test_enabling_etbei_with_an_empty_thr_raises_the_interrupt_again(board: Board) -> None:
    board.start(ier=IER_ETBEI)
    assert board.source() == IIR_THR_EMPTY
    board.outb(IER, IER_ETBEI)
    assert board.source() == IIR_NONE  # it was enabled before
    board.outb(IER, 0)
    board.outb(IER, IER_ETBEI)
    assert board.line.level
    assert board.source() == IIR_THR_EMPTY


def test_enabling_etbei_with_a_full_thr_waits_for_the_terminal() -> None:
    board = Board(space=0)
    board.start()
    board.outb(THR, 1)
    board.outb(IER, IER_ETBEI)
    assert board.source() == IIR_NONE
    board.terminal.space = 1
    board.serial.room()
    assert board.line.level
    assert board.source() == IIR_THR_EMPTY


def test_disabling_etbei_takes_the_interrupt_back(board: Board) -> None:
    board.start(ier=IER_ETBEI)
    board.outb(IER, 0)
    assert not board.line.level
    assert board.source() == IIR_NONE


def test_the_interrupt_is_not_kept_for_a_driver_that_enables_it_later() -> None:
    board = Board(space=0)
    board.start()
    board.outb(THR, 1)
    board.terminal.space = 1
    board.serial.room()
    assert board.source() == IIR_NONE
    assert not board.line.level


def send_by_interrupts(board: Board, text: bytes, *, burst: int, read_iir: bool) -> int:
    """A driver behind an edge-triggered controller sends ``text``, and says with how many interrupts."""
    left = bytearray(text)
    handled = interrupts = 0
    board.outb(IER, IER_ETBEI)
    while board.line.edges > handled:
        handled = board.line.edges  # the controller keeps one edge, however many there were
        interrupts += 1
        if read_iir and board.source() != IIR_THR_EMPTY:
            continue
        for byte in left[:burst]:
            board.outb(THR, byte)
        del left[:burst]
        if not left:
            board.outb(IER, 0)
    assert not left, f"no interrupt came with {len(left)} bytes to go"
    return interrupts


@pytest.mark.parametrize("read_iir", [True, False])
@pytest.mark.parametrize(("fcr", "burst"), [(0, 1), (FCR_ENABLE, 1), (FCR_ENABLE, 5), (FCR_ENABLE, 16)])
def test_a_driver_that_lives_by_edges_sends_everything(fcr: int, burst: int, read_iir: bool) -> None:
    board = Board()
    board.start(fcr=fcr)
    text = bytes(range(200))
    send_by_interrupts(board, text, burst=burst, read_iir=read_iir)
    assert board.terminal.text == text


def test_one_fifo_of_bytes_makes_one_interrupt(board: Board) -> None:
    board.start()
    assert send_by_interrupts(board, bytes(160), burst=16, read_iir=True) <= 11
    assert board.line.edges <= 11  # and the line is not touched for every byte


def test_the_byte_after_a_fifo_of_them_makes_a_new_edge(board: Board) -> None:
    board.start(ier=IER_ETBEI)
    board.source()
    edges = board.line.edges
    for byte in range(16):
        board.outb(THR, byte)
    assert board.line.edges == edges + 1
    board.outb(THR, 16)
    assert board.line.edges == edges + 2


def test_a_driver_that_stops_reading_iir_gets_its_edges(board: Board) -> None:
    board.start(ier=IER_ETBEI)
    assert board.source() == IIR_THR_EMPTY
    board.outb(IER, 0)
    assert send_by_interrupts(board, bytes(10), burst=1, read_iir=False) >= 10


def test_the_terminal_brakes_a_driver_that_lives_by_interrupts() -> None:
    board = Board(space=5)
    board.start(ier=IER_ETBEI)
    assert board.source() == IIR_THR_EMPTY
    for byte in range(16):
        board.outb(THR, byte)
    assert not board.line.level
    assert board.source() == IIR_NONE
    edges = board.line.edges
    board.terminal.space = 100
    board.serial.room()
    assert (board.line.level, board.line.edges) == (True, edges + 1)
    assert board.terminal.text == bytes(range(16))


# Receiving


def test_without_fifo_the_receiver_holds_one_byte(board: Board) -> None:
    board.start(fcr=0, ier=IER_ERBFI)
    assert board.serial.receive(b"ab") == 1
    assert board.line.level
    assert board.inb(IIR) == IIR_DATA
    assert board.inb(RBR) == ord("a")
    assert not board.line.level
    assert not board.inb(LSR) & LSR_DR


def test_the_fifo_takes_sixteen_and_gives_them_in_order(board: Board) -> None:
    board.start()
    assert board.serial.receive(bytes(range(20))) == FIFO_DEPTH
    assert board.serial.receive(b"x") == 0
    got = []
    while board.inb(LSR) == EMPTY | LSR_DR:
        got.append(board.inb(RBR))
    assert got == list(range(16))
    assert board.inb(LSR) == EMPTY


@pytest.mark.parametrize(("bits", "level"), [(0x00, 1), (0x40, 4), (0x80, 8), (0xC0, 14)])
def test_data_is_announced_at_the_trigger_level_and_below_by_the_timeout(bits: int, level: int) -> None:
    """DS §8.11 A, C: data available at the level; timeout with at least one character in the FIFO."""
    board = Board()
    board.start(fcr=FCR_ENABLE | bits, ier=IER_ERBFI)
    for count in range(1, 17):
        board.serial.receive(b"x")
        assert board.source() == (IIR_DATA if count >= level else IIR_TIMEOUT)
        assert board.line.level
    for count in range(15, 0, -1):
        board.inb(RBR)
        assert board.source() == (IIR_DATA if count >= level else IIR_TIMEOUT)
    board.inb(RBR)
    assert board.source() == IIR_NONE
    assert not board.line.level


@pytest.mark.parametrize("fcr", [0, FCR_ENABLE | 0x40, FCR_ENABLE | TRIGGER_14])
def test_a_driver_that_reads_one_byte_an_edge_gets_everything(fcr: int) -> None:
    board = Board()
    board.start(fcr=fcr, ier=IER_ERBFI)
    pending = bytearray(b"the quick brown fox jumps over")

    def feed() -> None:
        del pending[: board.serial.receive(bytes(pending))]

    board.serial.on_rx_room = feed
    feed()
    got = bytearray()
    handled = 0
    while board.line.edges > handled:
        handled = board.line.edges
        if board.source() == IIR_TIMEOUT:
            got.append(board.inb(RBR))
        # At or above the trigger level the request stays up, and a driver reads on (DS §8.11).
        while board.source() == IIR_DATA:
            got.append(board.inb(RBR))
    assert got == b"the quick brown fox jumps over"


def test_room_is_told_when_the_guest_has_emptied_the_receiver(board: Board) -> None:
    board.start()
    told: list[int] = []
    board.serial.on_rx_room = lambda: told.append(board.inb(LSR) & LSR_DR)
    board.serial.receive(b"abc")
    board.inb(RBR)
    board.inb(RBR)
    assert told == []
    board.inb(RBR)
    assert told == [0]


def test_room_is_told_when_the_receiver_is_reset_or_grows(board: Board) -> None:
    told: list[None] = []
    board.start(fcr=0)
    board.serial.on_rx_room = lambda: told.append(None)
    board.serial.receive(b"ab")
    board.outb(FCR, FCR_ENABLE)
    assert len(told) == 1
    board.serial.receive(b"ab")
    board.outb(FCR, FCR_ENABLE | FCR_RESET_RCVR)
    assert len(told) == 2
    assert board.inb(LSR) == EMPTY


def test_a_read_can_be_answered_with_more_input_at_once(board: Board) -> None:
    board.start(ier=IER_ERBFI)
    pending = bytearray(bytes(range(100)))

    def feed() -> None:
        del pending[: board.serial.receive(bytes(pending))]

    board.serial.on_rx_room = feed
    feed()
    got = []
    while board.inb(LSR) & LSR_DR:
        got.append(board.inb(RBR))
    assert got == list(range(100))


def test_an_empty_receiver_reads_as_zero(board: Board) -> None:
    board.start()
    assert board.inb(RBR) == 0
    assert board.inb(LSR) == EMPTY


@pytest.mark.parametrize("fcr", [0, FCR_ENABLE])
def test_switching_the_fifos_on_or_off_clears_them(fcr: int) -> None:
    board = Board()
    board.start(fcr=fcr, ier=IER_ERBFI)
    board.serial.receive(b"a")
    board.outb(FCR, fcr ^ FCR_ENABLE)
    assert not board.inb(LSR) & LSR_DR
    assert not board.line.level


def test_without_the_enable_bit_fcr_programs_nothing(board: Board) -> None:
    """DS §8.5: "This bit must be a 1 when other FCR bits are written to or they will not be programmed"."""
    board.start(fcr=TRIGGER_14, ier=IER_ERBFI)
    board.serial.receive(b"a")
    board.outb(FCR, FCR_RESET_RCVR)
    assert board.inb(IIR) == IIR_DATA
    assert board.inb(RBR) == ord("a")


# Line status


def test_a_break_is_a_zero_with_an_error_that_reading_lsr_clears(board: Board) -> None:
    board.start(ier=IER_ELSI | IER_ERBFI)
    board.serial.break_in()
    assert board.line.level
    assert board.source() == IIR_LINE_STATUS
    assert board.inb(LSR) == EMPTY | LSR_DR | LSR_BI | LSR_FIFO_ERROR
    assert board.inb(LSR) == EMPTY | LSR_DR
    assert board.source() == IIR_DATA
    assert board.inb(RBR) == 0


def test_a_break_shows_when_its_character_is_on_top(board: Board) -> None:
    """DS §8.4: "revealed to the CPU when its associated character is at the top of the FIFO"."""
    board.start(ier=IER_ELSI)
    board.serial.receive(b"ab")
    board.serial.break_in()
    board.serial.receive(b"c")
    assert board.inb(LSR) == EMPTY | LSR_DR | LSR_FIFO_ERROR
    assert board.inb(LSR) == EMPTY | LSR_DR | LSR_FIFO_ERROR  # it is still further down
    assert not board.line.level
    assert [board.inb(RBR), board.inb(RBR)] == list(b"ab")
    assert board.line.level
    assert board.inb(LSR) == EMPTY | LSR_DR | LSR_BI | LSR_FIFO_ERROR
    assert [board.inb(RBR), board.inb(RBR)] == [0, ord("c")]
    assert board.inb(LSR) == EMPTY


def test_a_break_into_a_full_fifo_is_an_overrun(board: Board) -> None:
    board.start(ier=IER_ELSI)
    board.serial.receive(bytes(range(16)))
    board.serial.break_in()
    assert board.source() == IIR_LINE_STATUS
    assert board.inb(LSR) & (LSR_OE | LSR_BI) == LSR_OE
    assert [board.inb(RBR) for _ in range(16)] == list(range(16))
    assert board.inb(LSR) == EMPTY


def test_without_fifo_an_overrun_replaces_the_byte(board: Board) -> None:
    board.start(fcr=0)
    board.serial.receive(b"a")
    board.serial.break_in()
    assert board.inb(LSR) == EMPTY | LSR_DR | LSR_OE | LSR_BI
    assert board.inb(RBR) == 0
    assert board.inb(LSR) == EMPTY


# Priorities, and the line


def test_interrupts_are_told_in_their_order(board: Board) -> None:
    board.start(ier=IER_ERBFI | IER_ETBEI | IER_ELSI | IER_EDSSI)
    board.outb(MCR, MCR_LOOP)
    board.outb(MCR, MCR_OUT2)
    board.serial.break_in()
    assert board.source() == IIR_LINE_STATUS
    board.inb(LSR)
    assert board.source() == IIR_DATA
    board.inb(RBR)
    assert board.source() == IIR_THR_EMPTY
    assert board.source() == IIR_MODEM_STATUS
    assert board.line.level
    board.inb(MSR)
    assert board.source() == IIR_NONE
    assert not board.line.level


@pytest.mark.parametrize("ier", [IER_ERBFI, IER_ETBEI, IER_ELSI, IER_EDSSI])
def test_a_source_that_is_not_enabled_does_not_interrupt(ier: int) -> None:
    board = Board()
    board.start(ier=0x0F & ~ier)
    causes = {
        IER_ERBFI: lambda: board.serial.receive(b"x"),
        IER_ETBEI: lambda: board.outb(THR, 1),
        IER_ELSI: lambda: (board.serial.break_in(), board.inb(RBR)),
        IER_EDSSI: lambda: (board.outb(MCR, MCR_LOOP), board.outb(MCR, MCR_OUT2)),
    }
    board.source()  # the THR empty of the start, where it was enabled
    causes[ier]()
    assert not board.line.level
    board.outb(IER, ier)
    assert board.line.level


def test_out2_opens_and_shuts_the_line(board: Board) -> None:
    board.start(ier=IER_ETBEI)
    board.outb(MCR, MCR_DTR | MCR_RTS)
    assert not board.line.level
    assert board.source() == IIR_THR_EMPTY  # the chip itself has its request all the same
    board.serial.receive(b"x")
    board.outb(IER, IER_ERBFI)
    assert not board.line.level
    board.outb(MCR, MCR_OUT2)
    assert board.line.level


# Modem lines and loopback


@pytest.mark.parametrize(
    ("output", "input_"), [(MCR_DTR, MSR_DSR), (MCR_RTS, MSR_CTS), (MCR_OUT1, MSR_RI), (MCR_OUT2, MSR_DCD)]
)
def test_in_loopback_each_output_feeds_its_input(board: Board, output: int, input_: int) -> None:
    board.outb(MCR, MCR_LOOP)
    board.inb(MSR)
    board.outb(MCR, MCR_LOOP | output)
    assert board.inb(MSR) & 0xF0 == input_
    board.outb(MCR, MCR_LOOP)
    assert board.inb(MSR) & 0xF0 == 0


def test_msr_tells_each_change_once(board: Board) -> None:
    board.outb(MCR, MCR_LOOP)
    assert board.inb(MSR) == 0x0B  # CTS, DSR and DCD fell
    assert board.inb(MSR) == 0
    board.outb(MCR, MCR_LOOP | MCR_RTS)
    assert board.inb(MSR) == MSR_CTS | 0x01
    board.outb(MCR, MCR_LOOP | MCR_RTS | MCR_OUT2)
    board.outb(MCR, MCR_LOOP | MCR_RTS)
    assert board.inb(MSR) == MSR_CTS | 0x08  # there and back is a change too


def test_after_loopback_the_terminals_lines_are_back(board: Board) -> None:
    board.outb(MCR, MCR_LOOP)
    board.inb(MSR)
    board.outb(MCR, MCR_DTR)
    assert board.inb(MSR) == MSR_CTS | MSR_DSR | MSR_DCD | 0x0B
    board.outb(MCR, MCR_DTR | MCR_RTS)
    assert board.inb(MSR) == MSR_CTS | MSR_DSR | MSR_DCD


def test_of_ring_the_trailing_edge_alone_is_told(board: Board) -> None:
    """DS §8.9: TERI, "the RI input has changed from a low to a high state"; the inputs are active low."""
    board.outb(MCR, MCR_LOOP)
    board.inb(MSR)
    board.outb(MCR, MCR_LOOP | MCR_OUT1)
    assert board.inb(MSR) == MSR_RI
    board.outb(MCR, MCR_LOOP)
    assert board.inb(MSR) == MSR_TERI


def test_in_loopback_what_is_sent_is_received_and_not_printed(board: Board) -> None:
    board.start()
    board.outb(MCR, MCR_LOOP)
    for byte in b"loop":
        board.outb(THR, byte)
    assert [board.inb(RBR) for _ in range(4)] == list(b"loop")
    assert board.source() == IIR_NONE
    assert not board.terminal.text


def test_loopback_interrupts_show_in_iir_while_the_line_is_cut(board: Board) -> None:
    board.start(ier=IER_ERBFI)
    board.outb(MCR, MCR_LOOP | MCR_OUT2)
    board.outb(THR, 1)
    assert board.source() == IIR_DATA
    board.inb(RBR)
    board.outb(IER, IER_ETBEI)
    assert board.source() == IIR_THR_EMPTY
    board.outb(THR, 2)
    assert board.source() == IIR_THR_EMPTY
    assert not board.line.level


def test_loopback_overruns_when_nobody_reads(board: Board) -> None:
    board.start()
    board.outb(MCR, MCR_LOOP)
    for byte in range(17):
        board.outb(THR, byte)
    assert board.inb(LSR) & LSR_OE
    assert [board.inb(RBR) for _ in range(17)] == [*range(16), 0]


def test_in_loopback_the_terminals_input_waits(board: Board) -> None:
    board.start()
    told: list[None] = []
    board.serial.on_rx_room = lambda: told.append(None)
    board.outb(MCR, MCR_LOOP)
    assert board.serial.receive(b"key") == 0
    board.serial.break_in()
    assert board.inb(LSR) == EMPTY
    assert not told
    board.outb(MCR, MCR_OUT2)
    assert len(told) == 1
    board.outb(MCR, 0)
    assert len(told) == 1
    assert board.serial.receive(b"key") == 3


def test_bytes_that_wait_for_the_terminal_are_not_mixed_into_loopback() -> None:
    board = Board(space=0)
    board.start()
    board.outb(THR, ord("t"))
    board.outb(MCR, MCR_LOOP)
    board.outb(THR, ord("l"))
    assert not board.inb(LSR) & LSR_THRE
    assert board.inb(RBR) == ord("l")
    board.terminal.space = 9
    board.serial.room()
    assert board.terminal.text == b"t"


# What Linux's 8250 driver tries out


def test_linux_finds_the_interrupt_enable_register(board: Board) -> None:
    board.outb(IER, 0)
    assert board.inb(IER) & 0x0F == 0
    board.outb(IER, 0x0F)
    assert board.inb(IER) & 0x0F == 0x0F


def test_linux_passes_its_loopback_test(board: Board) -> None:
    board.outb(MCR, MCR_LOOP | MCR_OUT2 | MCR_RTS)
    assert board.inb(MSR) & 0xF0 == MSR_DCD | MSR_CTS


def test_linux_sees_a_16550a_and_no_later_chip(board: Board) -> None:
    board.outb(LCR, 0xBF)
    board.outb(FCR, 0)  # EFR, where there is one
    board.outb(LCR, 0)
    board.outb(FCR, FCR_ENABLE)
    assert board.inb(IIR) & IIR_FIFOS == IIR_FIFOS
    for lcr in (0x80, 0xBF):  # an EFR would read as zero (ST16C650)
        board.outb(LCR, lcr)
        assert board.inb(2) != 0
    board.outb(LCR, 0)
    mcr = board.inb(MCR)
    seen = []
    for loop in (0, MCR_LOOP):  # EXCR1 of a National Super I/O would show MCR.LOOP
        board.outb(LCR, 0)
        board.outb(MCR, mcr ^ loop)
        board.outb(LCR, 0xE0)
        seen.append(board.inb(2) & MCR_LOOP)
    assert seen[0] == seen[1]
    for lcr in (0, 0x80):  # a TI16750 would show 64 byte FIFOs in IIR bit 5
        board.outb(LCR, lcr)
        board.outb(FCR, FCR_ENABLE | 0x20)
        assert not board.inb(IIR) & 0x20
    board.outb(LCR, 0)
    board.outb(IER, 0x40)  # XScale's unit enable
    assert board.inb(IER) == 0


def test_linux_counts_sixteen_bytes_of_fifo(board: Board) -> None:
    board.outb(LCR, 0)
    board.outb(FCR, FCR_ENABLE | FCR_RESET_RCVR | FCR_RESET_XMIT)
    board.outb(MCR, MCR_LOOP)
    for offset, value in ((LCR, LCR_DLAB), (0, 1), (1, 0), (LCR, 3)):
        board.outb(offset, value)
    for byte in range(256):
        board.outb(THR, byte)
    count = 0
    while board.inb(LSR) & LSR_DR and count < 256:
        board.inb(RBR)
        count += 1
    assert count == 16


def test_linux_finds_no_thre_bug_and_no_txen_bug(board: Board) -> None:
    board.outb(LCR, 3)
    board.outb(IER, IER_ETBEI)
    assert board.source() == IIR_THR_EMPTY
    board.outb(IER, 0)
    board.outb(IER, IER_ETBEI)
    assert board.source() == IIR_THR_EMPTY
    board.outb(IER, 0)
    board.outb(IER, IER_ETBEI)
    assert board.inb(LSR) & LSR_TEMT
    assert board.source() == IIR_THR_EMPTY


# State, and guests that mean no good


def random_step(chance: random.Random) -> tuple[str, int, int]:
    action = chance.choices(("read", "write", "receive", "break", "room", "space"), (40, 40, 8, 2, 6, 4))[0]
    value = chance.choice((chance.randrange(256), 1 << chance.randrange(8), 0x0F, 0xC1, 0x08, 0x00))
    return action, chance.randrange(8), value


def take_step(board: Board, step: tuple[str, int, int]) -> int:
    """Do one thing to the port, and say what came of it."""
    action, offset, value = step
    if action == "read":
        return board.inb(offset)
    if action == "write":
        board.outb(offset, value)
    elif action == "receive":
        return board.serial.receive(bytes(range(value % 24)))
    elif action == "break":
        board.serial.break_in()
    elif action == "room":
        board.serial.room()
    else:
        board.terminal.space = value % 9
    return 0


@pytest.mark.parametrize("seed", range(20))
def test_no_guest_breaks_it_and_a_copy_made_in_the_middle_of_work_goes_on_alike(seed: int) -> None:
    chance = random.Random(seed)
    board, trace = Board(), []
    for _ in range(60):
        copy = Board(board.terminal.space)
        copy.serial.load(board.serial.save())
        assert copy.serial.save() == board.serial.save()
        assert copy.line.level == board.line.level
        copy.terminal.text[:] = board.terminal.text
        for _ in range(50):
            step = random_step(chance)
            trace.append(step)
            results = take_step(board, step), take_step(copy, step)
            assert results[0] == results[1], trace[-60:]
            assert 0 <= results[0] <= 0xFF, trace[-60:]
            assert board.line.level == copy.line.level, trace[-60:]
        assert board.terminal.text == copy.terminal.text
        state = board.serial.save()
        assert len(state["received"]) <= FIFO_DEPTH
        assert len(state["unsent"]) <= FIFO_DEPTH


def test_loading_lowers_a_line_that_was_up(board: Board) -> None:
    idle = board.serial.save()
    board.start(ier=IER_ETBEI)
    assert board.line.level
    board.serial.load(idle)
    assert not board.line.level


def test_loading_sets_the_line_whatever_it_was() -> None:
    line = Line()
    line.set(True)
    Serial(line, Terminal()).load(Board().serial.save())
    assert not line.level


class Typed:
    """A patient port in front of which somebody has typed before anyone listened."""

    def __init__(self, text: bytes) -> None:
        self.held = text
        self.line = Line()
        self.port = Serial(self.line, self, patient=True)
        self.port.on_rx_room = self.give

    def put(self, byte: int) -> bool:
        return True

    def give(self) -> None:
        self.held = self.held[self.port.receive(self.held) :]

    def read(self) -> bytes:
        """What a driver gets that reads while LSR shows data."""
        read = bytearray()
        while self.port.read(LSR, 1) & 1:
            read.append(self.port.read(RBR, 1))
        return bytes(read)


# Linux 6.12, drivers/tty/serial/8250/8250_port.c, on a 16550A. R: read, W: write.
AUTOCONFIG = """W1=0 R1 W1=f R1 W1=0 R3 R4 W4=1a R6 W4=8 W3=bf W2=0 W3=0 W2=1 R2 R3 W3=0 W2=1 W3=3
    W4=8 W2=1 W2=7 W2=0 R0 W1=0"""
STARTUP = "W2=1 W2=7 W2=0 R5 R0 R2 R6 R5 W3=3 W4=8 W1=2 R5 R2 W1=0 R5 R0 R2 R6"
SET_TERMIOS = "W1=5 W3=93 W0=1 W1=0 W3=13 W2=1 W2=81 W4=b"


def play(port: Serial, accesses: str) -> None:
    for access in accesses.split():
        offset, _, value = access[1:].partition("=")
        if access[0] == "R":
            port.read(int(offset), 1)
        else:
            port.write(int(offset), 1, int(value, 16))


def test_linux_gets_every_byte_that_was_typed_before_its_driver_started() -> None:
    text = b"echo typed early; poweroff\n"
    typed = Typed(text)
    for line in "first", "second":  # the boot console prints meanwhile
        for byte in line.encode():
            play(typed.port, f"R5 W0={byte:x}")
        play(typed.port, "R5 R1 W1=0")
    play(typed.port, AUTOCONFIG)
    play(typed.port, STARTUP)
    assert typed.held == text
    play(typed.port, SET_TERMIOS)
    assert typed.line.level
    assert typed.read() == text


def test_the_receiver_listens_once_its_interrupt_comes_through() -> None:
    typed = Typed(b"k")
    typed.port.write(IER, 1, 1)
    assert typed.held
    typed.port.write(MCR, 1, 8)
    assert not typed.held
    assert typed.line.level


def test_a_guest_that_polls_for_a_key_gets_it() -> None:
    typed = Typed(b"keys")
    looks = 0
    while not typed.port.read(LSR, 1) & 1:
        looks += 1
        assert looks < 10
    assert typed.read() == b"keys"


def test_a_guest_that_polls_is_heard_again_at_once_after_it_has_printed() -> None:
    typed = Typed(b"a")
    play(typed.port, "R5 R5 R5 R5 R0 W0=61")
    typed.held = b"b"
    typed.give()
    assert typed.read() == b"b"


def test_a_driver_that_starts_after_one_that_polled_loses_nothing() -> None:
    typed = Typed(b"")
    play(typed.port, "R5 R5 R5 R5 R5")
    play(typed.port, "W3=3")
    typed.held = b"later"
    typed.give()
    play(typed.port, f"{STARTUP} {SET_TERMIOS}")
    assert typed.read() == b"later"


def test_who_keeps_bytes_back_is_told_when_each_brings_an_interrupt():
    """DS 8.7: bit 1 of IER enables the interrupt of the empty THR."""
    board = Board()
    told = []
    board.serial.on_etbei = told.append
    board.outb(IER, IER_ERBFI)
    board.outb(IER, IER_ERBFI | IER_ETBEI)
    board.outb(IER, 0)
    assert told == [False, True, False]
    board.outb(IER, IER_ETBEI)
    other = Board()
    other.serial.on_etbei = told.append
    other.serial.load(board.serial.save())
    assert told[3:] == [True, True]
