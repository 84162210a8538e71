"""A real process at a real terminal: raw while the guest has it, and as before whatever happens."""

import os
import pty
import select
import signal
import sys
import termios
import time
from pathlib import Path

import pytest

from pykvm.terminal.guard import Guard
from pykvm.terminal.mode import RawMode, raw, stty_settings

CHILD = str(Path(__file__).with_name("terminal_child.py"))
GREETING = b"pykvm: Ctrl-A x stops the machine, Ctrl-A h lists the keys\r\n"


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "waited 20 s for a condition"
        time.sleep(0.002)


class Screen:
    """A process and the terminal that it is the session leader of."""

    def __init__(self, role="machine"):
        orders_reader, self.orders = os.pipe()
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.dup2(orders_reader, 3)
            os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
            os.execv(sys.executable, [sys.executable, CHILD, role])
        os.close(orders_reader)
        self.before = termios.tcgetattr(self.fd)
        self.text = b""

    def expect(self, text):
        """Read up to ``text`` and return what was before it."""
        while text not in self.text:
            assert select.select([self.fd], [], [], 20)[0], f"only {self.text!r} came"
            try:
                self.text += os.read(self.fd, 4096)
            except OSError:  # EIO: nobody has the terminal open any more
                pytest.fail(f"the end came after {self.text!r}")
        before, _, self.text = self.text.partition(text)
        return before

    def started(self):
        """Wait for the machine's first words; its process number."""
        self.expect(b"machine ")
        return int(self.expect(b"\r\n"))

    def type(self, text):
        os.write(self.fd, text)

    def order(self, text):
        os.write(self.orders, text + b"\n")
        before = self.expect(b"did " + text + b";")
        self.text = before + self.text  # the machine may have been quicker than its shell

    def kill(self, signum):
        os.kill(self.pid, signum)

    @property
    def is_raw(self):
        return termios.tcgetattr(self.fd) == raw(self.before)

    @property
    def is_as_before(self):
        return termios.tcgetattr(self.fd) == self.before

    def status(self):
        """Wait for the end of the process."""
        ended = []
        until(lambda: ended.append(os.waitpid(self.pid, os.WNOHANG)) or ended[-1][0])
        self.pid = 0
        return os.waitstatus_to_exitcode(ended[-1][1])

    def wait_stopped(self):
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)

    def close(self):
        if self.pid:
            self.kill(signal.SIGKILL)
            self.status()
        os.close(self.fd)
        os.close(self.orders)


@pytest.fixture
def screen():
    screen = Screen()
    yield screen
    screen.close()


def test_the_first_line_tells_how_to_stop(screen):
    assert screen.expect(b"machine ") == GREETING


def test_every_key_goes_to_the_guest(screen):
    screen.started()
    assert screen.is_raw
    screen.type(b"\x03\x04\x1a\x1c\r\x11\x13\x16\x7f")
    screen.expect(b"\x7f]")


def test_ctrl_a_x_stops_the_machine(screen):
    screen.started()
    screen.type(b"\x01x")
    assert screen.status() == 130
    assert screen.is_as_before


def test_ctrl_a_h_lists_the_keys_on_lines_of_their_own(screen):
    screen.started()
    screen.type(b"ab\x01h")
    screen.expect(b"[ab]\r\n")
    assert b"Ctrl-A x       stop the machine\r\n" in screen.expect(b"Ctrl-A Ctrl-A  send Ctrl-A\r\n")


def test_ctrl_a_ctrl_a_sends_ctrl_a(screen):
    screen.started()
    screen.type(b"\x01\x01")
    screen.expect(b"[\x01]")


def test_ctrl_a_b_sends_a_break(screen):
    screen.started()
    screen.type(b"\x01b")
    screen.expect(b"<break>")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_that_ends_the_machine_leaves_the_terminal_as_it_was(signum, screen):
    screen.started()
    screen.kill(signum)
    assert screen.status() == 128 + signum
    assert screen.is_as_before


def test_an_exception_leaves_the_terminal_as_it_was(screen):
    screen.started()
    screen.kill(signal.SIGUSR2)
    assert screen.status() == 70
    assert screen.is_as_before


def test_no_process_is_left_in_the_end(screen):
    screen.started()
    screen.kill(signal.SIGTERM)
    screen.expect(b"closed")


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV])
def test_a_sudden_death_leaves_the_terminal_as_it_was(signum, screen):
    screen.started()
    assert screen.is_raw
    screen.kill(signum)
    assert screen.status() == -signum
    until(lambda: screen.is_as_before)


def test_the_terminal_is_the_shells_while_the_process_is_stopped(screen):
    screen.started()
    for _ in range(2):
        until(lambda: screen.is_raw)
        screen.kill(signal.SIGTSTP)
        screen.wait_stopped()
        assert screen.is_as_before
        screen.kill(signal.SIGCONT)
        until(lambda: screen.is_raw)
        screen.type(b"go on")
        screen.expect(b"[go on]")
    screen.type(b"\x01x")
    assert screen.status() == 130
    assert screen.is_as_before


def test_after_a_stop_that_nobody_announced_the_terminal_is_raw_again(screen):
    screen.started()
    screen.kill(signal.SIGSTOP)
    screen.wait_stopped()
    termios.tcsetattr(screen.fd, termios.TCSANOW, screen.before)  # the shell's doing
    screen.kill(signal.SIGCONT)
    until(lambda: screen.is_raw)
    screen.kill(signal.SIGTERM)
    assert screen.status() == 143
    assert screen.is_as_before


