"""The command line in this process, without KVM: what the verbs print, and what users read of mistakes."""

from __future__ import annotations

import errno
import json
import os
import struct

import boot_doubles
import pytest
from boot_doubles import bzimage, vmlinux

from pykvm import __version__
from pykvm.cli.main import VERBS, main
from pykvm.config.ports import SERIAL_PORTS
from pykvm.machine.interrupts import COM_PORTS

LINUX = bzimage(boot_doubles.gzip.compress(vmlinux()))
REPORT_KEYS = {"outcome", "status", "debug_exit", "seconds", "exits", "rss_bytes", "host", "console_tail"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working folder with a few kernels, and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "linux").write_bytes(LINUX)
    (tmp_path / "own").write_bytes(boot_doubles.elf([(1 << 20, b"\xf4", 1, 1 << 20)], 1 << 20))
    (tmp_path / "code.bin").write_bytes(b"\xf4")
    return tmp_path


@pytest.fixture
def pykvm(capsys):
    """Runs a command; its status, and what it printed on standard output and error."""

    def run(*words):
        status = main(list(words))
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def refused(pykvm):
    """Runs a command that fails; its status and its one sentence."""

    def run(*words):
        status, out, error = pykvm(*words)
        assert out == ""
        assert error.startswith("pykvm: ")
        assert error.count("\n") == 1
        return status, error.removeprefix("pykvm: ").rstrip()

    return run


def cmdline(pykvm, *words):
    """The command line that the kernel would get."""
    status, out, error = pykvm("check", *words, "--json")
    assert (status, error) == (0, "")
    return json.loads(out)["kernel"]["cmdline"]


# Verbs


def test_help_names_every_verb_and_each_tells_its_options(pykvm):
    status, out, _ = pykvm("--help")
    assert status == 0
    assert all(f"  {verb} " in out for verb in VERBS)
    for verb in VERBS:
        with pytest.raises(SystemExit) as end:
            main([verb, "--help"])
        assert end.value.code == 0


def test_no_words_are_a_wrong_command_line_with_help(pykvm):
    status, out, _ = pykvm()
    assert status == 64
    assert out.startswith("usage: pykvm VERB")


def test_the_version_is_told(pykvm):
    assert pykvm("--version") == (0, f"pykvm {__version__}\n", "")


def test_the_schema_is_json_and_knows_the_keys(pykvm):
    status, out, _ = pykvm("schema")
    assert status == 0
    assert {"kernel", "memory", "devices", "expect"} <= json.loads(out)["properties"].keys()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["chek"], "'chek' is no verb; did you mean check?"),
        (["quux"], f"'quux' is no verb; write one of {', '.join(VERBS)}"),
        (["schema", "x"], "schema: unrecognized arguments: x; see pykvm schema --help"),
        (["boot", "hello", "--nosuch"], "boot: unrecognized arguments: --nosuch; see pykvm boot --help"),
        (["boot", "hello", "--timeout", ""], "--timeout: '' is not a duration; write 60s, 500ms or 2m"),
        (["boot", "hello", "--timeout", "1h"], "--timeout: '1h' is not a duration; write 60s, 500ms or 2m"),
        (
            ["check", "hello", "--set", "memory=512MB"],
            "--set memory=512MB: memory: '512MB' is not a size; write 512M or 1G",
        ),
        (
            ["boot", "hello", "--set", "devices.1.debug-exit.port=0x60"],
            "--set devices.1.debug-exit.port=0x60: devices.1.debug-exit.port: "
            "0x60 is taken by the keyboard controller; write another port",
        ),
        (
            ["check"],
            "which machine? There is no machine.yaml here; "
            "name a machine file, a shipped guest (`pykvm guests`) or a kernel image",
        ),
    ],
)
def test_a_wrong_command_line_is_64_and_one_sentence(refused, words, sentence):
    assert refused(*words) == (64, sentence)


# MACHINE


