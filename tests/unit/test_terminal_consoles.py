"""Where a console can lead: a file, a socket, a pty, nowhere; and its own terminal with pipes."""

import os
import pty
import select
import socket
import stat
import termios

import pytest
from doubles_loop import Guest, Loop

from pykvm.errors import HostError, InputError
from pykvm.terminal.console import Console
from pykvm.terminal.file import FileConsole
from pykvm.terminal.open import make_console
from pykvm.terminal.output import LIMIT
from pykvm.terminal.pty import PtyConsole
from pykvm.terminal.standard import Terminal
from pykvm.terminal.unix import UnixConsole


@pytest.fixture
def loop():
    with Loop() as loop:
        yield loop


@pytest.fixture
def started(loop):
    """Start a console and return its guest; closed in the end."""
    consoles = []

    def start(console):
        guest = Guest(loop, console)
        consoles.append(console)
        loop.call(console.start)
        return guest

    yield start
    loop.stop()
    for console in consoles:
        console.close()
        console.close()


def read_until(fd, end):
    data = b""
    while not data.endswith(end):
        assert select.select([fd], [], [], 20)[0], f"only {data!r} came"
        piece = os.read(fd, 4096)
        assert piece, f"the end came after {data!r}"
        data += piece
    return data


def has_hung_up(client):
    client.settimeout(20)
    return client.recv(100) == b""


def connected(path):
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    return client


# none


def test_a_console_that_leads_nowhere_is_no_brake_and_remembers_its_tail(loop, started):
    guest = started(make_console("none", "com1", loop, folder="", on_stop=int, on_hangup=int))
    guest.print(b"x" * 3 * LIMIT + b"\nend")
    loop.until(lambda: guest.console.tap.tail(1) == "end")


# a file


def test_a_file_is_begun_anew(loop, started, tmp_path):
    path = tmp_path / "log"
    path.write_text("old and longer than the new")
    guest = started(make_console("log", "com1", loop, folder=str(tmp_path), on_stop=int, on_hangup=int))
    guest.print(b"new")
    loop.until(lambda: path.read_text() == "new")


def test_a_file_that_is_open_already_is_written_on(loop, started, tmp_path):
    """``to: /dev/stdout``, and standard output is a file that others have written to."""
    path = tmp_path / "log"
    with open(path, "wb", buffering=0) as file:
        file.write(b"before ")
        (tmp_path / "link").symlink_to(f"/dev/fd/{file.fileno()}")
        guest = started(FileConsole(loop, str(tmp_path / "link")))
        guest.print(b"ours ")
        loop.until(lambda: path.read_text().endswith("ours "))
        file.write(b"after")
    assert path.read_text() == "before ours after"


