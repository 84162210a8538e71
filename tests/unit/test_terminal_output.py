"""The way of a guest's bytes to a descriptor, with real pipes, sockets, files and a real epoll."""

import errno
import os
import socket
from threading import Thread

import pytest
from doubles_loop import Guest, Loop

from pykvm.terminal import output
from pykvm.terminal.console import Console
from pykvm.terminal.descriptor import own
from pykvm.terminal.output import LIMIT, Output
from pykvm.terminal.tap import Tap


@pytest.fixture
def loop():
    with Loop() as loop:
        yield loop


@pytest.fixture
def console(loop):
    console = Console(loop)
    yield console
    loop.stop()
    console.close()


@pytest.fixture
def guest(loop, console):
    return Guest(loop, console)


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            pass


PATTERN = bytes(range(251)) * 4200  # about 1 MiB, no two pages alike


def read_exactly(fd, count):
    data = bytearray()
    while len(data) < count:
        piece = os.read(fd, count - len(data))
        assert piece, f"the end came after {len(data)} bytes of {count}"
        data += piece
    return bytes(data)


def fill(guest):
    """Print until nothing goes on, not even on the I/O thread; how many bytes were taken."""
    total = 0
    while True:
        taken = guest.try_to_print(PATTERN[:LIMIT])
        total += taken
        guest.loop.call(lambda: None)
        if not taken:
            return total
        assert total < 100 * LIMIT, "output that nobody reads has no bound"


def connect(loop, console, fd):
    loop.call(lambda: console.output.connect(*own(fd, os.O_WRONLY)))


def test_a_byte_arrives(loop, console, guest, pipe):
    connect(loop, console, pipe[1])
    guest.print(b"A")
    assert os.read(pipe[0], 10) == b"A"


def test_everything_arrives_in_order(loop, console, guest, pipe):
    connect(loop, console, pipe[1])
    received = []
    reader = Thread(target=lambda: received.append(read_exactly(pipe[0], len(PATTERN))))
    reader.start()
    guest.print(PATTERN)
    reader.join()
    assert received == [PATTERN]


def test_everything_arrives_through_a_socket_that_cannot_be_opened_again(loop, console, guest):
    near, far = socket.socketpair()
    connect(loop, console, near.fileno())
    received = []
    reader = Thread(target=lambda: received.append(read_exactly(far.fileno(), len(PATTERN))))
    reader.start()
    guest.print(PATTERN)
    reader.join()
    assert received == [PATTERN]
    near.close()
    far.close()


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_reader_that_does_not_read_costs_bounded_memory_and_no_thread(kind, loop, console, guest, pipe):
    sockets = socket.socketpair()
    reader, writer = pipe if kind == "pipe" else (sockets[0].fileno(), sockets[1].fileno())
    connect(loop, console, writer)
    taken = fill(guest)
    assert taken <= LIMIT + 1024 * 1024, "more than our buffer and the kernel's"
    assert loop.call(lambda: "alive") == "alive"
    read_exactly(reader, taken)
    for end in sockets:
        end.close()


def test_a_guest_that_was_refused_is_told_of_room(loop, console, guest, pipe):
    connect(loop, console, pipe[1])
    taken = fill(guest)
    told = []
    console.output.on_room = lambda: told.append(True)
    assert guest.try_to_print(b"x") == 0
    assert not told
    read_exactly(pipe[0], taken)
    loop.until(lambda: told)
    assert guest.try_to_print(b"x") == 1


def test_a_full_batch_does_not_wait_for_the_next_look(loop, console, guest, monkeypatch):
    monkeypatch.setattr(output, "PAUSE", 3600 * 10**9)
    guest.print(b"x")
    loop.until(lambda: loop.timers)
    told = []
    console.output.on_room = lambda: told.append(True)
    assert guest.try_to_print(bytes(LIMIT + 1)) == LIMIT  # nobody is connected: only the batch is full
    loop.until(lambda: told)


def test_many_bytes_wake_the_loop_few_times(loop, console, guest):
    before = loop.wakes
    guest.print(b"x" * 100_000)
    assert loop.wakes - before < 100_000 / 20


class ByHand:
    """A loop that a test steps: what is to be called next, and after which pauses."""

    def __init__(self):
        self.next = []
        self.pauses = []

    def post(self, action):
        self.next.append(action)

    def later(self, pause, action):
        self.pauses.append(pause)
        self.next.append(action)


