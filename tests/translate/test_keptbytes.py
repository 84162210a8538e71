"""A guest that prints byte by byte: neither bytes nor looks at LSR come to Python, and nothing shows it."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from struct import pack
from unittest import mock

import pytest
from guest import Guest
from places import CODE

from pykvm.devices.serial import Serial
from pykvm.devices.serialregisters import (
    FCR,
    FCR_ENABLE,
    FIFO_DEPTH,
    IER,
    IER_ERBFI,
    IER_ETBEI,
    IIR,
    IIR_FIFOS,
    IIR_NONE,
    IIR_THR_EMPTY,
    LCR,
    LCR_DLAB,
    LSR,
    LSR_DR,
    LSR_TEMT,
    LSR_THRE,
    MCR,
    MCR_LOOP,
    MCR_OUT2,
    MSR,
    MSR_CONNECTED,
    MSR_DELTAS,
    PORTS,
    RBR,
    SCR,
    THR,
)
from pykvm.machine.coalesced import Stream
from pykvm.translate.context import KEPT_SIZE, PORT_IN, PORT_OUT, SLOT
from pykvm.translate.keptbytes import KeptBytes

COM1, COM2 = 0x3F8, 0x2F8
READY = LSR_THRE | LSR_TEMT
ROUNDS = 200


class Sink:
    """Takes all; ``before`` is called first, and may refuse."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.before: Callable[[], bool] = lambda: True

    def put(self, byte: int) -> bool:
        if not self.before():
            return False
        self.got.append(byte)
        return True


class Wire:
    def __init__(self) -> None:
        self.rises = 0
        self.on_rise: Callable[[], object] = lambda: None

    def set(self, level: bool) -> None:
        if level:
            self.rises += 1
            self.on_rise()


class Machine:
    """A CPU in ring 0 and two serial ports, of which COM1's bytes are kept from the start."""

    def __init__(self, bmi2: bool) -> None:
        self.guest = Guest(cpl=0, bmi2=bmi2)
        self.kept = KeptBytes(self.guest.ports)
        self.kept.add(self.guest.cpu)
        self.sinks = {port: Sink() for port in (COM1, COM2)}
        self.wires = {port: Wire() for port in self.sinks}
        self.uarts = {port: Serial(self.wires[port], sink) for port, sink in self.sinks.items()}
        self.streams = {port: Stream(self.kept, port) for port in self.sinks}
        for port, uart in self.uarts.items():
            self.guest.ports.attach(uart, port, PORTS)
            uart.on_status = self.streams[port].status
        self.streams[COM1].keep()

    def run(self, code: bytes) -> list[int]:
        guest = self.guest
        guest.put(CODE, code + b"\x06" * 64)
        guest.regs, guest.flags = [0] * 16, 2
        self.exits = -guest.cpu.exits[PORT_IN], -guest.cpu.exits[PORT_OUT]
        guest.run(CODE)
        self.exits = self.exits[0] + guest.cpu.exits[PORT_IN], self.exits[1] + guest.cpu.exits[PORT_OUT]
        assert guest.rip == CODE + len(code)
        return guest.regs