@pytest.mark.parametrize("place", ["missing/log", "folder", "socket", "fifo"])
def test_a_path_that_takes_no_output_is_an_input_error(place, loop, tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    with pytest.raises(InputError, match=rf"{place}: cannot write .*; choose "):
        FileConsole(loop, str(tmp_path / place)).start()
    listener.close()


# a socket


def test_a_client_of_the_socket_talks_with_the_guest(loop, started, tmp_path):
    path = tmp_path / "com1"
    guest = started(make_console("unix:com1", "com1", loop, folder=str(tmp_path), on_stop=int, on_hangup=int))
    with connected(path) as client:
        client.sendall(b"hello guest")
        assert guest.read(11) == b"hello guest"
        guest.print(b"hello client")
        assert read_until(client.fileno(), b"client") == b"hello client"


def test_the_socket_is_for_its_owner_only(started, loop, tmp_path):
    path = tmp_path / "com1"
    started(UnixConsole(loop, str(path)))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_output_without_a_client_is_dropped(loop, started, tmp_path):
    path = tmp_path / "com1"
    guest = started(UnixConsole(loop, str(path)))
    guest.print(b"x" * 3 * LIMIT)
    loop.until(lambda: not loop.timers)
    with connected(path) as client:
        client.sendall(b"?")
        guest.read(1)
        guest.print(b"now")
        assert read_until(client.fileno(), b"now") == b"now"


def test_a_second_client_is_turned_away(loop, started, tmp_path):
    path = tmp_path / "com1"
    guest = started(UnixConsole(loop, str(path)))
    with connected(path) as first, connected(path) as second:
        assert has_hung_up(second)
        first.sendall(b"first")
        assert guest.read(5) == b"first"


def test_a_client_can_come_after_another_has_left(loop, started, tmp_path):
    path = tmp_path / "com1"
    guest = started(UnixConsole(loop, str(path)))
    for number in b"123":
        with connected(path) as client:
            client.sendall(bytes([number]))
            assert guest.read(1) == bytes([number])


def test_a_client_can_come_after_one_that_left_while_the_guest_read_nothing(loop, started, tmp_path):
    path = tmp_path / "com1"
    guest = started(UnixConsole(loop, str(path)))
    with connected(path) as first:
        first.sendall(bytes(100))
        loop.until(lambda: len(guest.fifo) == guest.capacity)
    with connected(path) as second:
        guest.print(b"welcome")
        assert read_until(second.fileno(), b"welcome") == b"welcome"


def test_a_client_that_said_its_last_word_still_listens(loop, started, tmp_path):
    path = tmp_path / "com1"
    guest = started(UnixConsole(loop, str(path)))
    with connected(path) as client:
        client.sendall(b"poweroff\n")
        client.shutdown(socket.SHUT_WR)
        assert guest.read(9) == b"poweroff\n"
        guest.print(b"Power down")
        assert read_until(client.fileno(), b"down") == b"Power down"
        with connected(path) as next_one:  # and makes way
            assert has_hung_up(client)
            guest.print(b"next")
            assert read_until(next_one.fileno(), b"next") == b"next"


def test_a_client_that_left_is_no_lost_output(loop, started, tmp_path):
    path = tmp_path / "com1"
    guest = started(UnixConsole(loop, str(path)))
    with connected(path) as client:
        client.sendall(b"!")
        guest.read(1)
    guest.print(b"x" * 3 * LIMIT)
    assert guest.console.output.lost is None


def test_the_socket_is_removed_in_the_end(loop, started, tmp_path):
    path = tmp_path / "com1"
    guest = started(UnixConsole(loop, str(path)))
    assert path.exists()
    loop.call(guest.console.close)
    assert not path.exists()


def test_a_socket_of_a_dead_process_is_replaced(loop, started, tmp_path):
    path = tmp_path / "com1"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    started(UnixConsole(loop, str(path)))
    connected(path).close()


def test_a_socket_of_a_living_process_is_left_alone(loop, tmp_path):
    path = tmp_path / "com1"
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(path))
        living.listen()
        console = UnixConsole(loop, str(path))
        with pytest.raises(HostError, match=r"com1: another process listens here; "):
            console.start()
        console.close()
        connected(path).close()


def test_a_file_in_the_place_of_the_socket_is_left_alone(loop, tmp_path):
    path = tmp_path / "com1"
    path.write_text("precious")
    console = UnixConsole(loop, str(path))
    with pytest.raises(InputError, match=r"com1: is there already and is no socket; "):
        console.start()
    console.close()
    assert path.read_text() == "precious"


@pytest.mark.parametrize("name", ["missing/com1", "x" * 200])
def test_a_path_that_can_be_no_socket_is_an_input_error(name, loop, tmp_path):
    console = UnixConsole(loop, str(tmp_path / name))
    with pytest.raises(InputError, match=r"cannot listen here: .*; choose a short path"):
        console.start()
    console.close()


# a pty


def open_raw(path):
    return os.open(path, os.O_RDWR | os.O_NOCTTY)


def test_a_program_at_the_pty_talks_with_the_guest(loop, started, capsys):
    guest = started(make_console("pty", "com2", loop, folder="", on_stop=int, on_hangup=int))
    path = guest.console.path
    assert capsys.readouterr().err == f"pykvm: com2 is {path}\n"
    fd = open_raw(path)
    os.write(fd, b"ls\r\x03")
    assert guest.read(4) == b"ls\r\x03"
    guest.print(b"a\nb\r\n")
    assert read_until(fd, b"b\r\n") == b"a\nb\r\n"
    os.close(fd)


def test_programs_at_the_pty_come_and_go(loop, started):
    guest = started(PtyConsole(loop, "com1"))
    for word in (b"one", b"two", b"six"):
        fd = open_raw(guest.console.path)
        os.write(fd, word)
        assert guest.read(3) == word
        os.close(fd)