def test_the_longer_a_guest_prints_the_rarer_it_is_looked_at(monkeypatch):
    monkeypatch.setattr(output, "PAUSE", 2)
    monkeypatch.setattr(output, "LONGEST", 16)
    loop = ByHand()
    sink = Output(loop, Tap())
    for _ in range(5):
        sink.put(0x78)
        loop.next.pop(0)()
    loop.next.pop(0)()  # there is nothing more
    assert loop.pauses == [2, 4, 8, 16, 16]
    assert loop.next == []
    sink.put(0x78)
    loop.next.pop(0)()
    assert loop.pauses[5:] == [2]


class Stream:
    """Bytes that wait while it is told to keep them."""

    def __init__(self, sink, most=0):
        self.most = most
        self.is_kept = False
        self.calls = []
        self.waits = b""
        self._sink = sink

    def keep(self):
        self.calls.append("keep")
        self.is_kept = True

    def deliver(self):
        for byte in self.waits:
            self._sink.put(byte)
        self.waits = b""

    def stop(self):
        self.calls.append("stop")
        self.is_kept = False

    def end(self):
        self.calls.append("end")
        self.deliver()
        self.is_kept = False


def test_bytes_are_kept_back_only_while_a_guest_prints_and_somebody_looks():
    loop = ByHand()
    sink = Output(loop, Tap())
    sink.stream = stream = Stream(sink)
    sink.put(0x61)
    loop.next.pop(0)()
    assert stream.calls == []  # a few bytes are no stream
    sink.put(0x62)
    loop.next.pop(0)()
    assert stream.calls == ["keep"]
    stream.waits = b"c"
    loop.next.pop(0)()
    assert sink._tap.tail() == "abc"
    for _ in range(output.SILENT):
        assert "end" not in stream.calls
        loop.next.pop(0)()  # which is there: one looks as long as something may wait
    assert stream.calls[-1] == "end"
    assert loop.next == []


def test_a_byte_that_comes_while_the_stream_ends_is_printed():
    loop = ByHand()
    sink = Output(loop, Tap())
    sink.stream = stream = Stream(sink)
    for _ in range(2):
        sink.put(0x61)
        loop.next.pop(0)()
    for _ in range(output.SILENT - 1):
        loop.next.pop(0)()
    stream.deliver = lambda: None  # it comes after the look
    end = stream.end

    def last():
        end()
        sink.put(0x62)

    stream.end = last
    loop.next.pop(0)()
    assert sink._tap.tail() == "aab"


def test_a_silent_guest_wakes_nobody(loop, console, guest, pipe):
    connect(loop, console, pipe[1])
    guest.print(b"x")
    read_exactly(pipe[0], 1)
    loop.until(lambda: not loop.timers)
    before = loop.wakes
    loop.call(lambda: None)
    assert loop.wakes - before <= 2


def test_the_shared_end_of_a_pipe_keeps_its_mode(loop, console, guest, pipe):
    connect(loop, console, pipe[1])
    guest.print(b"x")
    read_exactly(pipe[0], 1)
    assert os.get_blocking(pipe[1])


@pytest.mark.parametrize("kind", ["pipe", "pipe closed from the start", "socket"])
def test_a_reader_that_is_gone_is_remembered_and_no_brake(kind, loop, console, guest, pipe):
    near, far = socket.socketpair()
    lost = []
    console.output.on_lost = lost.append
    if kind == "socket":
        connect(loop, console, near.fileno())
        far.close()
    elif kind == "pipe":
        connect(loop, console, pipe[1])
        os.close(pipe[0])
    else:
        os.close(pipe[0])
        connect(loop, console, pipe[1])
    guest.print(b"a")
    loop.until(lambda: lost)
    guest.print(PATTERN)
    loop.call(lambda: None)
    assert [error.errno for error in lost] == [errno.EPIPE]
    assert console.output.lost is lost[0]
    near.close()
    far.close()


def test_a_full_disk_is_remembered(loop, console, guest):
    lost = []
    console.output.on_lost = lost.append
    with open("/dev/full", "wb") as full:
        connect(loop, console, full.fileno())
    guest.print(b"a")
    loop.until(lambda: lost)
    assert lost[0].errno == errno.ENOSPC


def test_output_to_a_file_goes_on_where_the_file_is(loop, console, guest, tmp_path):
    path = tmp_path / "log"
    with open(path, "wb", buffering=0) as file:
        file.write(b"before ")
        connect(loop, console, file.fileno())
        guest.print(b"guest")
        loop.until(lambda: path.read_bytes().endswith(b"guest"))
        file.write(b" after")
    assert path.read_bytes() == b"before guest after"


