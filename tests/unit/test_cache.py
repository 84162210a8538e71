"""The cache folder: what is kept, what a crash, another process or a full disk may do to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pykvm.cache import Cache, key_of
from pykvm.cache.lock import FileLock
from pykvm.cache.store import default_folder
from pykvm.errors import HostError

KEY = key_of("a test")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(str(tmp_path / "cache"))


def text(path: str | None) -> str:
    assert path is not None
    return Path(path).read_text()


def put(cache: Cache, content: str, key: str = KEY) -> str:
    return cache.put(key, lambda file: file.write(content.encode()) and None, len(content))


def test_what_was_put_is_found_again(cache: Cache) -> None:
    assert cache.get(KEY) is None
    path = put(cache, "kernel")
    assert cache.get(KEY) == path
    assert text(path) == "kernel"


def test_a_second_put_keeps_what_is_there(cache: Cache) -> None:
    put(cache, "first")
    assert text(put(cache, "second")) == "first"


def test_looking_creates_nothing(cache: Cache) -> None:
    assert cache.get(KEY) is None
    assert not cache.remove(KEY)
    assert not os.path.exists(cache.folder)


def test_an_entry_can_have_several_parts(cache: Cache) -> None:
    def fill(folder: str) -> dict[str, str]:
        for name in ("bzImage", "initramfs.cpio"):
            Path(folder, name).write_text(f"this is {name}")
        Path(folder, "scratch").write_text("not a part")
        return {name: os.path.join(folder, name) for name in ("bzImage", "initramfs.cpio")}

    made = cache.make(KEY, fill, 100)
    assert {name: text(path) for name, path in made.items()} == {
        "bzImage": "this is bzImage",
        "initramfs.cpio": "this is initramfs.cpio",
    }
    assert cache.parts(KEY) == made
    assert os.listdir(os.path.join(cache.folder, "work")) == []


def test_a_part_that_two_entries_share_is_kept_until_the_last_goes(cache: Cache) -> None:
    other = key_of("other")
    assert put(cache, "same") == put(cache, "same", other)
    assert cache.remove(KEY)
    assert cache.get(KEY) is None
    assert text(cache.get(other)) == "same"
    assert cache.remove(other)
    assert os.listdir(os.path.join(cache.folder, "data")) == []


def test_making_again_replaces_and_drops_the_old(cache: Cache) -> None:
    old = put(cache, "old")

    def fill(folder: str) -> dict[str, str]:
        Path(folder, "new").write_text("new")
        return {"whole": os.path.join(folder, "new")}

    cache.make(KEY, fill, 3, again=True)
    assert text(cache.get(KEY)) == "new"
    assert not os.path.exists(old)


@pytest.mark.parametrize("damage", ["shorter", "longer", "other content", "gone", "record"])
def test_a_damaged_entry_is_missing_and_can_be_made_again(cache: Cache, damage: str) -> None:
    path = Path(put(cache, "content"))
    match damage:
        case "shorter":
            path.write_text("cont")
        case "longer":
            path.write_text("contents")
        case "other content":
            path.write_text("CONTENT")
        case "gone":
            path.unlink()
        case "record":
            Path(cache.folder, "entries", KEY).write_text("0 ../../etc/passwd whole\n")
    assert cache.get(KEY) is None
    assert text(put(cache, "content")) == "content"
    assert text(cache.get(KEY)) == "content"


def test_a_thorough_look_finds_damage_that_left_size_and_time_alone(cache: Cache) -> None:
    path = put(cache, "content")
    Path(path).write_text("CONTENT")
    os.utime(path, (0, 0))
    assert cache.parts(KEY) is not None
    assert cache.parts(KEY, thorough=True) is None


def test_a_copied_cache_is_as_good(cache: Cache, tmp_path: Path) -> None:
    put(cache, "content")
    copied = tmp_path / "copied"
    subprocess.run(["cp", "-r", cache.folder, copied], check=True)  # without -p: times are new
    assert text(Cache(str(copied)).get(KEY)) == "content"


def test_a_writer_that_fails_leaves_nothing(cache: Cache) -> None:
    def write(file: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.put(KEY, write, 10)
    assert cache.get(KEY) is None
    assert os.listdir(os.path.join(cache.folder, "work")) == []
    assert text(put(cache, "now")) == "now"


HOLD = """
    import os, sys
    from pykvm.cache import Cache
    def write(file):
        file.write(b"half of ")
        file.flush()
        print("writing", flush=True)
        sys.stdin.readline()
        file.write(b"a kernel")
    Cache(sys.argv[1]).put(sys.argv[2], write, 20)
"""


def holder(cache: Cache, key: str = KEY) -> subprocess.Popen[bytes]:
    """A process that has begun to make the entry, and goes on when it gets a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), cache.folder, key],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    return process


def test_a_killed_writer_leaves_nothing_that_stays(cache: Cache) -> None:
    killed = holder(cache)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert cache.get(KEY) is None
    assert len(os.listdir(os.path.join(cache.folder, "work"))) == 1
    put(cache, "another entry", key_of("another"))
    assert os.listdir(os.path.join(cache.folder, "work")) == []