def test_machine_yaml_in_the_working_folder_is_taken(folder, pykvm):
    (folder / "machine.yaml").write_text("name: mine\nkernel: linux\n")
    assert json.loads(pykvm("check", "--json")[1])["name"] == "mine"


def test_a_shipped_guest_wins_over_a_file_of_its_name_and_a_path_names_the_file(folder, pykvm):
    (folder / "hello").mkdir()
    (folder / "hello" / "machine.yaml").write_text("memory: 7M\nkernel: ../linux\n")
    assert json.loads(pykvm("check", "hello", "--json")[1])["memory"] == 1 << 20
    assert json.loads(pykvm("check", "./hello", "--json")[1])["memory"] == 7 << 20


@pytest.mark.parametrize("words", [["./linux"], ["--kernel", "linux"]])
def test_a_kernel_alone_is_a_machine_with_all_defaults(pykvm, words):
    told = json.loads(pykvm("check", *words, "--json")[1])
    assert told["kernel"]["format"] == "bzimage"
    assert told["devices"] == [{"serial": {"port": "com1", "to": "terminal"}}, {"debug-exit": {"port": 0xF4}}]


def test_a_debian_package_alone_is_a_kernel_too(refused):
    alone, named = refused("check", "debian:nothing"), refused("check", "--kernel", "debian:nothing")
    assert alone == named
    assert alone[1].startswith("debian:nothing: is no name of a kernel package; write debian:linux-image-")


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("nosuch", None, "cannot be read: No such file or directory; check the path and its permissions"),
        ("empty", b"", "is empty; name a kernel"),
        ("text", b"hello\n", "looks like a text file; "),
        ("packed", b"\x1f\x8b" + bytes(1000), "looks like gzip data; "),
        ("cut", LINUX[:-100], "is truncated: its header speaks of "),
        ("cut-elf", vmlinux()[:-100], ""),
        (
            "program",
            vmlinux()[:16] + struct.pack("<H", 1) + vmlinux()[18:],
            "an object file that isn't linked",
        ),
    ],
)
def test_a_wrong_kernel_is_65_and_the_sentence_begins_with_its_path(folder, refused, name, data, sentence):
    if data is not None:
        (folder / name).write_bytes(data)
    status, error = refused("check", "--kernel", name)
    assert status == 65
    assert error.startswith(f"{folder}/{name}: ")
    assert sentence in error


def test_a_folder_and_a_pipe_are_no_kernels(folder, refused):
    (folder / "sub").mkdir()
    os.mkfifo(folder / "fifo")
    for name in ("sub", "fifo"):
        status, error = refused("check", "--kernel", name)
        assert (status, "is not a regular file" in error) == (65, True)


def test_too_little_memory_says_how_much_it_takes(refused):
    status, error = refused("check", "--kernel", "linux", "--set", "memory=1M")
    assert status == 65
    assert "set memory to" in error
    needed = error.rpartition("set memory to ")[2].split()[0]
    assert main(["check", "--kernel", "linux", "--set", f"memory={needed}"]) == 0


def test_a_faulty_file_is_told_by_line_and_column(folder, refused):
    (folder / "m.yaml").write_text("kernel: linux\ndevices:\n  - debug-exit: {port: 0x3f6}\n  - serial: {}\n")
    assert refused("check", "m.yaml") == (
        65,
        "m.yaml:4:13: devices.1.serial.port: 0x3f8 is taken by devices.0.debug-exit; write another port",
    )


# The command line of Linux


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "console=ttyS0"),
        (["--append", "quiet"], "console=ttyS0 quiet"),
        (["--append", "console=tty0"], "console=tty0"),
        (["--append", "quiet", "--append", "debug"], "console=ttyS0 quiet debug"),
        (["--set", "kernel.cmdline=panic=1"], "console=ttyS0 panic=1"),
        (["--set", "devices=[{serial: {port: com2, to: none}}]"], ""),
    ],
)
def test_linux_is_told_of_com1_unless_a_console_is_named(pykvm, words, line):
    assert cmdline(pykvm, "--kernel", "linux", *words) == line


