"""Sizes, durations and numbers as people write them."""

from __future__ import annotations

import pytest

from pykvm.config.sizes import parse_duration, parse_size, parse_whole, show_size, shown
from pykvm.errors import InputError

SIZES = [
    ("0", 0),
    ("1", 1),
    ("4096", 4096),
    ("0x1000", 4096),
    ("1K", 1 << 10),
    ("512M", 512 << 20),
    ("1G", 1 << 30),
    ("2T", 2 << 40),
    ("1.5G", 3 << 29),
    ("0.5K", 512),
]


@pytest.mark.parametrize(("text", "size"), SIZES)
def test_a_size_is_a_number_of_bytes_with_a_power_of_1024(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "M", "512MB", "512MiB", "512m", "512 M", " 512M", "-1M", "+1M", "1e6", "1_0M", "1.M", ".5M", "1..5M",
     "1.5", "1.0001K", "0x10M", "0x", "٥M", "1,5G", "0100", "010M", "9" * 50 + "M"],
)  # fmt: skip
def test_what_is_no_whole_number_of_bytes_is_refused(text):
    with pytest.raises(InputError) as caught:
        parse_size(text)
    assert str(caught.value) == f"{shown(text)} is not a size; write 512M or 1G"


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1536, 1 << 20, 3 << 29, 5 << 40, (1 << 63) - 1])
def test_a_size_that_is_shown_reads_as_the_same_size(size):
    assert parse_size(show_size(size)) == size


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0"), (1000, "1000"), (1 << 20, "1M"), (3 << 29, "1536M"), (8 << 40, "8T")]
)
def test_a_size_is_shown_in_its_largest_unit(size, text):
    assert show_size(size) == text


@pytest.mark.parametrize(
    ("text", "ns"),
    [("0s", 0), ("500ms", 5 * 10**8), ("60s", 6 * 10**10), ("2m", 12 * 10**10), ("1.5s", 15 * 10**8)],
)
def test_a_duration_has_a_unit(text, ns):
    assert parse_duration(text) == ns


@pytest.mark.parametrize(
    "text", ["", "60", "60S", "60 s", "1h", "1m30s", "1:30", "-1s", "s", "0x1s", "1e3s", "10us"]
)
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(InputError) as caught:
        parse_duration(text)
    assert str(caught.value) == f"{shown(text)} is not a duration; write 60s, 500ms or 2m"


@pytest.mark.parametrize(
    ("text", "number"), [("0", 0), ("10", 10), ("0xF4", 244), ("0Xf4", 244), ("0o17", 15), ("0b101", 5)]
)
def test_a_whole_number_may_be_in_any_base(text, number):
    assert parse_whole(text) == number


@pytest.mark.parametrize(
    "text", ["", "1.0", "-1", "1_000", "0xg", "0b2", "0o8", "1:30", "two", "²", "9" * 41]
)
def test_what_is_no_whole_number_is_refused(text):
    with pytest.raises(InputError, match=r"is not a whole number; write digits, such as 244 or 0xf4$"):
        parse_whole(text)


@pytest.mark.parametrize(("text", "remedy"), [("010", "write 10, or 0o10"), ("008", "write 8")])
def test_a_leading_zero_is_refused_since_it_may_mean_octal(text, remedy):
    with pytest.raises(InputError) as caught:
        parse_whole(text)
    assert str(caught.value) == f"'{text}' may be octal or decimal; {remedy}"


def test_a_long_or_unprintable_text_is_shown_short_and_harmless():
    assert shown("a\x1b[2J\n") == r"'a\x1b[2J\n'"
    assert shown("x" * 1000) == f"'{'x' * 39}…'"