def test_what_was_left_by_a_process_of_the_same_number_goes_too(cache: Cache) -> None:
    """As in containers, where the first process is always 1."""
    put(cache, "kernel")
    os.mkdir(os.path.join(cache.folder, "work", f"{key_of('another')}.{os.getpid()}"))
    put(cache, "third", key_of("third"))
    assert os.listdir(os.path.join(cache.folder, "work")) == []


def test_locks_are_kept_no_longer_than_their_entries(cache: Cache) -> None:
    locks = os.path.join(cache.folder, "locks")
    killed = holder(cache, key_of("killed"))
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    put(cache, "kernel")
    cache.remove(KEY)
    put(cache, "another entry", key_of("another"))
    put(cache, "third", key_of("third"))
    assert sorted(os.listdir(locks)) == sorted(["commit", key_of("another"), key_of("third")])


WAIT = """
    import sys
    from pykvm.cache.lock import FileLock
    lock = FileLock(sys.argv[1], lambda pid: print("waits", flush=True))
    lock.acquire()
    print("has it", flush=True)
    sys.stdin.readline()
"""


def test_a_lock_whose_file_is_removed_while_another_waits_is_his_and_nobody_elses(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    mine = FileLock(path)
    mine.acquire()
    command = [sys.executable, "-c", textwrap.dedent(WAIT), path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"waits\n"
        mine.release(remove=True)
        assert other.stdout.readline() == b"has it\n"
        assert not mine.acquire(wait=False)
        other.communicate(b"end\n")
    assert mine.acquire(wait=False)
    mine.release()


def test_what_a_living_writer_has_begun_is_left_alone(cache: Cache) -> None:
    with holder(cache) as writer:
        put(cache, "another entry", key_of("another"))
        assert not FileLock(os.path.join(cache.folder, "locks", KEY)).acquire(wait=False)
        writer.communicate(b"go on\n")
    assert text(cache.get(KEY)) == "half of a kernel"


def test_an_entry_made_inside_the_making_of_another(cache: Cache) -> None:
    def fill(folder: str) -> dict[str, str]:
        Path(folder, "mine").write_text("outer")
        put(cache, "inner", key_of("inner"))
        return {"whole": os.path.join(folder, "mine")}

    cache.make(KEY, fill, 5)
    assert KEY in os.listdir(os.path.join(cache.folder, "locks"))
    assert text(cache.get(KEY)) == "outer"
    assert text(cache.get(key_of("inner"))) == "inner"


def test_the_second_of_two_writers_waits_and_takes_the_first_ones_work(cache: Cache) -> None:
    main, terminal = os.openpty()
    with holder(cache) as first:
        code = """
            import sys
            from pykvm.cache import Cache
            def fill(folder): raise SystemExit("made it itself")
            print(open(Cache(sys.argv[1]).make(sys.argv[2], fill, 9, what="linux")["whole"]).read())
        """
        second = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), cache.folder, KEY],
            stdout=subprocess.PIPE,
            stderr=terminal,
        )
        os.close(terminal)
        said = os.read(main, 200).decode()
        assert f"process {first.pid} is making linux just now; waiting" in said
        first.communicate(b"go on\n")
        assert second.communicate()[0] == b"half of a kernel\n"
        assert second.returncode == 0
    os.close(main)


def test_too_little_room_is_told_before_anything_is_written(cache: Cache) -> None:
    with pytest.raises(HostError, match="needed on this disk") as error:
        cache.put(KEY, lambda file: pytest.fail("it began to write"), 1 << 60)
    assert error.value.where == cache.folder
    assert "PYKVM_CACHE" in error.value.remedy


def test_a_disk_that_fills_up_is_a_host_error_and_leaves_nothing(cache: Cache) -> None:
    def write(file: object) -> None:
        with open("/dev/full", "wb") as full:
            full.write(b"x" * 100_000)

    with pytest.raises(HostError, match="no space left on device; make room"):
        cache.put(KEY, write, 10)
    assert os.listdir(os.path.join(cache.folder, "work")) == []


def test_a_folder_that_cannot_be_made_is_a_host_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="PYKVM_CACHE") as error:
        put(Cache(str(tmp_path / "file" / "cache")), "x")
    assert error.value.status == 69


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"PYKVM_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/pykvm"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/c"}, "/c/.cache/pykvm"),
        ({"HOME": "/c"}, "/c/.cache/pykvm"),
    ],
)
def test_where_the_cache_is(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], folder: str
) -> None:
    for name in ("PYKVM_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert default_folder() == folder


def test_a_key_tells_its_parts_apart() -> None:
    assert key_of("ab", "c") != key_of("a", "bc") != key_of("abc")
    assert key_of("abc") == key_of(b"abc")


def test_a_look_up_loads_no_heavy_module(cache: Cache) -> None:
    put(cache, "content")
    code = f"""
        import sys
        before = set(sys.modules)
        from pykvm.cache import Cache, key_of
        assert Cache({cache.folder!r}).get(key_of("a test"))
        print(*sorted(name.partition(".")[0] for name in set(sys.modules) - before))
    """
    said = subprocess.run(
        [sys.executable, "-I", "-c", textwrap.dedent(code)], capture_output=True, check=True, text=True
    ).stdout
    assert set(said.split()) <= {"pykvm", "_sha256", "_sha2", "__future__", "errno"}
