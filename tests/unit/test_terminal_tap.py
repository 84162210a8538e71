"""What a tap tells of a console: its last lines, its first output, and texts that are waited for."""

from pykvm.terminal.tap import KEPT, LINE_MAX, Tap, Watch


def test_the_first_output_is_timed_once():
    tap = Tap()
    assert tap.first_output_ns is None
    tap.feed(b"a")
    first = tap.first_output_ns
    assert first is not None
    tap.feed(b"b")
    assert tap.first_output_ns == first


def test_the_tail_is_the_last_lines():
    tap = Tap()
    for number in range(100):
        tap.feed(b"line %d\r\n" % number)
    assert tap.tail(3) == "line 97\nline 98\nline 99\n"


def test_the_tail_counts_an_unfinished_line():
    tap = Tap()
    tap.feed(b"one\ntwo\nlogin: ")
    assert tap.tail(2) == "two\nlogin: "


def test_output_without_end_is_kept_only_in_part():
    tap = Tap()
    for _ in range(100):
        tap.feed(b"x" * 1000)
    assert tap.tail() == "x" * KEPT


def test_the_tail_obeys_no_escape_sequence():
    tap = Tap()
    tap.feed(
        b"\x1b[2J\x1b[1;31mred\x1b[0m \x1b]0;title\x07\x1b(Bplain\x07\x08\x1b]unfinished\nKernel panic\n\x1b["
    )
    assert tap.tail() == "red plain\nKernel panic\n"


def test_the_tail_replaces_what_is_no_utf8():
    tap = Tap()
    tap.feed(b"gr\xc3\xbc\xc3\x9fe \xff\n")
    assert tap.tail() == "grüße \ufffd\n"


def heard(text, *pieces, lines=0):
    found = []
    tap = Tap()
    tap.listeners.append(Watch(text, found.append, lines=lines))
    for piece in pieces:
        tap.feed(piece)
    return found


def test_a_text_is_found_within_a_batch():
    assert heard(b"login:", b"debian login: ") == [b"login:"]


def test_a_text_is_found_across_batches():
    assert heard(b"login:", *(bytes([c]) for c in b"lo login:")) == [b"login:"]
    assert heard(b"a", b"b", b"a") == [b"a"]


def test_a_text_that_is_not_there_is_not_found():
    assert heard(b"login:", b"login", b" in: ", b"logi", b"n") == []


def test_a_text_is_found_once():
    assert heard(b"login:", b"login: login: ", b"login: ") == [b"login:"]


def test_a_whole_line_tells_what_follows_the_text():
    panic = b"[    1.5] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n[    1.6] CPU: 0"
    assert heard(b"Kernel panic - not syncing", panic[:20], panic[20:45], panic[45:], lines=1) == [
        b"Kernel panic - not syncing: VFS: Unable to mount root fs"
    ]


def test_a_whole_line_waits_for_its_end():
    assert heard(b"panic", b"panic: at", lines=1) == []


def test_more_lines_than_one_are_told_from_the_text_on():
    xen = b"****\r\n(XEN) Panic on CPU 0:\r\n(XEN) Could not construct d0\r\n(XEN) ****"
    assert heard(b"Panic on CPU ", xen[:30], xen[30:60], xen[60:], lines=2) == [
        b"Panic on CPU 0:\n(XEN) Could not construct d0"
    ]


def test_a_text_at_the_start_of_a_line_only():
    assert heard(b"\npanic: ", b"no panic: x\n", b"\npanic: init died\r\n", lines=1) == [b"panic: init died"]


def test_a_line_without_end_ends_somewhere():
    assert heard(b"panic", b"panic", *[b"!" * 100] * 30, lines=1) == [b"panic" + b"!" * (LINE_MAX - 5)]


def test_a_tap_knows_whether_a_line_has_begun():
    tap = Tap()
    assert tap.at_line_start
    tap.feed(b"x")
    assert not tap.at_line_start
    tap.feed(b"\r\n")
    assert tap.at_line_start
