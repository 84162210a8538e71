"""A serial port: the 16550A, as the data sheet of National's PC16550D (June 1995) has it.

There is no wire and no baud rate: a byte that the guest sends is gone as soon as its sink has
taken it, and input arrives as fast as the guest reads. What a driver can notice is the chip's.
"""

from __future__ import annotations

from pykvm.devices.serialregisters import (
    BREAK_CHARACTER,
    FCR,
    FCR_ENABLE,
    FCR_RESET_RCVR,
    FCR_RESET_XMIT,
    FIFO_DEPTH,
    IER,
    IER_BITS,
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
    LSR_CLEARED_BY_READ,
    LSR_DR,
    LSR_ERRORS,
    LSR_FIFO_ERROR,
    LSR_OE,
    LSR_TEMT,
    LSR_THRE,
    MCR,
    MCR_BITS,
    MCR_DTR,
    MCR_LOOP,
    MCR_OUT1,
    MCR_OUT2,
    MCR_RTS,
    MSR,
    MSR_CONNECTED,
    MSR_CTS,
    MSR_DCD,
    MSR_DELTAS,
    MSR_DSR,
    MSR_LINES,
    MSR_RI,
    MSR_TERI,
    NOTHING_NEW,
    RBR,
    SCR,
    THR,
    TRIGGER_LEVELS,
)  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from pykvm.devices.device import Line, State

    class Sink(Protocol):
        """Where the bytes go that the guest sends."""

        def put(self, byte: int) -> bool:
            """Take ``byte``; False where there is no room. Whoever makes room calls ``Serial.room``."""
            ...


# What is told: LSR, IIR, MSR, a byte each, 0 where reading it changes something; whether nobody counts how
# often LSR is read; how many bytes for THR change nothing, MANY: any number.
HEARD, LOAD_SHIFT, MANY = 1 << 24, 25, 31

LISTENING = 4  # LSR is read that often in a row by whoever waits for a key, and not by a probe

# What is saved as it is; FIFOs are copied.
STATE = ("ier", "fcr", "lcr", "mcr", "lsr", "msr", "scr", "divisor", "thr_empty", "load")


