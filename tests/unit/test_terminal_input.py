"""The way of typed or piped bytes to a guest, with real pipes and files and a real epoll."""

import os
from threading import Thread

import pytest
from doubles_loop import Guest, Loop

from pykvm.terminal.console import Console
from pykvm.terminal.descriptor import own
from pykvm.terminal.input import CHUNK

PATTERN = bytes(range(251)) * 800


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


def connect(loop, console, fd):
    loop.call(lambda: console.input.connect(own(fd, os.O_RDONLY)[0]))


def test_bytes_of_a_pipe_reach_the_guest(loop, console, guest):
    reader, writer = os.pipe()
    connect(loop, console, reader)
    os.write(writer, b"ls\n")
    assert guest.read(3) == b"ls\n"
    os.close(reader)
    os.close(writer)


def test_a_file_reaches_the_guest_whole_and_in_order(loop, console, guest, tmp_path):
    path = tmp_path / "input"
    path.write_bytes(PATTERN)
    with open(path, "rb") as file:
        connect(loop, console, file.fileno())
    assert guest.read(len(PATTERN)) == PATTERN


def test_a_pipe_reaches_the_guest_whole_and_in_order(loop, console, guest):
    reader, writer = os.pipe()
    connect(loop, console, reader)

    def write():
        with open(writer, "wb") as file:
            file.write(PATTERN)

    thread = Thread(target=write)
    thread.start()
    assert guest.read(len(PATTERN)) == PATTERN
    thread.join()
    os.close(reader)


def test_a_guest_that_does_not_read_leaves_the_rest_in_the_pipe(loop, console, guest):
    reader, writer = os.pipe()
    connect(loop, console, reader)
    os.set_blocking(writer, False)
    total = 0
    for _ in range(100):
        loop.call(lambda: None)
        try:
            total += os.write(writer, bytes(CHUNK))
        except BlockingIOError:
            pass
    assert total <= 64 * 1024 + 2 * CHUNK
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("source", ["pipe", "file", "/dev/null"])
def test_the_end_of_input_ends_nothing_else(source, loop, console, guest, tmp_path):
    ended = []
    console.input.on_end = lambda: ended.append(True)
    if source == "pipe":
        fd, writer = os.pipe()
        os.write(writer, b"bye")
        os.close(writer)
    else:
        path = "/dev/null"
        if source == "file":
            path = tmp_path / "input"
            path.write_bytes(b"bye")
        fd = os.open(path, os.O_RDONLY)
    connect(loop, console, fd)
    if source != "/dev/null":
        assert guest.read(3) == b"bye"
    loop.until(lambda: ended)
    guest.print(b"still here")
    loop.until(lambda: console.tap.tail() == "still here")
    assert ended == [True]
    os.close(fd)


def test_a_hang_up_before_the_guest_has_read_all_is_no_busy_loop(loop, console, guest):
    reader, writer = os.pipe()
    os.write(writer, bytes(100))
    os.close(writer)
    connect(loop, console, reader)
    loop.until(lambda: len(guest.fifo) == guest.capacity)
    before = loop.wakes
    for _ in range(10):
        loop.call(lambda: None)
    assert loop.wakes - before <= 11
    assert guest.read(100) == bytes(100)
    os.close(reader)


def test_the_shared_end_of_a_pipe_keeps_its_mode(loop, console, guest):
    reader, writer = os.pipe()
    connect(loop, console, reader)
    os.write(writer, b"x")
    guest.read(1)
    assert os.get_blocking(reader)
    os.close(reader)
    os.close(writer)


def test_what_was_typed_for_one_port_never_reaches_another(loop, console, guest):
    """Two guests' ports by turns: what the first hasn't taken waits for it, and reading goes on."""
    reader, writer = os.pipe()
    connect(loop, console, reader)
    os.write(writer, b"a" * 20)  # more than the port takes
    loop.until(lambda: len(guest.fifo) == 16)
    other = Guest(loop, Console(loop))
    waiting = loop.call(lambda: console.input.turn(other))
    assert waiting == b"a" * 4
    os.write(writer, b"b" * 17)
    loop.until(lambda: len(other.fifo) == 16)
    back = loop.call(lambda: console.input.turn(guest, waiting))
    assert back == b"b"
    os.write(writer, b"c")
    assert guest.read(21) == b"a" * 20 + b"c"
    assert other.fifo == b"b" * 16
    os.close(reader)
    os.close(writer)
