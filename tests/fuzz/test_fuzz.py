"""A short round of each target, always the same; and what longer ones by hand (tests/fuzz/run) found."""

from __future__ import annotations

import os
from pathlib import Path

import campaign
import pytest
from guest import Guest
from places import CODE, DATA, END

from pykvm.cache import Cache
from pykvm.host.kept import Kept

CASES = {
    "devices": 500,
    "board": 150,
    "images": 800,
    "payloads": 500,
    "machine-file": 300,
    "cache": 25,
    "kept": 40,
    "saved": 10,
    "decoders": 300,
    "interpreter": 1500,
    "translated": 30,
    "post-mortem": 15,
}
FOUND_CODE = {
    "REX behind REX was INC": "48400fafc1",
    "REX behind REX was INC RSP": "4f4458",
    "66 before them": "664f4458",
    "MOV from CR2 that names memory has a register all the same": "0f2053ffc0",
}


def test_each_target_has_its_round():
    assert set(CASES) == set(campaign.targets())


@pytest.mark.parametrize("name", CASES)
def test_a_round(name):
    count, found = campaign.campaign(name, "1", cases=CASES[name])
    assert [str(finding) for finding in found] == []
    assert count == CASES[name]


@pytest.fixture
def planted(monkeypatch, tmp_path):
    """Makes a target of some lines of Python in the place of all others."""

    def plant(body: str) -> list[campaign.Finding]:
        lines = "".join(f"    {line}\n" for line in body.splitlines())
        source = f"def target(rng):\n{lines}TARGETS = {{'planted': target}}\n"
        (tmp_path / "fuzz_devices.py").write_text(source)
        for other in ("fuzz_images", "fuzz_files", "fuzz_cpus"):
            (tmp_path / f"{other}.py").write_text("TARGETS = {}\n")
        monkeypatch.setattr(campaign, "PATHS", [str(tmp_path)])
        worker = (Path(campaign.__file__).parent / "campaign.py").read_text()
        (tmp_path / "campaign.py").write_text(worker)
        monkeypatch.setattr(campaign, "HERE", tmp_path)
        return campaign.campaign("planted", "1", cases=5)[1]

    return plant


def test_what_a_case_raises_is_told_with_its_number_and_the_others_run(planted):
    found = planted("assert rng.random() < 2\nif rng.random() < 0.5: raise KeyError('planted')")
    assert 0 < len(found) < 5
    assert all("KeyError: 'planted'" in finding.text for finding in found)
    assert str(found[0]).startswith("tests/fuzz/run --only planted --seed 1 --case ")


def test_a_process_that_is_killed_is_a_finding(planted):
    found = planted("import os, signal\nif rng.random() < 0.5: os.kill(os.getpid(), signal.SIGKILL)")
    assert found and all(finding.text.startswith("killed by signal 9") for finding in found)


def test_memory_without_end_is_a_finding(planted):
    found = planted("if rng.random() < 0.5: bytearray(8 << 30)")
    assert found and all("MemoryError" in finding.text for finding in found)


def test_a_case_without_end_is_a_finding(planted, monkeypatch):
    monkeypatch.setattr(campaign, "SECONDS", 2)
    (finding,) = planted("import time\nif rng.random() < 0.2: time.sleep(1000)")[:1]
    assert finding.text == "no end after 2 s"


@pytest.mark.parametrize("code", FOUND_CODE.values(), ids=FOUND_CODE)
def test_code_that_the_translator_took_for_other_code(code):
    seen = []
    for how in ("interpret", "run"):
        guest = Guest(cpl=0)
        guest.put(CODE, bytes.fromhex(code) + bytes((END,)))
        guest.regs = [3, 5, 7, 9, DATA + 0x100, 11, *range(13, 23)]
        guest.flags = 2
        guest.cpu.core.cpu.regs["rip"] = CODE
        if how == "run":
            guest.run(CODE)
        while how == "interpret" and guest.interpret(guest.rip) is None:
            pass
        seen.append((guest.rip, guest.regs))
        guest.close()
    assert seen[0] == seen[1]


def test_a_record_that_names_another_part_is_no_entry(tmp_path):
    """Its reader took the entry for whole, and had no part of the name that it wanted."""
    cache = Cache(str(tmp_path))
    cache.put("key", lambda file: file.write(b"data") and None, 4)
    record = tmp_path / "entries" / "key"
    record.write_text(record.read_text().replace("whole", "whale"))
    assert cache.get("key") is None
    path = cache.put("key", lambda file: file.write(b"data") and None, 4)
    assert Path(path).read_bytes() == b"data"


def test_a_record_of_the_time_before_checks_is_still_good(tmp_path):
    cache = Cache(str(tmp_path))
    path = cache.put("key", lambda file: file.write(b"data") and None, 4)
    record = tmp_path / "entries" / "key"
    record.write_text(record.read_text().partition("\n")[2])
    assert cache.get("key") == path


def test_a_kept_text_that_is_no_text_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PYKVM_CACHE", str(tmp_path))
    kept = Kept("fuzz", "errors.py")
    kept.write("text")
    (path,) = (tmp_path / "data").iterdir()
    path.write_bytes(b"te\xff\xfe")
    os.utime(path, (0, 0))
    assert kept.read() is None
