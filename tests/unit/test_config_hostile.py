"""Files made to hurt: they are answered with a sentence, soon, and in bounded memory."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from pykvm.config import load
from pykvm.errors import InputError

GOOD = """\
# everything that works, so that a mutation meets every kind of value
name: web
cpus: {count: 1, model: x86-64-v2, features: {avx2: off}}
memory: &m {size: 512M, hugepages: false}
kernel:
  image: ../vmlinuz
  initrd: [a.gz, "b.gz"]
  cmdline: >
    console=ttyS0 root=/dev/vda1
    quiet
  format: auto
  entry: auto
pit: user
devices:
  - serial: {port: com1, to: terminal}
  - serial:
      port: com2
      to: unix:é.sock
  - debug-exit: {port: 0xf4}
on: {reset: exit, panic: 'exit'}
expect: {output: "login:\\t", within: 1.5m}
"""
TOKENS = [
    *"\t\n\r :-[]{},#&*!|>'\"%@`?\\\0\x1b\x85\xa0\ufeff\u2028é😀",
    "\n---\n", "\n...\n", "%YAML 9.9\n", "<<: *m", "*m", "&x ", "!!int ", "devices", "- ", "? ",
    "null", "~", "on", "1:30", "0123", "0x", "999999999999T", '"\\ud800"', '"\\UFFFFFFFF"',
    "\n" * 40, "[" * 60, "- " * 60, "9" * 5000,
]  # fmt: skip


def mutate(text: str, rng: random.Random) -> bytes:
    for _ in range(rng.randint(1, 4)):
        at, end = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
        end = min(end, at + rng.choice((1, 3, 30)))
        piece = rng.choice(("delete", "token", "copy", "line"))
        if piece == "delete":
            text = text[:at] + text[end:]
        elif piece == "token":
            text = text[:at] + rng.choice(TOKENS) + text[rng.choice((at, end)) :]
        elif piece == "copy":
            text = text[:end] + text[at:end] + text[end:]
        else:
            lines = text.splitlines(keepends=True)
            rng.shuffle(lines)
            text = "".join(lines)
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    if data and rng.random() < 0.2:
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


@pytest.mark.parametrize("libyaml", [True, False], ids=["libyaml", "python"])
def test_no_mutation_of_a_good_file_raises_anything_but_an_input_error(tmp_path, monkeypatch, libyaml):
    monkeypatch.setattr("yaml.__with_libyaml__", libyaml)
    path = tmp_path / "machine.yaml"
    path.write_text(GOOD, encoding="utf-8")
    load(str(path))
    rng = random.Random(8)
    outcomes = {"taken": 0, "refused": 0}
    for number in range(500):
        data = mutate(GOOD, rng)
        path.write_bytes(data)
        try:
            load(str(path))
            outcomes["taken"] += 1
        except InputError as error:
            message = str(error)
            assert message.startswith(str(path)) and error.remedy, message
            assert message.isprintable() and len(message) < 1000, message
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError(f"mutation {number} of seed 8: {data!r}") from error
    assert min(outcomes.values()) > 20, outcomes  # else the mutations are too weak, or too strong, to tell


def refused(tmp_path, data: bytes) -> str:
    path = tmp_path / "machine.yaml"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        load(str(path))
    return str(caught.value).removeprefix(str(path))


def test_aliases_that_stand_for_a_billion_values_are_refused(tmp_path):
    lines = ["a: &a [x,x,x,x,x,x,x,x,x,x]"]
    lines += [
        f"{name}: &{name} [{','.join(['*' + below] * 10)}]" for below, name in zip("abcdefgh", "bcdefghi")
    ]
    assert refused(tmp_path, "\n".join(lines).encode()) == (
        ":4:29: d.7: is past the 10000th value; write a shorter file"
    )


def test_many_values_are_refused(tmp_path):
    message = refused(tmp_path, b"a: [" + b"x," * 100_000 + b"]")
    assert message.endswith(": is past the 10000th value; write a shorter file")


def test_a_large_file_is_refused_without_reading_it_all(tmp_path):
    path = tmp_path / "machine.yaml"
    path.write_bytes(b"kernel: k\n" + b"# 10 MB of comment\n" * 550_000)
    tracemalloc.start()
    with pytest.raises(InputError) as caught:
        load(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(caught.value) == f"{path}: is larger than 1 MiB; give a machine file, a few lines of YAML"
    assert peak < 4 << 20


def test_a_file_without_end_is_refused():
    with pytest.raises(InputError, match=r"^/dev/zero: is larger than 1 MiB; "):
        load("/dev/zero")


@pytest.mark.parametrize("libyaml", [True, False], ids=["libyaml", "python"])
@pytest.mark.parametrize("text", ["- " * 100_000, "[" * 100_000, "{a: " * 100_000, "? " * 100_000])
def test_deep_nesting_is_refused(tmp_path, monkeypatch, text, libyaml):
    monkeypatch.setattr("yaml.__with_libyaml__", libyaml)
    message = refused(tmp_path, text.encode())
    assert "is nested more than 32 deep" in message or "exceeded maximum nesting depth" in message


def test_keys_of_a_megabyte_are_shown_short(tmp_path):
    message = refused(tmp_path, b"kernel: k\n? " + b"m" * 1_000_000 + b"\n: 1")
    assert message.startswith(f":2:3: '{'m' * 39}…': not a key that pykvm knows; write name, cpus, ")
    assert len(message) < 300
