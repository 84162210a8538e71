"""Machine files, changes on the command line, and what the cache folder holds: all may be anything."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path
from random import Random
from unittest import mock

from kept import RECORD, boot, cache_in, file_of, program, rot
from test_config_hostile import GOOD, TOKENS, mutate

from pykvm.cache import Cache
from pykvm.config import load
from pykvm.errors import HostError, InputError, UsageError
from pykvm.host.kept import Kept

PARTS = (
    *("name", "cpus", "count", "model", "features", "avx2", "memory", "size", "hugepages", "kernel", "image"),
    *("initrd", "cmdline", "format", "entry", "load", "start", "backend", "interrupts", "pit", "devices"),
    *(
        "serial",
        "port",
        "to",
        "debug-exit",
        "on",
        "reset",
        "panic",
        "expect",
        "output",
        "within",
        "0",
        "1",
        "-1",
    ),
    *("99999999", "", "é", "\0", " ", "[", "limits", "firmware", "transport", "disk"),
)


def _fine(error: InputError | UsageError) -> None:
    text = str(error)
    assert error.remedy and text.isprintable() and len(text) < 1000, text


def machine_file(rng: Random) -> None:
    """A machine file that was good once; sometimes with changes by --set."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "machine.yaml")
        path.write_bytes(mutate(GOOD, rng) if rng.random() < 0.8 else GOOD.encode())
        sets = [_change(rng) for _ in range(rng.choice((0, 1, 1, 3)))]
        with mock.patch("yaml.__with_libyaml__", rng.random() < 0.5):
            try:
                config = load(str(path), sets)
                assert config.memory.size > 0 and config.cpus.count > 0
            except (InputError, UsageError) as error:
                _fine(error)


def _change(rng: Random) -> str:
    key = ".".join(rng.choice(PARTS) for _ in range(rng.choice((1, 2, 2, 3, 4))))
    value = rng.choice(
        (
            *(
                "1G",
                "0",
                "-1",
                "on",
                "null",
                "~",
                "[]",
                "{}",
                "[a, b]",
                "{a: b}",
                "1" * 40,
                "0x10000000000000000",
            ),
            *(
                rng.choice(TOKENS),
                rng.choice(TOKENS) + rng.choice(TOKENS),
                "user",
                "none",
                "1.5m",
                "*x",
                "&x 1",
            ),
        )
    )
    return key + rng.choice(("=", "=", "=", "=", "==", "", ":")) + value


def cache(rng: Random) -> None:
    """Files of the cache folder change in every way: what is given is whole, or is made again."""
    with tempfile.TemporaryDirectory() as folder:
        kept = Cache(folder)
        content = {f"key-{n}": rng.randbytes(rng.choice((0, 1, 5000))) for n in range(3)}
        for key, data in content.items():
            kept.put(key, lambda file, data=data: file.write(data) and None, len(data))
        for _ in range(rng.randrange(1, 5)):
            _damage(rng, Path(folder), silent=False)
        for key, data in content.items():
            try:
                path = kept.get(key)
                if path is None:
                    path = kept.put(key, lambda file, data=data: file.write(data) and None, len(data))
                assert Path(path).read_bytes() == data, key
                kept.parts(key, thorough=True)
            except HostError as error:
                assert error.remedy and str(error).isprintable(), str(error)


def _damage(rng: Random, folder: Path, *, silent: bool) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "locks" not in path.parts)
    if not files:
        return
    path = rng.choice(files)
    data = bytearray(path.read_bytes())
    how = rng.random()
    if how < 0.15:
        path.unlink()
        return
    if how < 0.25:
        path.unlink()
        path.mkdir()
        return
    if how < 0.5 or not data:
        data = bytearray(rng.randbytes(rng.choice((0, 1, 70, 3000))))
    elif how < 0.7:
        del data[rng.randrange(len(data)) :]
    else:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    if silent:
        os.utime(path, (0, 0))


def kept_text(rng: Random) -> None:
    """A measurement that was kept, on a disk that forgets: its reader gets a text, or none."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"PYKVM_CACHE": folder}):
        kept = Kept("fuzz", "errors.py")
        kept.write('{"mips": 1.5, "gaps": []}')
        _damage(rng, Path(folder), silent=True)
        text = kept.read()
        assert text is None or isinstance(text, str)


@functools.cache
def _translated() -> tuple[bytes, object]:
    """A file of translations, and how its guest ends."""
    with tempfile.TemporaryDirectory() as folder, cache_in(folder):
        end = boot(program())
        return file_of(Path(folder)).read_bytes(), end.outcome


def saved(rng: Random) -> None:
    """A damaged file of translations changes nothing of what its guest does."""
    good, outcome = _translated()
    with tempfile.TemporaryDirectory() as folder, cache_in(folder):
        boot(program())
        data = bytearray(good)
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.choice((rng.randrange(len(data)), rng.randrange(min(len(data), 200))))
            data[at] = rng.choice((0, 0xFF, rng.randrange(256), data[at] ^ 1))
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        rot(file_of(Path(folder)), bytes(data))
        assert boot(program()).outcome == outcome
        assert os.listdir(Path(folder, RECORD))


TARGETS = {"machine-file": machine_file, "cache": cache, "kept": kept_text, "saved": saved}