def test_a_kernel_that_is_not_linux_gets_only_the_users_words(pykvm):
    assert cmdline(pykvm, "--kernel", "own") == ""
    assert cmdline(pykvm, "--kernel", "own", "--append", "a b") == "a b"


# Initial RAM disks


def test_several_initrds_lie_one_behind_the_other_in_place_of_the_files(folder, pykvm):
    (folder / "a").write_bytes(b"a" * 1000)
    (folder / "b").write_bytes(b"b" * 3000)
    (folder / "m.yaml").write_text("kernel: {image: linux, initrd: gone}\n")
    status, out, error = pykvm("check", "m.yaml", "--initrd", "a", "--initrd", "b", "--json")
    assert (status, error) == (0, "")
    sizes = [place["size"] for place in json.loads(out)["placed"] if place["name"] == "the initrd"]
    assert sizes == [4000]


def test_a_missing_initrd_is_named(folder, refused):
    status, error = refused("check", "--kernel", "linux", "--initrd", "gone")
    assert status == 65
    assert error.startswith(f"{folder}/gone: cannot be read")


# check


def test_check_says_in_words_what_would_be_booted(pykvm):
    status, out, error = pykvm("check", "./linux", "--set", "memory=64M")
    assert (status, error) == (0, "")
    lines = dict.fromkeys(line.split("  ")[0] for line in out.splitlines())
    assert list(lines) == [
        "./linux: nothing wrong",
        "machine",
        "kernel",
        "entry",
        "asks for",
        "cmdline",
        "device",
        "memory",
    ]
    for words in (
        "1 CPU (host), 64M of memory",
        f"linux: bzimage, Linux's own form, {boot_doubles.VERSION.decode()}",
        "long mode at 0x100000; unpacked from gzip by pykvm",
        "asks for  boot protocol 2.15\nasks for  3M of memory from 0x100000 on\n",
        "asks for  an initrd below 0x80000000\nasks for  a command line of 2047 bytes or less\n",
        "com1, to terminal",
        "debug-exit at 0xf4",
        "the ACPI tables",
    ):
        assert words in out


def test_check_json_says_what_lies_where(pykvm):
    told = json.loads(pykvm("check", "hello", "--json")[1])
    assert told["kernel"] | {"image": ""} == {
        "image": "",
        "format": "flat",
        "packed": "",
        "version": "",
        "linux": False,
        "mode": "real",
        "entry": 0x1000,
        "cmdline": "",
        "how": "",
        "asks": [],
    }
    assert told["placed"][0] == {
        "name": "the flat binary",
        "gpa": 0x1000,
        "size": os.path.getsize(told["kernel"]["image"]),
    }


TO_LOG = "devices=[{serial: {port: com1, to: log}}]"
OVER = "would print over"


@pytest.mark.parametrize(
    ("devices", "sentence"),
    [
        ("[{serial: {port: com1, to: code.bin}}]", f"code.bin: com1 {OVER} the kernel"),
        ("[{serial: {port: com1, to: alias}}]", f"alias: com1 {OVER} the kernel"),
        ("[{serial: {port: com1, to: own.yaml}}]", f"own.yaml: com1 {OVER} the machine file"),
        (
            "[{serial: {port: com1, to: log}}, {serial: {port: com2, to: ./log}}]",
            f"./log: com2 {OVER} what com1 prints",
        ),
    ],
)
def test_a_console_does_not_print_over_what_is_needed(folder, refused, devices, sentence):
    os.symlink("code.bin", "alias")
    text = f"kernel: {{image: code.bin, format: flat}}\ndevices: {devices}\n"
    (folder / "own.yaml").write_text(text)
    status, error = refused("boot", "own.yaml")
    assert (status, error) == (65, f"{folder}/{sentence}; choose another path")
    assert (folder / "own.yaml").read_text() == text
    assert (folder / "code.bin").read_bytes() == b"\xf4"


