"""Translations kept on disk: a second boot takes them, and the guest computes the same."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from struct import pack
from types import SimpleNamespace
from typing import Any

import pytest
from guest import Guest
from kept import AT_START, CROSSING, RECORD, SLOT, Booted, boot, cache_in, file_of, jump, program, records
from places import CODE, END, PAGE

from pykvm.cache import Cache
from pykvm.progress import Progress
from pykvm.translate import store
from pykvm.translate.blocks import Blocks
from pykvm.translate.saved import HEADER, WORTH, Damaged, Saved

LONG = 60  # seconds until a test gives up

# A second boot


def test_a_second_boot_translates_nothing_and_computes_the_same(first):
    assert boot(program()) == Booted(first.outcome, 0)


def test_what_is_new_joins_what_was_kept(first):
    """The same start, other code behind it: both are there afterwards."""
    other = program()
    more = {CODE + 3 * PAGE + SLOT * number: b"\x83\xc0\x01" * 15 + b"\xc3" for number in range(50)}
    calls = bytearray(other[CROSSING][:-1])
    begins = CODE + 3 * PAGE + SLOT * 50  # the calls don't fit behind the crossing
    calls += jump(CROSSING + len(calls), begins)
    body = bytearray()
    for at in more:
        body += b"\xe8" + pack("<i", at - (begins + len(body)) - 5)
    body += jump(begins + len(body), CROSSING + len(calls))
    grown = {**other, **more, begins: bytes(body), CROSSING: bytes(calls) + bytes((END,))}
    # A guest's file is found by its first page, in which the calls must not lie.
    grown[CODE] = other[CODE]
    second = boot(grown)
    assert WORTH <= second.translated < first.translated + WORTH * 2
    assert boot(grown) == Booted(second.outcome, 0)


@pytest.mark.parametrize("page", [1, 2])
def test_where_the_source_differs_in_a_byte_that_block_alone_is_new(first, tmp_path, page):
    changed = program()
    at = next(place for place in sorted(changed) if place >= CODE + page * PAGE + SLOT)
    body = bytearray(changed[at])
    body[:5] = b"\x05" + pack("<I", 12345)[:4]  # add eax, 12345
    body[5 : len(body) - 5] = b"\x90" * (len(body) - 10)
    changed[at] = bytes(body)
    block = 1 + len(body) - 10 + 1
    second = boot(changed)
    assert 0 < second.translated <= block
    assert second.outcome != first.outcome
    with cache_in(tmp_path / "other"):
        assert boot(changed).outcome == second.outcome


def test_a_page_that_differs_in_all_but_one_block_gives_that_one(first):
    """A kernel patches itself: of its first pages little is as it was when they are run again."""
    changed = program()
    places = [place for place in sorted(changed) if CODE + PAGE <= place < CODE + 2 * PAGE - SLOT]
    last = places.pop()
    size = 0
    for at in places:
        body = bytearray(changed[at])
        body[:5] = b"\x05" + pack("<I", at)[:4]  # add eax, ...
        body[5 : len(body) - 5] = b"\x90" * (len(body) - 10)
        changed[at] = bytes(body)
        size += 1 + len(body) - 10 + 1
    booted = boot(changed)
    assert len(changed[last]) > 10
    assert booted.translated == size


def test_the_second_half_of_an_instruction_over_two_pages_differs(first, tmp_path):
    changed = program()
    end = bytearray(changed[CROSSING])
    end[4] ^= 0x7F  # of mov edx's number, in the second page
    changed[CROSSING] = bytes(end)
    second = boot(changed)
    assert 0 < second.translated < 10
    assert second.outcome != first.outcome
    with cache_in(tmp_path / "other"):
        assert boot(changed).outcome == second.outcome


def test_a_page_that_is_by_turns_one_and_another_is_each_time_the_right_one(first):
    """A kernel that leaves LOCK out where it finds one CPU: it is booted with one, with several, with one.

    What is kept of one leads to what is kept of the other; never may each lead to the other.
    """
    other = program()
    for at in other.keys() - {CODE, CROSSING}:
        if at >= CODE + PAGE:
            room = len(other[at]) - 10
            other[at] = b"\x05" + pack("<I", at) + b"\x90" * room + other[at][-5:]
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(LONG)  # who is led in circles comes to no check
            second = boot(other)
            status = 2
            assert second.translated >= WORTH
            for _ in range(2):
                assert boot(program()).outcome == first.outcome
                assert boot(other).outcome == second.outcome
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# Several at once, and many


def test_two_processes_that_end_at_once_share_the_file(cache):
    """Both run the guest to its end before either writes; the second then takes what the first has made."""
    children, ready = [], []
    go_read, go_write = os.pipe()
    for _ in range(2):
        there_read, there_write = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.close(go_write)

                def wait(guest: Guest) -> None:
                    os.write(there_write, b"x")  # noqa: B023
                    os.read(go_read, 1)

                status = 0 if boot(program(), before_end=wait).translated >= WORTH else 2
            finally:
                os._exit(status)
        os.close(there_write)
        children.append(child)
        ready.append(there_read)
    for there in ready:
        assert os.read(there, 1) == b"x"
        os.close(there)
    os.close(go_write)
    os.close(go_read)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    assert len(records(cache)) == 1
    assert len(os.listdir(cache / "data")) == 1
    assert boot(program()).translated == 0


def test_who_waited_for_another_to_write_takes_what_that_one_has_written(cache, monkeypatch):
    """One process is held while it writes, until the other waits for it; only the one writes."""
    writes_read, writes_write = os.pipe()
    go_read, go_write = os.pipe()
    make = Cache._make

    def held(self: Cache, *given: Any) -> Any:
        os.write(writes_write, b"w")
        os.read(go_read, 1)
        return make(self, *given)

    monkeypatch.setattr(Cache, "_make", held)
    monkeypatch.setattr(Progress, "note", lambda self, text: os.write(writes_write, b"n"))
    children = []
    said = b""
    for _ in range(2):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.close(go_write)
                boot(program())
                status = 0
            finally:
                os._exit(status)
        children.append(child)
        assert select.select([writes_read], [], [], LONG)[0], "a process ended before it wrote"
        said += os.read(writes_read, 1)  # it is where it writes, or waits
    os.close(go_write)
    os.close(writes_write)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    said += os.read(writes_read, 10)
    assert said == b"wn"
    os.close(go_read)
    os.close(writes_read)
    assert boot(program()).translated == 0


def test_a_file_that_goes_while_it_is_in_use(first, cache):
    def remove(guest: Guest) -> None:
        file_of(cache).unlink()

    assert boot(program(), before_end=remove) == Booted(first.outcome, 0)
    assert boot(program()) == first


def test_only_the_newest_stay(cache, monkeypatch):
    monkeypatch.setattr(store, "GUESTS", 3)
    kept: list[str] = []
    for seed in range(5):
        boot(program(seed))
        (new,) = set(records(cache)) - set(kept)
        os.utime(cache / RECORD / new, (seed, seed))
        kept.append(new)
    assert len(os.listdir(cache / "data")) == 3
    assert set(records(cache)) == set(kept[2:])
    Cache(str(cache)).put("another", lambda file: file.write(b"of no guest") and None, 11)
    boot(program(5))
    assert len(records(cache)) == 3
    assert (cache / RECORD / "another").exists()


# Code that changes


def patching(number: int) -> dict[int, bytes]:
    """The program, and behind it a piece that runs, is changed by the guest to ``number``, and runs again."""
    code = program()
    at = CODE + 3 * PAGE
    target = CODE + 3 * PAGE + 0x200
    head = code[CROSSING][:-1]
    body = b"\xe8" + pack("<i", target - at - 5) + b"\x89\xc6"  # call; mov esi, eax
    body += b"\xc7\x04\x25" + pack("<II", target + 1, number)
    body += b"\xe8" + pack("<i", target - (at + len(body)) - 5)
    body += jump(at + len(body), CROSSING + len(head) + 5)
    code[at] = body
    code[target] = b"\xb8" + pack("<I", 77) + b"\xc3"
    code[CROSSING] = head + jump(CROSSING + len(head), at) + bytes((END,))
    return code


def test_code_that_the_guest_changes_is_translated_as_it_is_each_time(cache):
    for number in (5, 5, 6, 77):
        booted = boot(patching(number))
        assert booted.outcome.registers[6] == 77
        assert booted.outcome.registers[0] == number
    assert booted.translated < 20


def test_code_that_changes_behind_a_guest_that_has_taken_it(first):
    """A kept block that has run ends when its source is written to, as any other."""
    guest = Guest()
    guest.cpu.keeps = True
    try:
        for at, body in program().items():
            guest.put(at, body)
        for number in (0, 0x1111):
            guest.regs, guest.flags = AT_START, 2
            if number:
                guest.put(CROSSING + 1, pack("<I", number))
            guest.run(CODE)
            assert guest.regs[2] == (number or 0x01020304)
        assert 0 < guest.cpu.core.blocks.translated < 10
    finally:
        guest.close()


# Room


@pytest.fixture
def small_code_area(monkeypatch) -> Callable[[int], None]:
    def shrink(size: int) -> None:
        # The default of the size, wherever Blocks is called.
        monkeypatch.setattr(Blocks.__init__, "__defaults__", (size,))

    return shrink


def test_a_full_code_area_is_emptied_and_the_guest_goes_on(cache, tmp_path, small_code_area):
    expected = boot(program())
    with cache_in(tmp_path / "other"):
        small_code_area(0x1_8000)
        guests: list[Guest] = []
        booted = boot(program(), before_end=guests.append)
        assert guests[0].cpu.core.blocks.generation >= 1
        assert booted.outcome == expected.outcome
        assert booted.translated > expected.translated


def test_a_file_that_would_leave_no_room_is_not_taken(first, cache, small_code_area):
    data = file_of(cache).read_bytes()
    code = HEADER.unpack_from(data)[7]
    start = 64  # where blocks begin
    area = SimpleNamespace(first=start, mapping=SimpleNamespace(size=2 * (start + code) - 2))
    with pytest.raises(Damaged, match="too large"):
        Saved(data, data[16:48]).place(area)
    small_code_area(0x4_0000)
    assert boot(program()).outcome == first.outcome