class Serial:
    """One 16550A on ports 0 to 7 of its place.

    ``irq`` is its line, ``out`` takes what the guest sends. ``on_rx_room`` is called when the guest
    has read or cleared the last byte of the receiver or left loopback: ``receive`` takes bytes again.

    A driver clears the receiver when it starts, and what was typed before is gone. ``patient``: nothing
    is taken until somebody listens: the receiver's interrupt is enabled and let through, or LSR is read
    over and over, as a guest does that waits for a key without interrupts. Nor does a change of the
    FIFOs' mode clear the receiver then: Linux enables the interrupt first and the FIFOs after it.
    """

    def __init__(self, irq: Line, out: Sink, *, patient: bool = False) -> None:
        self._patient = patient
        self._looks = 0  # reads of LSR in a row that had nothing to tell
        self.on_rx_room: Callable[[], None] | None = None
        self.on_etbei: Callable[[bool], None] = lambda enabled: None
        """Called when IER is written: whether a byte for THR brings an interrupt from now on."""
        self.on_status: Callable[[int], None] | None = None
        """Told what holds until something else happens than reads of LSR, IIR and MSR and writes of THR."""
        self._told = -1
        self._irq = irq
        self._put = out.put
        self._ier = 0
        self._fcr = 0
        self._lcr = 0
        self._mcr = 0
        self._lsr = LSR_THRE | LSR_TEMT
        self._msr = MSR_CONNECTED
        self._scr = 0
        self._divisor = 0
        self._received: list[int] = []
        # What the sink had no room for; LSR.THRE is clear while anything is here.
        self._unsent = bytearray()
        self._thr_empty = False  # the interrupt of that name is pending
        self._timeout = False  # and the receiver's
        self._load = 0
        self._level = False
        self._follow_registers()

    # The guest's side

    def read(self, offset: int, size: int) -> int:
        """A register; RBR, IIR, LSR and MSR change by it."""
        if offset == LSR:
            lsr = self._lsr
            if lsr == NOTHING_NEW:
                self._looks += 1
                if self._looks == LISTENING and self._patient and self.on_rx_room is not None:
                    self.on_rx_room()
            elif lsr & LSR_CLEARED_BY_READ:
                self._line_status_read()
            return lsr
        if self._looks < LISTENING:
            self._looks = 0
        if offset == IIR:
            return self._identify()
        if offset == RBR:
            return self._divisor & 0xFF if self._lcr & LCR_DLAB else self._take()
        if offset == IER:
            return self._divisor >> 8 if self._lcr & LCR_DLAB else self._ier
        if offset == MSR:
            msr = self._msr
            self._msr &= MSR_LINES
            self._update()
            return msr
        return self._lcr if offset == LCR else self._mcr if offset == MCR else self._scr

    def write(self, offset: int, size: int, value: int) -> None:
        """A register; LSR and MSR are the chip's own ("not recommended", §8.4) and stay."""
        if offset != THR or self._looks < LISTENING:
            self._looks = 0  # the one who sets up the port may not be the one who listened
        if offset == THR:
            if self._straight and self._put(value):
                if self._ier & IER_ETBEI:
                    self._raise_thr_empty()
                return
            if self._lcr & LCR_DLAB:
                self._divisor = self._divisor & 0xFF00 | value
            else:
                self._send(value)
        elif offset == IER:
            if self._lcr & LCR_DLAB:
                self._divisor = self._divisor & 0x00FF | value << 8
            else:
                self._enable_interrupts(value & IER_BITS)
        elif offset == FCR:
            self._control_fifos(value)
        elif offset == LCR:
            self._lcr = value
            self._follow_registers()
        elif offset == MCR:
            self._control_modem(value & MCR_BITS)
        elif offset == SCR:
            self._scr = value

    # The terminal's side

    def receive(self, data: bytes) -> int:
        """Take as many bytes of ``data`` as there is room for, and say how many.

        In loopback the receiver is cut off from the wire (§8.8): nothing is taken, so that no key
        is lost while a driver tries out the chip.
        """
        if self._mcr & MCR_LOOP or not self._listening:
            return 0
        taken = data[: max(0, self._depth - len(self._received))]
        for byte in taken:
            self._arrive(byte)
        if taken:
            self._update()
        return len(taken)

    @property
    def _listening(self) -> bool:
        interrupts = self._ier & IER_ERBFI and self._mcr & MCR_OUT2
        return not self._patient or bool(interrupts) or self._looks >= LISTENING

    def break_in(self) -> None:
        """The other end sends a break."""
        if not self._mcr & MCR_LOOP:
            self._arrive(BREAK_CHARACTER)
            self._update()

    def room(self) -> None:
        """The sink has room again."""
        unsent = self._unsent
        if unsent:
            sent = 0
            while sent < len(unsent) and self._put(unsent[sent]):
                sent += 1
            del unsent[:sent]
            if not unsent:
                self._transmitter_empty()

    # Transmitter

    def _follow_registers(self) -> None:
        """What the hot path tests in one: does a byte for THR go straight to the sink?"""
        self._straight = not (self._lcr & (LCR_DLAB | LCR_BREAK) or self._mcr & MCR_LOOP or self._unsent)
        self._depth = FIFO_DEPTH if self._fcr & FCR_ENABLE else 1
        self._trigger = TRIGGER_LEVELS[self._fcr >> 6] if self._fcr & FCR_ENABLE else 1
        self._tell(self._source())

    def _tell(self, source: int) -> None:
        if self.on_status is None:
            return
        status, ier = 0, self._ier
        if self._straight:
            iir = 0 if source != IIR_NONE else IIR_NONE | (IIR_FIFOS if self._fcr & FCR_ENABLE else 0)
            msr = 0 if self._msr & MSR_DELTAS else self._msr
            load = MANY if not ier & IER_ETBEI else self._load if self._thr_empty and self._level else 0
            heard = HEARD if not self._patient or (ier & IER_ERBFI and self._mcr & MCR_OUT2) else 0
            status = self._lsr | iir << 8 | msr << 16 | load << LOAD_SHIFT | heard
        if status != self._told:
            self._told = status
            self.on_status(status)

    def _send(self, byte: int) -> None:
        """A byte for THR that does not go straight to the sink, or that the sink did not take."""
        if self._mcr & MCR_LOOP:
            self._arrive(byte)
        elif not self._lcr & LCR_BREAK:  # a break on the line drowns what is sent (§8.1)
            # A driver fills the FIFO after it saw THRE, so that this many fit; one that doesn't
            # look overwrites the last.
            del self._unsent[self._depth - 1 :]
            self._unsent.append(byte)
            self._lsr &= ~(LSR_THRE | LSR_TEMT)
            self._thr_empty = False
            self._follow_registers()
            self._update()
        if not self._unsent and self._ier & IER_ETBEI:
            self._raise_thr_empty()

    def _transmitter_empty(self) -> None:
        self._lsr |= LSR_THRE | LSR_TEMT
        self._follow_registers()
        if self._ier & IER_ETBEI:
            self._raise_thr_empty()

    def _raise_thr_empty(self) -> None:
        """THR has been written and is empty again.

        Each write takes the interrupt back and its end brings a new one (§8.6, §8.11), that is an
        edge, which a driver needs that doesn't read IIR. One that has read IIR writes up to a FIFO
        of bytes, and on a wire these take longer to send than to write: they make one interrupt,
        which also spares two changes of the line a byte.
        """
        if self._thr_empty and self._load:
            self._load -= 1
            if self.on_status is not None and self._told >> LOAD_SHIFT:
                self._told -= 1 << LOAD_SHIFT
                self.on_status(self._told)
            return
        if self._thr_empty:
            self._thr_empty = False
            self._update()
        self._thr_empty = True
        self._update()

    # Receiver

    def _arrive(self, character: int) -> None:
        """A character from the wire, or from the transmitter; ``_update`` is the caller's."""
        received = self._received
        if len(received) == self._depth:
            # §8.4: in the FIFO what was there stays, without it what was there is overwritten.
            self._lsr |= LSR_OE
            if self._fcr & FCR_ENABLE:
                return
            received.clear()
        received.append(character)
        if character & BREAK_CHARACTER and self._fcr & FCR_ENABLE:
            self._lsr |= LSR_FIFO_ERROR
        self._reveal()
        # The timeout comes after four character times without a read or a new character (§8.11).
        # Without a baud clock nothing more can be on its way, so it comes at once.
        self._timeout = len(received) < self._trigger

    def _reveal(self) -> None:
        """LSR shows data, and the error of the character on top of the FIFO (§8.4)."""
        received = self._received
        if received:
            self._lsr |= LSR_DR | received[0] >> 8
            received[0] &= 0xFF
        else:
            self._lsr &= ~LSR_DR

    def _take(self) -> int:
        """RBR is read."""
        received = self._received
        if not received:
            return 0
        byte = received.pop(0)
        self._reveal()
        # A read takes the timeout back and what is left brings it again (§8.11): an edge for the
        # driver that reads one byte an interrupt.
        self._timeout = False
        self._update()
        if received:
            if len(received) < self._trigger:
                self._timeout = True
                self._update()
        elif self.on_rx_room is not None:
            self.on_rx_room()
        return byte

    # Control and status

    def _enable_interrupts(self, ier: int) -> None:
        # Enabling it while THR is empty brings the interrupt, even where reading IIR had taken it
        # back: drivers start to send by this.
        if not ier & IER_ETBEI:
            self._thr_empty = False
        elif not self._ier & IER_ETBEI:
            self._thr_empty = bool(self._lsr & LSR_THRE)
            self._load = 0
        self._ier = ier
        self._update()
        self.on_etbei(bool(ier & IER_ETBEI))
        if self._patient and self._listening and self.on_rx_room is not None:
            self.on_rx_room()

    def _control_fifos(self, fcr: int) -> None:
        # §8.5: without bit 0 the others are not programmed; a change of mode clears both FIFOs.
        if not fcr & FCR_ENABLE:
            fcr = 0
        changed = (fcr ^ self._fcr) & FCR_ENABLE
        self._fcr = fcr
        self._follow_registers()
        cleared = (changed and not self._patient) or fcr & FCR_RESET_RCVR
        if cleared:
            self._received.clear()
            self._lsr &= ~(LSR_DR | LSR_FIFO_ERROR)
        if (changed or fcr & FCR_RESET_XMIT) and self._unsent:
            self._unsent.clear()
            self._transmitter_empty()
        self._timeout = 0 < len(self._received) < self._trigger
        self._update()
        if cleared and self.on_rx_room is not None:
            self.on_rx_room()

    def _control_modem(self, mcr: int) -> None:
        was = self._mcr
        self._mcr = mcr
        self._follow_registers()
        lines = MSR_CONNECTED
        if mcr & MCR_LOOP:  # §8.8: the outputs feed the inputs
            lines = (
                (MSR_DSR if mcr & MCR_DTR else 0)
                | (MSR_CTS if mcr & MCR_RTS else 0)
                | (MSR_RI if mcr & MCR_OUT1 else 0)
                | (MSR_DCD if mcr & MCR_OUT2 else 0)
            )
        deltas = (lines ^ self._msr) >> 4
        if lines & MSR_RI:  # the trailing edge alone is told of
            deltas &= ~MSR_TERI
        self._msr = lines | self._msr & MSR_DELTAS | deltas
        self._update()
        heard = was & ~mcr & MCR_LOOP or (self._patient and self._listening)
        if heard and self.on_rx_room is not None:
            self.on_rx_room()

    def _line_status_read(self) -> None:
        self._lsr &= ~LSR_CLEARED_BY_READ
        if any(character & BREAK_CHARACTER for character in self._received):
            self._lsr |= LSR_FIFO_ERROR  # there are more errors further down
        self._update()

    # Interrupts

    def _identify(self) -> int:
        """IIR is read: that takes THR EMPTY back, if it is what is read (§8.6)."""
        source = self._source()
        if source == IIR_THR_EMPTY:
            self._thr_empty = False
            self._load = self._depth - 1
            self._update()
        return source | IIR_FIFOS if self._fcr & FCR_ENABLE else source

    def _source(self) -> int:
        """The interrupt of the highest priority, as in IIR 3:0."""
        ier = self._ier
        if ier & IER_ELSI and self._lsr & LSR_ERRORS:
            return IIR_LINE_STATUS
        if ier & IER_ERBFI:
            if len(self._received) >= self._trigger:
                return IIR_DATA
            if self._timeout:
                return IIR_TIMEOUT
        if self._thr_empty:  # never without IER.ETBEI
            return IIR_THR_EMPTY
        if ier & IER_EDSSI and self._msr & MSR_DELTAS:
            return IIR_MODEM_STATUS
        return IIR_NONE

    def _update(self) -> None:
        """The line follows the sources. On a PC, OUT2 opens it; loopback forces OUT2 off (§8.8)."""
        source = self._source()
        level = self._mcr & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2 and source != IIR_NONE
        if level != self._level:
            self._level = level
            self._irq.set(level)
        self._tell(source)

    # State

    def save(self) -> State:
        state: State = {name: getattr(self, f"_{name}") for name in STATE}
        return {"version": 1, **state, "received": list(self._received), "unsent": bytes(self._unsent)}

    def load(self, state: State) -> None:
        for name in STATE:
            setattr(self, f"_{name}", state[name])
        self._received[:] = state["received"]
        self._unsent[:] = state["unsent"]
        self._looks = 0
        self.on_etbei(bool(self._ier & IER_ETBEI))
        self._follow_registers()
        self._timeout = 0 < len(self._received) < self._trigger
        self._update()
        self._irq.set(self._level)