def test_a_death_while_stopped_leaves_the_terminal_alone(screen):
    screen.started()
    screen.kill(signal.SIGTSTP)
    screen.wait_stopped()
    others = list(screen.before)
    others[3] &= ~termios.ECHO
    termios.tcsetattr(screen.fd, termios.TCSANOW, others)
    screen.kill(signal.SIGKILL)
    screen.status()
    assert termios.tcgetattr(screen.fd) == others


def test_what_was_typed_for_the_guest_is_not_left_for_the_shell():
    near, far = pty.openpty()
    mode = RawMode(far)
    assert mode.enter()
    os.write(near, b"rm -rf /\r")
    assert select.select([far], [], [], 20)[0]
    mode.leave(forget_input=True)
    assert not select.select([far], [], [], 0)[0]
    os.close(near)
    os.close(far)


@pytest.mark.parametrize("role", ["parent", "grandparent"])
def test_the_death_of_the_parent_ends_the_machine_and_gives_the_terminal_back(role):
    """As a session's leader, whose end the kernel tells by SIGHUP, and as one whose end it doesn't."""
    screen = Screen(role)
    try:
        machine = screen.started()
        assert screen.is_raw
        os.kill(int(stat(machine)[1]), signal.SIGKILL)
        until(lambda: not Path(f"/proc/{machine}").exists() or stat(machine)[0] == "Z")
        assert screen.is_as_before
    finally:
        screen.close()


def stat(pid):
    """State, parent and more of a process: the fields of /proc/PID/stat after the name."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


@pytest.fixture
def shell():
    shell = Screen("shell")
    yield shell
    shell.close()


def test_a_process_in_the_background_prints_and_leaves_the_terminal_alone(shell):
    machine = shell.started()
    assert shell.is_as_before
    shell.type(b"for the shell\n")
    os.kill(machine, signal.SIGUSR1)
    shell.expect(b"tick")
    assert shell.is_as_before
    assert stat(machine)[0] != "T"
    os.kill(machine, signal.SIGTERM)
    os.close(shell.orders)
    shell.orders = os.open("/dev/null", os.O_WRONLY)
    assert shell.status() == 143
    assert shell.is_as_before


def test_a_process_that_comes_to_the_foreground_takes_the_terminal_when_it_is_continued(shell):
    shell.started()
    shell.order(b"cont")
    shell.expect(GREETING)
    assert shell.is_raw


def test_a_process_that_comes_to_the_foreground_takes_the_terminal_when_the_guest_prints(shell):
    machine = shell.started()
    shell.order(b"fg")
    os.kill(machine, signal.SIGUSR1)
    shell.expect(GREETING)
    assert shell.is_raw
    shell.type(b"typed")
    shell.expect(b"[typed]")


def test_a_process_that_comes_to_the_foreground_takes_the_terminal_when_someone_types(shell):
    shell.started()
    shell.order(b"fg")
    shell.type(b"typed\n")
    shell.expect(GREETING)
    shell.expect(b"[typed\n]")
    assert shell.is_raw


def test_a_process_that_lost_the_terminal_ends_without_being_stopped(shell):
    machine = shell.started()
    shell.order(b"cont")
    shell.expect(GREETING)
    shell.order(b"bg")
    os.kill(machine, signal.SIGTERM)
    os.close(shell.orders)
    shell.orders = os.open("/dev/null", os.O_WRONLY)
    assert shell.status() == 143
    assert shell.is_as_before


@pytest.fixture
def terminal():
    near, far = pty.openpty()
    yield far
    os.close(near)
    os.close(far)


def test_the_guard_leaves_a_terminal_alone_that_another_has_set(terminal):
    before = termios.tcgetattr(terminal)
    guard = Guard(terminal, stty_settings(before))
    others = list(before)
    others[3] &= ~(termios.ICANON | termios.ECHO)  # as an editor of command lines sets it
    termios.tcsetattr(terminal, termios.TCSANOW, others)
    others = termios.tcgetattr(terminal)
    guard.fire()
    assert termios.tcgetattr(terminal) == others


def test_the_guard_brings_back_every_setting(terminal):
    settings = termios.tcgetattr(terminal)
    settings[0] ^= termios.IXANY | termios.IUTF8 if hasattr(termios, "IUTF8") else termios.IXANY
    settings[6][termios.VERASE] = b"\x08"
    settings[6][termios.VINTR] = b"\x18"
    termios.tcsetattr(terminal, termios.TCSANOW, settings)
    settings = termios.tcgetattr(terminal)
    guard = Guard(terminal, stty_settings(settings))
    termios.tcsetattr(terminal, termios.TCSANOW, raw(settings))
    guard.fire()
    assert termios.tcgetattr(terminal) == settings


def test_settings_are_written_as_stty_writes_them(terminal):
    import subprocess

    settings = subprocess.run(["stty", "-g"], stdin=terminal, capture_output=True, text=True, check=True)
    assert stty_settings(termios.tcgetattr(terminal)) == settings.stdout.strip()


def test_a_guard_that_was_killed_is_no_error(terminal):
    guard = Guard(terminal, "")
    os.kill(guard._pid, signal.SIGKILL)
    guard.dismiss()


def test_a_terminal_that_hung_up_is_no_error():
    near, far = pty.openpty()
    mode = RawMode(far)
    assert mode.enter()
    os.close(near)
    mode.leave()
    assert not mode.enter()
    os.close(far)