@pytest.fixture(params=[True, False], ids=["bmi2", "no-bmi2"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    machine = Machine(request.param)
    yield machine
    machine.guest.close()


def out(offset: int, value: int, port: int = COM1) -> bytes:
    """mov al, value; mov edx, port + offset; out dx, al"""
    return b"\xb0" + bytes((value,)) + b"\xba" + pack("<I", port + offset) + b"\xee"


def read(offset: int, port: int = COM1) -> bytes:
    """mov edx, port + offset; in al, dx"""
    return b"\xba" + pack("<I", port + offset) + b"\xec"


def printed(times: int = ROUNDS) -> bytes:
    """What Linux's earlyprintk does: the number of bytes left, each after a look at LSR."""
    body = read(LSR) + b"\xa8\x20\x74\xf6"  # 1: ...; test al, 0x20; jz 1b
    body += b"\x88\xc8\xba" + pack("<I", COM1) + b"\xee\xff\xc9\x75"  # mov al, cl; ...; dec ecx; jnz
    return b"\xb9" + pack("<I", times) + body + pack("<b", -len(body) - 1)


def numbers(times: int = ROUNDS) -> bytes:
    return bytes(number & 0xFF for number in range(times, 0, -1))


def test_bytes_arrive_in_order_and_none_comes_to_python(machine):
    machine.run(printed())
    assert machine.sinks[COM1].got == numbers()
    assert machine.exits == (0, 0)


def test_more_than_the_ring_holds(machine):
    times = 3 * KEPT_SIZE + 5
    machine.run(printed(times))
    assert machine.sinks[COM1].got == numbers(times)
    assert sum(machine.exits) <= 3


def test_they_arrive_before_what_the_guest_does_next(machine):
    """To another port, to another register, and by another size."""
    machine.run(printed(3) + out(THR, 0x55, COM2) + out(SCR, 7) + read(SCR))
    assert (machine.sinks[COM1].got, machine.sinks[COM2].got) == (b"\3\2\1", b"\x55")
    before = []
    machine.sinks[COM2].before = lambda: before.append(len(machine.sinks[COM1].got)) is None
    machine.run(out(THR, 1) + out(THR, 2, COM2) + out(THR, 3))
    assert (before, machine.sinks[COM1].got) == ([4], b"\3\2\1\1\3")


def test_registers_and_flags_stay_but_for_al(machine):
    code = b"\xb8\x44\x33\x22\x11\xf9" + read(LSR) + b"\x0f\x92\xc3"  # mov eax; stc; in; setc bl
    code += b"\xba" + pack("<I", COM1) + b"\xf9\xee\x0f\x92\xc7"  # stc; out; setc bh
    regs = machine.run(code)
    assert regs[0] == 0x11223300 | READY
    assert regs[3] == 0x0101
    assert machine.sinks[COM1].got == bytes((READY,))
    assert machine.exits == (0, 0)


def test_a_byte_that_is_received_shows_in_lsr(machine):
    machine.run(read(LSR))
    machine.uarts[COM1].receive(b"k")
    assert machine.run(read(LSR))[0] == READY | LSR_DR
    assert machine.run(read(RBR))[0] == ord("k")
    assert machine.run(read(LSR))[0] == READY
    assert machine.exits == (0, 0)


def test_in_loopback_lsr_shows_what_was_sent(machine):
    code = out(MCR, MCR_LOOP) + out(THR, 0x5A) + read(LSR) + b"\x88\xc3" + read(RBR)
    regs = machine.run(code)
    assert (regs[3] & LSR_DR, regs[0] & 0xFF) == (LSR_DR, 0x5A)
    assert machine.sinks[COM1].got == b""


def test_the_divisor_is_no_byte_to_send(machine):
    code = out(LCR, LCR_DLAB) + out(THR, 0x0C) + read(THR) + b"\x88\xc3" + out(LCR, 3) + out(THR, 0x61)
    assert machine.run(code)[3] & 0xFF == 0x0C
    assert machine.sinks[COM1].got == b"a"


def test_bytes_that_bring_an_interrupt_each_are_not_kept(machine):
    """A driver that doesn't read IIR."""
    machine.run(printed(3) + out(MCR, MCR_OUT2) + out(IER, IER_ETBEI))
    rises = machine.wires[COM1].rises
    machine.run(out(THR, 0x61) + out(THR, 0x62))
    assert machine.exits == (0, 2)
    assert machine.wires[COM1].rises == rises + 2
    assert machine.sinks[COM1].got == b"\3\2\1ab"
    machine.run(out(IER, 0) + out(THR, 0x63))
    assert machine.exits == (0, 1)


def test_the_receivers_interrupt_does_not(machine):
    machine.run(out(MCR, MCR_OUT2) + out(IER, IER_ERBFI) + printed())
    assert machine.exits == (0, 2)
    assert machine.sinks[COM1].got == numbers()


def test_where_the_sink_has_no_room_the_guest_waits(machine):
    """It is told by LSR, as soon as it stops being kept."""
    machine.sinks[COM1].before = lambda: machine.streams[COM1].stop() is None  # there is room in reserve
    machine.run(printed())
    assert machine.sinks[COM1].got == numbers()
    machine.sinks[COM1].before = lambda: False
    assert machine.run(out(THR, 1) + read(LSR))[0] == 0


def test_the_io_thread_brings_them_too(machine):
    """While emitted code runs: here after it, before anybody else has looked."""
    seen = []
    exits = machine.guest.cpu._exits
    late, exits.take_late = exits.take_late, lambda: seen.append(bytes(machine.sinks[COM1].got))
    machine.run(printed(5))
    assert set(seen) == {b""}
    machine.streams[COM1].deliver()
    assert machine.sinks[COM1].got == numbers(5)
    exits.take_late = late
    late()
    assert machine.sinks[COM1].got == numbers(5)


def test_a_second_port_is_not_kept(machine):
    machine.streams[COM2].keep()
    assert not machine.streams[COM2].is_kept
    machine.streams[COM1].end()
    machine.streams[COM2].keep()
    assert not machine.streams[COM2].is_kept
    machine.run(out(THR, 1, COM2) + out(THR, 2))
    assert (machine.sinks[COM1].got, machine.sinks[COM2].got) == (b"\2", b"\1")


def test_the_end_has_the_cpu_leave_for_what_is_just_on_its_way(machine):
    """Where another thread ends it: the CPU may be about to put one more byte into the ring."""
    words = machine.guest.cpu.core.words
    machine.run(printed(1))
    thread = threading.Thread(target=machine.streams[COM1].end)
    thread.start()
    thread.join()
    assert words[SLOT["attention"] // 8]
    machine.run(out(THR, 0x61))
    assert machine.exits == (0, 1)


# A driver that is interrupted


def interrupted(count: int, *, more: bytes = b"") -> bytes:
    """IER on, IIR; LSR, MSR and ``count`` bytes as Linux's handler has them; ``more``; IER off, IIR."""
    code = out(FCR, FCR_ENABLE) + out(MCR, MCR_OUT2) + out(IER, IER_ERBFI | IER_ETBEI) + read(IIR)
    code += b"\x88\xc3" + read(LSR) + read(MSR) + b"".join(out(THR, number) for number in range(count))
    return code + more + out(IER, IER_ERBFI) + read(IIR)


def test_of_a_fifo_s_bytes_the_first_comes_to_python_alone(machine):
    machine.streams[COM1].end()
    regs = machine.run(interrupted(FIFO_DEPTH))
    assert (regs[3] & 0xFF, regs[0] & 0xFF) == (IIR_FIFOS | IIR_THR_EMPTY, IIR_FIFOS | IIR_NONE)
    assert machine.sinks[COM1].got == bytes(range(FIFO_DEPTH))
    assert machine.exits == (1, 5)  # IIR once; FCR, MCR, the first byte, and IER twice


def test_more_than_the_fifo_has_an_edge_at_the_same_byte(machine):
    """The interrupt is there as soon as it is without any being kept."""
    plain = Serial(wire := Wire(), Sink())
    for register, value in ((FCR, FCR_ENABLE), (MCR, MCR_OUT2), (IER, IER_ERBFI | IER_ETBEI)):
        plain.write(register, 1, value)
    plain.read(IIR, 1)
    edges = []
    for number in range(3 * FIFO_DEPTH):
        before = wire.rises
        plain.write(THR, 1, number)
        edges += [number] * (wire.rises - before)
    machine.streams[COM1].end()
    seen = []
    machine.wires[COM1].on_rise = lambda: seen.append(len(machine.sinks[COM1].got))
    machine.run(interrupted(3 * FIFO_DEPTH))
    assert machine.sinks[COM1].got == bytes(range(3 * FIFO_DEPTH))
    assert seen[1:] == [number + 1 for number in edges]  # the first is that of IER


def test_iir_shows_the_interrupt_that_the_bytes_bring(machine):
    machine.streams[COM1].end()
    again = read(IIR) + b"\x88\xc7" + read(IIR) + b"\x88\xc1"  # bh, cl
    regs = machine.run(interrupted(3, more=again))
    assert regs[3] >> 8 & 0xFF == IIR_FIFOS | IIR_THR_EMPTY
    assert regs[1] & 0xFF == IIR_FIFOS | IIR_NONE


def test_msr_is_not_answered_while_it_has_news(machine):
    machine.streams[COM1].end()
    machine.run(out(MCR, MCR_OUT2) + out(IER, IER_ERBFI))
    code = out(MCR, MCR_LOOP | MCR_OUT2) + out(MCR, MCR_OUT2) + read(MSR) + b"\x88\xc3" + read(MSR)
    regs = machine.run(code)
    assert regs[3] & MSR_DELTAS
    assert regs[0] & 0xFF == MSR_CONNECTED


def test_who_polls_for_a_key_is_counted(machine):
    """Without interrupts the port learns by the reads of LSR that somebody listens."""
    machine.streams[COM1].end()
    times = 100
    body = read(LSR) + b"\xff\xc9\x75"  # dec ecx; jnz
    machine.uarts[COM1]._patient = True
    machine.run(out(SCR, 0) + b"\xb9" + pack("<I", times) + body + pack("<b", -len(body) - 1))
    assert machine.exits[0] == times
    assert machine.uarts[COM1].receive(b"k") == 1


def test_of_two_cpus_none_keeps_any(machine):
    """Else a driver that begins on one and goes on on another has its bytes brought out of order."""
    other = mock.Mock(thread=0)
    other.core.words, other.core.raw = defaultdict(int), b""
    machine.kept.add(other)
    machine.streams[COM1].end()
    machine.streams[COM1].keep()
    machine.run(printed())
    assert machine.sinks[COM1].got == numbers()
    assert machine.exits[1] == ROUNDS
    assert not other.core.words[SLOT["kept_port"] // 8]
