"""The line that tells how far a long piece of work is."""

from __future__ import annotations

import io

import pytest

from pykvm import progress
from pykvm.progress import Progress, size_of


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def shown(self) -> list[str]:
        """The lines as a terminal would show them: what was cleared is gone."""
        return [line.rpartition("\x1b[K")[2] for line in self.getvalue().split("\n")]


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that a test moves."""
    now = [100.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    return now


def test_a_terminal_shows_how_far_it_is_and_how_long_it_will_take(time: list[float]) -> None:
    terminal = Terminal()
    bar = Progress(terminal)
    bar.step("building the kernel")
    time[0] += 30
    bar.at(250, 1000)
    assert terminal.shown() == ["building the kernel  [######------------------]  25%  1:30 left"]


def test_no_time_is_guessed_at_the_start(time: list[float]) -> None:
    terminal = Terminal()
    bar = Progress(terminal)
    bar.step("fetching")
    time[0] += 1
    bar.at(50, 100)
    assert terminal.shown() == ["fetching  [############------------]  50%"]


def test_more_than_was_expected_is_all(time: list[float]) -> None:
    terminal = Terminal()
    bar = Progress(terminal)
    bar.step("building")
    time[0] += 10
    bar.at(1300, 1000)
    assert "100%" in terminal.shown()[0]


def test_the_line_is_not_drawn_for_every_small_thing(time: list[float]) -> None:
    terminal = Terminal()
    bar = Progress(terminal)
    bar.step("building")
    before = len(terminal.getvalue())
    for count in range(1000):
        bar.at(count, 1000)
    assert len(terminal.getvalue()) == before


def test_notes_stay_above_the_line_and_the_end_leaves_nothing_of_it(time: list[float]) -> None:
    terminal = Terminal()
    bar = Progress(terminal)
    bar.step("fetching")
    bar.note("a note")
    bar.step("building")
    assert terminal.shown() == ["a note", "building"]
    bar.end()
    assert terminal.shown() == ["a note", ""]


@pytest.mark.parametrize(("notes", "said"), [(False, ""), (True, "a note\n")])
def test_a_pipe_gets_the_notes_at_most(notes: bool, said: str, time: list[float]) -> None:
    pipe = io.StringIO()
    bar = Progress(pipe, notes_in_pipes=notes)
    bar.step("fetching")
    time[0] += 10
    bar.at(1, 2)
    bar.note("a note")
    bar.end()
    assert pipe.getvalue() == said


def test_sizes_are_as_people_read_them() -> None:
    assert [size_of(size) for size in (0, 928_188, 9_990_000, 153_476_148)] == [
        *("0.0 MB", "0.9 MB", "10.0 MB", "153 MB")
    ]