def test_the_tap_hears_what_nobody_reads(loop, console, guest, pipe):
    connect(loop, console, pipe[1])
    os.set_blocking(pipe[1], False)
    try:
        while True:
            os.write(pipe[1], bytes(4096))
    except BlockingIOError:
        pass
    guest.print(b"first")
    loop.until(lambda: "first" in console.tap.tail())
    guest.print(b"second")
    loop.until(lambda: "second" in console.tap.tail())


def test_the_last_words_are_written_in_the_end(loop, console, guest, pipe):
    connect(loop, console, pipe[1])
    loop.stop()
    with loop.lock:
        for byte in b"Power down":
            assert console.output.put(byte)
    assert console.drain(1)
    assert os.read(pipe[0], 100) == b"Power down"
    assert console.tap.tail() == "Power down"


def test_the_end_waits_for_a_slow_reader(loop, console, guest, pipe):
    connect(loop, console, pipe[1])
    taken = fill(guest)
    loop.stop()
    received = []
    reader = Thread(target=lambda: received.append(read_exactly(pipe[0], taken)))
    reader.start()
    assert console.drain(None)
    reader.join()
    assert len(received[0]) == taken


def test_the_end_does_not_wait_for_ever_for_a_reader_that_does_not_read(loop, console, guest, pipe):
    connect(loop, console, pipe[1])
    fill(guest)
    loop.stop()
    assert not console.drain(0.01)


def test_the_end_does_not_wait_for_a_reader_that_is_gone(loop, console, guest, pipe):
    connect(loop, console, pipe[1])
    fill(guest)
    loop.stop()
    os.close(pipe[0])
    assert console.drain(None)
    assert console.output.lost is not None


def test_the_end_brings_out_what_the_guest_still_held(loop, console, guest, pipe):
    connect(loop, console, pipe[1])
    taken = fill(guest)
    held = bytearray(b"held back")

    def room():
        while held and console.output.put(held[0]):
            del held[0]

    console.output.on_room = room
    loop.stop()
    received = []
    reader = Thread(target=lambda: received.append(read_exactly(pipe[0], taken + 9)))
    reader.start()
    assert console.drain(None)
    reader.join()
    assert received[0].endswith(b"held back")


def test_what_is_held_comes_later_in_order_and_only_its_end(loop, console, guest):
    reader, writer = os.pipe()
    loop.call(lambda: console.output.connect(*own(writer, os.O_WRONLY)))
    guest.print(b"before ")
    loop.call(console.output.hold)
    guest.print(b"x" * (LIMIT + 100))
    guest.print(b"held ")
    loop.call(lambda: console.output.show(b"drawn "))
    assert os.read(reader, 100) == b"before drawn "
    loop.call(console.output.let_go)
    guest.print(b"after")
    got = b""
    while not got.endswith(b"after"):
        got += os.read(reader, LIMIT)
    assert got == b"x" * (LIMIT - 5) + b"held after"
    os.close(reader)
    os.close(writer)


def printing(sink, loop):
    """A guest that prints, whose bytes are kept."""
    for byte in b"ab":
        sink.put(byte)
        loop.next.pop(0)()
    assert sink.stream.is_kept


def test_there_is_room_for_what_was_kept_when_the_reader_takes_nothing():
    loop = ByHand()
    sink = Output(loop, Tap())
    sink.stream = stream = Stream(sink, most=1024)
    printing(sink, loop)
    accepted = 0
    while stream.is_kept:
        assert sink.put(0x63)
        accepted += 1
    assert stream.calls[-1] == "stop"
    left = 0
    while sink.put(0x64):
        left += 1
    assert left + 1 >= stream.most  # the one that found no room but the reserve was kept, too
    assert accepted + left == output.LIMIT


def test_nothing_is_kept_back_while_much_waits_for_a_slow_reader(pipe):
    _, writer = pipe
    loop = ByHand()
    loop.add = loop.remove = lambda *given, **named: None
    sink = Output(loop, Tap())
    sink.connect(writer, never_waits=False)
    sink.stream = stream = Stream(sink, most=1024)
    while not sink.waits or sink.put(0x61):  # until the pipe is full, and no more is taken here
        sink.put(0x61)
        if loop.next:
            loop.next.pop(0)()
    stream.end()
    stream.calls.clear()
    sink.put(0x62)
    loop.next.pop(0)()
    assert "keep" not in stream.calls
    sink.disconnect()
