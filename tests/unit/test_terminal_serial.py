"""A console at a real serial port: what a driver does on one side, what a program does on the other."""

import os

import pytest
from doubles import Line
from doubles_loop import Loop

from pykvm.devices.serial import Serial
from pykvm.devices.serialregisters import FCR, FCR_ENABLE, LSR, LSR_BI, LSR_DR, LSR_THRE, RBR, THR
from pykvm.terminal.console import Console
from pykvm.terminal.keyboard import Keyboard

TEXT = b"The quick brown fox jumps over the lazy dog. " * 20


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
def serial(console):
    serial = Serial(Line(), console.output)
    serial.write(FCR, 1, FCR_ENABLE)
    console.attach(serial)
    return serial


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def test_a_driver_that_polls_reads_all_input(loop, console, serial, pipe):
    loop.call(lambda: console.input.connect(os.dup(pipe[0])))
    os.write(pipe[1], TEXT)
    data = bytearray()

    def read():
        while serial.read(LSR, 1) & LSR_DR:
            data.append(serial.read(RBR, 1))
        return len(data) == len(TEXT)

    loop.until(read)
    assert data == TEXT


def test_a_driver_that_waits_for_thre_loses_nothing(loop, console, serial, pipe):
    loop.call(lambda: console.output.connect(os.dup(pipe[1]), never_waits=False))
    sent = 0
    with loop.lock:
        while serial.read(LSR, 1) & LSR_THRE:  # until nothing goes on, as nobody reads
            serial.write(THR, 1, sent % 251)
            sent += 1
    received = bytearray(os.read(pipe[0], 1))
    while len(received) < sent:
        received += os.read(pipe[0], 65536)
    assert received == bytes(number % 251 for number in range(sent))
    loop.until(lambda: serial.read(LSR, 1) & LSR_THRE)


def test_a_break_from_the_keyboard_is_one_to_the_driver(loop, console):
    console.input = Keyboard(loop, lambda name: None, lambda: True)
    serial = Serial(Line(), console.output)
    console.attach(serial)
    console.input.take(b"\x01b")
    assert serial.read(LSR, 1) & LSR_BI