@pytest.mark.parametrize(
    ("report", "what"), [("code.bin", "the kernel"), ("./log", "what com1 prints"), ("initrd", "an initrd")]
)
def test_the_report_does_not_replace_what_is_needed(folder, refused, report, what):
    for name in ("log", "initrd"):
        (folder / name).write_text("old")
    words = ["boot", "--kernel", "code.bin", "--initrd", "initrd", "--set", TO_LOG, "--report", report]
    sentence = f"{report}: the report would replace {what}; give --report another path"
    assert refused(*words) == (64, sentence)
    assert (folder / "code.bin").read_bytes() == b"\xf4"
    assert [(folder / name).read_text() for name in ("log", "initrd")] == ["old", "old"]


def closed_to_us(path, *, real=os.stat):
    """stat, for who may not look into the folder ``closed``."""
    if str(path).startswith("closed/"):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    return real(path)


@pytest.mark.parametrize("name", ["closed", "closed/machine.yaml"])
def test_a_machine_in_a_folder_that_is_closed_is_not_said_to_be_missing(folder, refused, monkeypatch, name):
    (folder / "closed").mkdir()
    monkeypatch.setattr(os, "stat", closed_to_us)
    sentence = "closed/machine.yaml: cannot be read: Permission denied; check the path and its permissions"
    assert refused("check", name) == (65, sentence)


# The report


def test_a_boot_that_fails_early_has_a_report_with_every_key(folder, refused):
    status, error = refused("boot", "--kernel", "gone", "--report", "r.json")
    assert status == 65
    told = json.loads((folder / "r.json").read_text())
    assert told.keys() >= REPORT_KEYS
    assert (told["outcome"], told["status"], told["sentence"]) == ("error", 65, error)
    assert told["seconds"] | {"total": 0} == {
        "first_run": None,
        "first_output": None,
        "expected_output": None,
        "total": 0,
    }


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("no/r.json", "no/r.json: the report can't be written: No such file or directory"),
        (".", ".: the report can't be written: Is a directory"),
        ("", "--report: the report can't be written: No such file or directory"),
        ("linux/r.json", "linux/r.json: the report can't be written: Not a directory"),
        ("r" * 255, "the report can't be written: File name too long"),  # the new file's, before it replaces
    ],
)
def test_a_report_that_cannot_be_written_is_told_before_anything_is_done(folder, pykvm, path, words):
    before = sorted(os.listdir(folder))
    status, _, error = pykvm("boot", "--kernel", "gone", "--report", path)
    assert status == 69
    (line,) = error.splitlines()
    assert words in line
    assert line.endswith("; give --report another path")
    assert sorted(os.listdir(folder)) == before


@pytest.mark.parametrize(
    ("to", "why"),
    [
        ("no/log", "No such file or directory"),
        (".", "Is a directory"),
        ("own/log", "No such file or directory"),
    ],
)
def test_a_consoles_file_that_cannot_be_written_is_told_before_a_guest_is_fetched(refused, to, why):
    setting = f"devices=[{{serial: {{port: com1, to: {to}}}}}]"
    status, error = refused("boot", "--kernel", "debian:linux-image-0", "--set", setting)
    assert status == 65
    assert f"cannot write the console's output here: {why}" in error


def test_a_report_that_turns_out_unwritable_at_the_end_hides_no_other_error(pykvm):
    status, _, error = pykvm("boot", "--kernel", "gone", "--report", "/dev/full")
    assert status == 65
    first, second = error.splitlines()
    assert first.startswith("pykvm: /dev/full: the report can't be written: No space left on device;")
    assert "gone: cannot be read" in second


# Tables that must agree


def test_serial_ports_are_checked_where_they_are_built():
    assert {name: port for name, (port, _) in COM_PORTS.items()} == SERIAL_PORTS


@pytest.mark.parametrize("name", ["pipe", "pipe.yaml"])
def test_a_pipe_is_refused_and_not_waited_for(refused, name):
    os.mkfifo(name)
    status, sentence = refused("check", name)
    assert status == 65
    assert sentence.endswith(f"{name}: is not a regular file; name the file that holds the image")
