"""What the benchmark makes of its numbers, without a guest."""

from __future__ import annotations

import sys

import pytest
from guest_programs import Failure
from monitors import Measure, measured
from pairs import PIECES
from rows import MOST, RATIO, SPEED, Row, table
from watched import Watched

PYTHON = [sys.executable, "-I", "-S", "-c"]


def row(judged: str, limit: float, ours: list[float], theirs: list[float]) -> Row:
    return Row("x", judged, limit, "s", "something", ours, theirs)


@pytest.mark.parametrize(
    "measured, value, holds",
    [
        (row(RATIO, 2.0, [9.0, 3.0], [2.0, 5.0]), 1.5, True),  # the minima count
        (row(RATIO, 1.4, [3.0], [2.0]), 1.5, False),
        (row(SPEED, 1.5, [2.0], [4.0]), 2.0, True),  # twice TCG's speed
        (row(SPEED, 1.5, [4.0], [4.0]), 1.0, False),
        (row(MOST, 0.1, [0.3, 0.05], []), 0.05, True),
        (row(MOST, 0.1, [0.3], [0.01]), 0.3, False),
        (row(RATIO, 2.0, [], [1.0]), None, False),  # what wasn't measured doesn't hold
        (row(SPEED, 2.0, [1.0], []), None, False),
    ],
)
def test_a_floor_is_judged_by_the_minima(measured, value, holds):
    assert (measured.value, measured.holds) == (value, holds)
    assert ("holds" if holds else "MISSED") in table([measured], "TCG").split("\n")[1]


@pytest.mark.parametrize("peer", ["TCG", "pykvm, interrupts: kernel"])
def test_the_table_tells_both_sides_apart(peer):
    header, _ = table([row(RATIO, 2.0, [9.0, 3.0], [2.0, 5.0])], peer).split("\n")
    columns = [column.strip() for column in header.split("  ") if column]
    assert columns == ["piece", "pykvm", peer, "value", "floor", "what"]


def test_every_floor_has_a_name_of_its_own():
    names = [what for piece in PIECES for what, *_ in piece.limits]
    assert len(set(names)) == len(names)


def test_both_sides_run_in_turn_and_one_that_fails_is_told_of():
    order = []

    def side(name, result):
        def run():
            order.append(name)
            if result is None:
                raise Failure("no")
            return result

        return run

    good, bad = row(RATIO, 2.0, [], []), row(RATIO, 2.0, [], [])
    measures = [
        Measure("good", (good,), side("ours", {"x": 3.0}), side("theirs", {"x": 2.0}), "peer"),
        Measure("bad", (bad,), side("broken", None), side("theirs", {"x": 2.0, "y": 1.0}), "peer"),
    ]
    assert measured(measures, 2, lambda text: None) == ["bad, pykvm: no"] * 2
    assert order == ["ours", "theirs", "broken", "theirs"] * 2
    assert (good.value, bad.value) == (1.5, None)


def test_a_process_is_watched_until_it_says_something(tmp_path):
    code = "import os; print(os.environ['PYKVM_CACHE'], flush=True); print('ready', flush=True); input()"
    with Watched([*PYTHON, code], str(tmp_path)) as process:
        assert process.until(b"ready", 60) > 0
        assert str(tmp_path).encode() in process.seen


@pytest.mark.parametrize(
    "code, text",
    [("print('no')", "ended without"), ("input()", "not done")],
)
def test_a_process_that_never_says_it_is_a_failure(code, text, tmp_path):
    with Watched([*PYTHON, code], str(tmp_path)) as process, pytest.raises(Failure, match=text):
        process.until(b"ready", 2 if text == "not done" else 60)


def test_a_process_that_ends_badly_is_a_failure_with_its_status(tmp_path):
    with (
        Watched([*PYTHON, "raise SystemExit(3)"], str(tmp_path)) as process,
        pytest.raises(Failure, match="status 3"),
    ):
        process.until_end(60)


def test_resident_memory_is_counted_without_the_guests(tmp_path):
    guest, more = 64 << 20, 24 << 20
    code = (
        "import mmap\n"
        f"ram = mmap.mmap(-1, {guest}); ram.write(b'x' * {guest // 2})\n"
        f"own = mmap.mmap(-1, {more}, flags=mmap.MAP_PRIVATE); own.write(b'y' * {more})\n"
        "print('ready', flush=True); input()"
    )
    with Watched([*PYTHON, code], str(tmp_path)) as process:
        process.until(b"ready", 60)
        assert more <= process.beyond(guest) < more + guest // 2  # its own, and what Python takes
        with pytest.raises(Failure, match="0 mappings"):
            process.beyond(1 << 40)
