"""The kernel's command line: pykvm's words and the user's."""

from __future__ import annotations

import pytest

from pykvm.config.cmdline import merge_cmdline, words


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", []),
        ("  quiet \t debug\n", ["quiet", "debug"]),
        ('dyndbg="file a +p" quiet', ['dyndbg="file a +p"', "quiet"]),
        ('"dyndbg=file a" quiet', ['"dyndbg=file a"', "quiet"]),
        ('open="a b', ['open="a b']),
    ],
)
def test_words_are_parted_by_blanks_outside_of_quotes(line, expected):
    assert words(line) == expected


@pytest.mark.parametrize(
    ("own", "user", "expected"),
    [
        ("", "", ""),
        ("panic=-1 console=ttyS0", "", "panic=-1 console=ttyS0"),
        ("", " quiet  debug ", "quiet  debug"),
        ("panic=-1", "quiet", "panic=-1 quiet"),
        ("panic=-1 console=ttyS0", "panic=5", "console=ttyS0 panic=5"),
        ("panic=-1 quiet", "panic", "quiet panic"),
        ("earlycon console=ttyS0", "earlyconx", "earlycon console=ttyS0 earlyconx"),
        ("reboot=t tsc=reliable", 'x="reboot=k"', 'reboot=t tsc=reliable x="reboot=k"'),
        ("i8042.no-aux", "i8042.no_aux=0", "i8042.no_aux=0"),
    ],
)
def test_the_users_words_win_over_pykvms(own, user, expected):
    assert merge_cmdline(own, user) == expected


def test_any_console_of_the_users_drops_pykvms():
    assert (
        merge_cmdline("console=ttyS0 panic=-1", "console=tty0 console=hvc0")
        == "panic=-1 console=tty0 console=hvc0"
    )


def test_what_init_gets_takes_nothing_from_the_kernel():
    assert (
        merge_cmdline("panic=-1 console=ttyS0", "quiet -- panic=7")
        == "panic=-1 console=ttyS0 quiet -- panic=7"
    )