def test_a_pty_that_nobody_reads_is_no_brake_and_does_not_grow(loop, started):
    guest = started(PtyConsole(loop, "com1"))
    for _ in range(5):
        guest.print(b"x" * 3 * LIMIT)
    loop.until(lambda: not loop.timers)
    before = loop.wakes
    loop.call(lambda: None)
    assert loop.wakes - before <= 2
    fd = open_raw(guest.console.path)
    waited = b""
    while b"now" not in waited:
        guest.print(b"now")
        assert select.select([fd], [], [], 20)[0]
        waited += os.read(fd, LIMIT)
    assert waited.index(b"now") <= LIMIT + 128 * 1024, "more than our buffer and the kernel's"
    os.close(fd)


def test_the_end_does_not_wait_for_a_program_at_the_pty(loop, started):
    guest = started(PtyConsole(loop, "com1"))
    guest.print(b"x" * 5 * LIMIT)
    loop.stop()
    assert not guest.console.drain(None)


# standard input and output that are no terminals


def test_a_machine_runs_between_two_pipes(loop, started):
    in_reader, in_writer = os.pipe()
    out_reader, out_writer = os.pipe()
    guest = started(Terminal(loop, on_stop=int, on_hangup=int, stdin=in_reader, stdout=out_writer))
    os.write(in_writer, b"\x01x\n")  # no person types this: it is data
    assert guest.read(3) == b"\x01x\n"
    guest.print(b"ok\n")
    assert read_until(out_reader, b"ok\n") == b"ok\n"
    for fd in (in_reader, in_writer, out_reader, out_writer):
        os.close(fd)


def test_a_machine_runs_without_standard_input_and_output(loop, started):
    guest = started(Terminal(loop, on_stop=int, on_hangup=int, stdin=None, stdout=None))
    guest.print(b"x" * 3 * LIMIT)


def test_with_the_output_in_a_pipe_the_terminal_keeps_its_mode(loop, started, capsys):
    near, far = pty.openpty()
    out_reader, out_writer = os.pipe()
    before = termios.tcgetattr(far)
    stopped = []
    guest = started(
        Terminal(loop, on_stop=lambda: stopped.append(True), on_hangup=int, stdin=far, stdout=out_writer)
    )
    assert termios.tcgetattr(far) == before
    os.write(near, b"ls\n")
    assert guest.read(3) == b"ls\n"
    os.write(near, b"\x01x\n")
    loop.until(lambda: stopped)
    assert capsys.readouterr().err == ""
    for fd in (near, far, out_reader, out_writer):
        os.close(fd)


def test_with_the_input_from_a_pipe_the_terminal_keeps_its_mode(loop, started, capsys):
    near, far = pty.openpty()
    in_reader, in_writer = os.pipe()
    before = termios.tcgetattr(far)
    guest = started(Terminal(loop, on_stop=int, on_hangup=int, stdin=in_reader, stdout=far))
    assert termios.tcgetattr(far) == before
    guest.print(b"ok\n")
    assert read_until(near, b"\n") == b"ok\r\n"
    assert capsys.readouterr().err == ""
    for fd in (near, far, in_reader, in_writer):
        os.close(fd)


def test_a_terminal_that_nobody_reads_is_no_brake_for_the_loop(loop, started):
    near, far = pty.openpty()
    guest = started(Terminal(loop, on_stop=int, on_hangup=int, stdin=None, stdout=far))
    while guest.try_to_print(b"x" * LIMIT):
        assert loop.call(lambda: "alive") == "alive"
    for fd in (near, far):
        os.close(fd)


def test_the_loop_gets_all_its_descriptors_back(loop, started, tmp_path):
    before = sorted(os.listdir("/proc/self/fd"))
    near, far = pty.openpty()
    consoles = [
        Console(loop),
        FileConsole(loop, str(tmp_path / "log")),
        UnixConsole(loop, str(tmp_path / "com1")),
        PtyConsole(loop, "com1"),
        Terminal(loop, on_stop=int, on_hangup=int, stdin=far, stdout=far),
    ]
    for console in consoles:
        started(console)
    client = connected(tmp_path / "com1")
    loop.call(lambda: None)
    for console in consoles:
        loop.call(console.close)
    for fd in (near, far):
        os.close(fd)
    client.close()
    assert sorted(os.listdir("/proc/self/fd")) == before
