"""Which of the keys typed at a terminal are the guest's, and which are pykvm's."""

import pytest

from pykvm.terminal.keys import BREAK, HELP, STOP, Keys


@pytest.mark.parametrize(
    ("typed", "meaning"),
    [
        (b"", []),
        (b"ls\r", [b"ls\r"]),
        (b"\x03\x04\x1a\x1c\x00\xff", [b"\x03\x04\x1a\x1c\x00\xff"]),
        (b"\x01x", [STOP]),
        (b"\x01h", [HELP]),
        (b"\x01b", [BREAK]),
        (b"\x01\x01", [b"\x01"]),
        (b"ab\x01bcd", [b"ab", BREAK, b"cd"]),
        (b"\x01\x01x", [b"\x01", b"x"]),
        (b"\x01\x01\x01x", [b"\x01", STOP]),
        (b"x\x01", [b"x"]),
    ],
)
def test_keys_mean(typed, meaning):
    assert Keys().feed(typed) == meaning


def test_a_key_may_come_after_its_prefix():
    keys = Keys()
    assert keys.feed(b"a\x01") == [b"a"]
    assert keys.feed(b"x") == [STOP]
    assert keys.feed(b"x") == [b"x"]


def test_an_unknown_key_lists_the_keys_and_goes_to_nobody():
    assert Keys().feed(b"\x01qls") == [HELP, b"ls"]
