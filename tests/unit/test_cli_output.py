"""Standard output that takes nothing, and a host that refuses what everyone may need at any time."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from pykvm.cli import main as command
from pykvm.errors import refusal
from pykvm.machine import verdict

COMMAND = [sys.executable, "-m", "pykvm"]
LONG = 60
MACHINE = "kernel: {image: kernel.bin, format: flat, entry: real}\n"
PRINTING = ["--help", "--version", "schema", "info", "guests", "check machine.yaml", "boot --help"]


def pykvm(words, folder, **options):
    (folder / "kernel.bin").write_bytes(b"\xf4")
    (folder / "machine.yaml").write_text(MACHINE)
    return subprocess.run(
        [*COMMAND, *words.split()],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=LONG,
        **options,
    )


@pytest.mark.parametrize("buffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("words", PRINTING)
def test_a_full_standard_output_is_69(tmp_path, monkeypatch, words, buffered):
    monkeypatch.setenv("PYTHONUNBUFFERED", buffered)
    with open("/dev/full", "w") as full:
        done = pykvm(words, tmp_path, stdout=full)
    assert done.returncode == 69
    assert done.stderr == (
        "pykvm: standard output: cannot be written to: No space left on device; "
        "see that there is room and that it can be written\n"
    )


@pytest.mark.parametrize("words", PRINTING)
def test_without_a_standard_output_nothing_is_wrong(tmp_path, words):
    done = pykvm(words, tmp_path, stdout=None, preexec_fn=lambda: os.close(1))
    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_standard_error_what_is_wrong_does_not_go_to_standard_output(tmp_path):
    done = pykvm("check gone.yaml", tmp_path, stdout=subprocess.PIPE, preexec_fn=lambda: os.close(2))
    assert (done.returncode, done.stdout) == (65, "")


def test_without_a_standard_error_a_guest_can_be_built(tmp_path, monkeypatch):
    """Whose progress is told there. This one can't, for want of apt, and that is what its status says."""
    (tmp_path / "recipe").mkdir()
    tables = "".join(f"[{name}]\n" for name in ("from_package", "files", "links", "devices"))
    recipe = f"kind = 'initramfs'\npackage = 'thing'\ndirectories = []\n{tables}"
    (tmp_path / "recipe" / "recipe.toml").write_text(recipe)
    monkeypatch.setenv("PYKVM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    words = "boot --kernel kernel.bin --set kernel.format=multiboot --initrd recipe:recipe"
    done = pykvm(words, tmp_path, stdout=subprocess.PIPE, preexec_fn=lambda: [os.close(fd) for fd in (0, 2)])
    assert (done.returncode, done.stdout) == (69, "")


UNSHARED = ["unshare", "--mount", "--map-root-user"]
NAMESPACES = subprocess.run([*UNSHARED, "true"], capture_output=True).returncode == 0
needs_namespaces = pytest.mark.skipif(not NAMESPACES, reason="no mount namespace: `unshare -rm` is refused")


@needs_namespaces
@pytest.mark.parametrize(
    ("without", "words", "sentence"),
    [
        (
            "mount -t tmpfs none /dev",
            "schema <&-",
            "/dev/null: cannot be opened: No such file or directory; mknod ",
        ),
        (
            "mount -t tmpfs none /proc",
            "boot machine.yaml",
            ": there is no such file; mount -t proc proc /proc\n",
        ),
    ],
)
def test_a_host_without_what_everyone_has_is_69_and_one_sentence(tmp_path, without, words, sentence):
    (tmp_path / "kernel.bin").write_bytes(b"\xf4")
    (tmp_path / "machine.yaml").write_text(MACHINE)
    script = f"{without} && exec {' '.join(COMMAND)} {words}"
    done = subprocess.run(
        [*UNSHARED, "sh", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=LONG,
    )
    assert done.returncode == 69
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", PRINTING)
def test_a_reader_who_is_gone_ends_it_as_sigpipe_does(tmp_path, words):
    reader, writer = os.pipe()
    os.close(reader)
    done = pykvm(words, tmp_path, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + 13, "")


@pytest.mark.parametrize("name", ["red\x1b[31m.yaml", "two\nlines.yaml", "right\u202eleft.yaml"])
def test_a_name_that_the_terminal_would_obey_is_shown_by_its_codes(tmp_path, name):
    (tmp_path / name).write_text("memory: x\n")
    done = subprocess.run(
        [*COMMAND, "check", name],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=LONG,
    )
    code = name.encode("unicode_escape").decode()
    assert done.returncode == 65
    assert done.stderr == f"pykvm: {code}:1:9: memory: 'x' is not a size; write 512M or 1G\n"


def test_a_name_that_the_terminal_cannot_show_is_shown_by_its_codes(tmp_path):
    name = os.fsdecode(b"caf\xe9.bin")
    (tmp_path / name).write_bytes(b"\xf4")
    done = subprocess.run(
        [*COMMAND, "check", "--kernel", name, "--set", "kernel.format=flat"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        timeout=LONG,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"caf\\udce9.bin: nothing wrong" in done.stdout


def test_too_few_open_files_are_told_as_the_hosts_limit(tmp_path):
    # Set when Python itself has started, which needs some for its modules.
    limited = (
        "import resource, yaml, pykvm.cli.check, pykvm.config.parse; from pykvm.cli.main import main;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3));"
        "raise SystemExit(main(['check', 'machine.yaml']))"
    )
    (tmp_path / "machine.yaml").write_text("kernel: k\n")
    done = subprocess.run(
        [sys.executable, "-c", limited],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=LONG,
    )
    assert done.returncode == 69, done.stderr
    assert "too many open files; raise the limit that `ulimit -n` shows" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(errno.EMFILE, "Too many open files"),
            "too many open files; raise the limit that `ulimit -n`",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "/a/b"),
            "/a/b: no space left on device; make room",
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "cannot allocate memory; free some"),
        (MemoryError(), "the host has no memory left; free some, or give the machine less"),
        (RuntimeError("can't start new thread"), "no more threads start; raise the limits that `ulimit -u`"),
    ],
)
def test_what_the_host_refuses_is_no_fault_of_ours(monkeypatch, capsys, error, words):
    def fail(_):
        raise error

    monkeypatch.setattr(command, "_run", fail)
    assert command.main([]) == 69
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1
    assert verdict.fault(error).status == 69  # from a thread of the machine
    assert words in verdict.fault(error).sentence


@pytest.mark.parametrize(
    "error", [OSError(errno.EBADF, "Bad file descriptor"), RuntimeError("no"), KeyError()]
)
def test_a_fault_of_ours_is_not_laid_on_the_host(error):
    assert refusal(error) is None
    assert verdict.fault(error).status == 70
