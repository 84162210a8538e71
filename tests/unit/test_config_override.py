"""What the command line changes: --set KEY=VALUE, and the options that are short for it."""

# ruff: noqa: E501 (a message is best read in one piece)

from __future__ import annotations

import pytest

from pykvm.config import Override, load
from pykvm.config.model import DebugExitConfig, MachineConfig, SerialConfig
from pykvm.errors import InputError, UsageError

MIB = 1 << 20
K = "kernel: k\n"
DEFAULT_EXIT = DebugExitConfig(port=0xF4)


@pytest.fixture
def change(tmp_path, monkeypatch):
    """Loads a text as web/machine.yaml with changes made in the folder here."""
    (tmp_path / "web").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def load_text(text: str, *sets: str | Override) -> MachineConfig:
        (tmp_path / "web/machine.yaml").write_text(text)
        return load("../web/machine.yaml", sets)

    load_text.web = str(tmp_path / "web")
    load_text.here = str(tmp_path / "here")
    return load_text


@pytest.mark.parametrize("text", [K, K + "memory: 64M\n", K + "memory: {size: 64M}\n", K + "memory:\n"])
@pytest.mark.parametrize("key", ["memory", "memory.size"])
def test_a_key_is_set_whether_the_file_has_it_or_not(change, text, key):
    assert change(text, f"{key}=128M").memory.size == 128 * MIB


def test_a_scalar_for_a_group_leaves_the_rest_of_the_group(change):
    text = "kernel: {image: k, cmdline: quiet, initrd: i}"
    kernel = change(text, "kernel=/boot/other").kernel
    assert (kernel.image, kernel.cmdline, kernel.initrd) == ("/boot/other", "quiet", (f"{change.web}/i",))


def test_a_map_for_a_group_replaces_the_group(change):
    kernel = change("kernel: {image: k, cmdline: quiet}", "kernel={image: /boot/other}").kernel
    assert (kernel.image, kernel.cmdline) == ("/boot/other", "")


def test_a_key_beside_a_short_form_keeps_what_that_says(change):
    kernel = change(K, "kernel.cmdline=quiet").kernel
    assert (kernel.image, kernel.cmdline) == (f"{change.web}/k", "quiet")


def test_later_changes_win(change):
    assert change(K, "memory=64M", "memory=32M").memory.size == 32 * MIB


def test_a_value_is_yaml(change):
    got = change(K, "cpus={model: baseline, features: {avx2: off}}", 'name="a # b"')
    assert (got.cpus.model, got.cpus.features, got.name) == ("baseline", (("avx2", False),), "a # b")


def test_a_value_may_hold_equals_signs(change):
    assert (
        change(K, "kernel.cmdline=root=/dev/vda1 console=ttyS0").kernel.cmdline
        == "root=/dev/vda1 console=ttyS0"
    )


def test_the_command_line_is_emptied_by_no_value(change):
    assert change("kernel: {image: k, cmdline: quiet}", "kernel.cmdline=").kernel.cmdline == ""


def test_a_feature_whose_name_has_a_dot_is_set(change):
    assert change(K, "cpus.features.sse4.1=off").cpus.features == (("sse4.1", False),)


def test_a_number_reaches_into_a_list(change):
    text = K + "devices: [{debug-exit: {port: 0x501}}, {serial: {port: com2, to: pty}}]"
    got = change(text, "devices.1.serial.to=none", "devices.0.debug-exit.port=0x510").devices
    assert got == (DebugExitConfig(port=0x510), SerialConfig(port="com2", to="none"))


def test_a_number_reaches_into_the_default_devices(change):
    got = change(K, "devices.0.serial.to=none").devices
    assert got == (SerialConfig(port="com1", to="none"), DEFAULT_EXIT)


def test_the_number_after_the_last_adds_to_the_list(change):
    got = change(K, "devices.2.serial={port: com2, to: none}").devices
    assert got == (
        SerialConfig(port="com1", to="terminal"),
        DEFAULT_EXIT,
        SerialConfig(port="com2", to="none"),
    )


def test_an_initrd_is_added_behind_the_one_of_the_file(change):
    got = change("kernel: {image: k, initrd: a}", "kernel.initrd.1=b").kernel.initrd
    assert got == (f"{change.web}/a", f"{change.here}/b")


def test_relative_paths_on_the_command_line_start_from_the_working_directory(change):
    got = change(K, "kernel.image=other", "devices.0.serial.to=unix:s.sock")
    assert got.kernel.image == f"{change.here}/other"
    assert got.devices[0].to == f"unix:{change.here}/s.sock"


def test_a_change_to_an_aliased_value_changes_one_place_only(change):
    text = K + "devices: [{serial: &s {port: com1, to: none}}, {serial: *s}]"
    got = change(text, "devices.1.serial.port=com2").devices
    assert got == (SerialConfig(port="com1", to="none"), SerialConfig(port="com2", to="none"))


# --kernel, --initrd, --name, --append


def test_an_options_text_is_taken_as_it_is(change):
    got = change(K, Override(option="--kernel", key="kernel.image", text="[a]: 'b # c"))
    assert got.kernel.image == f"{change.here}/[a]: 'b # c"


@pytest.mark.parametrize("written", ["", ", cmdline: ", ", cmdline: null"])
def test_append_to_nothing_is_the_whole_command_line(change, written):
    text = f"kernel: {{image: k{written}}}"
    assert change(text, APPEND).kernel.cmdline == "quiet debug"


APPEND = Override(option="--append", key="kernel.cmdline", text="quiet debug", add=True)


@pytest.mark.parametrize("written", ["root=/dev/vda", '"root=/dev/vda"'])
def test_append_adds_behind_the_files_words(change, written):
    assert (
        change(f"kernel: {{image: k, cmdline: {written}}}", APPEND).kernel.cmdline
        == "root=/dev/vda quiet debug"
    )


def test_append_adds_behind_what_set_has_replaced(change):
    text = "kernel: {image: k, cmdline: lost}"
    assert change(text, "kernel.cmdline=root=/dev/vda", APPEND).kernel.cmdline == "root=/dev/vda quiet debug"


def test_append_to_what_is_no_command_line_tells_of_the_file(change):
    with pytest.raises(InputError) as caught:
        change("kernel: {image: k, cmdline: [a]}", APPEND)
    assert str(caught.value).startswith(
        "../web/machine.yaml:1:29: kernel.cmdline: a list is not a command line; "
    )


# What is wrong on the command line is status 64, and named as it was typed.

WRONG = [
    ("memory", "--set memory: has no =; write --set KEY=VALUE, such as --set memory=1G"),
    ("=1", "--set =1: '' is no path of a key; write --set KEY=VALUE, such as --set memory=1G"),
    ("memory..size=1", "--set memory..size=1: 'memory..size' is no path of a key; "
     "write --set KEY=VALUE, such as --set memory=1G"),
    ("memory=512MB", "--set memory=512MB: memory: '512MB' is not a size; write 512M or 1G"),
    ("memory=", "--set memory=: memory: has no value; write memory: 512M"),
    ("memroy=1G", "--set memroy=1G: memroy: not a key that pykvm knows; did you mean memory?"),
    ("kernel.imag=x", "--set kernel.imag=x: kernel.imag: not a key that pykvm knows; did you mean image?"),
    ("memory.size.x=1", "--set memory.size.x=1: memory.size: has no 'x' in it; set memory.size itself"),
    ("pit=maybe", "--set pit=maybe: pit: 'maybe' is not a place for the timer chip; write kernel, user or none"),
    ("devices.0=serial", "--set devices.0=serial: devices.0: 'serial' is not a device; write serial: {}"),
    ("devices.3.serial.to=none", "--set devices.3.serial.to=none: devices: has no item '3'; "
     "write 0 to 2, where 2 adds one"),
    ("devices.last=x", "--set devices.last=x: devices: has no item 'last'; write 0 to 2, where 2 adds one"),
    ("kernel.initrd.1=x", "--set kernel.initrd.1=x: kernel.initrd: has no item '1'; write 0 for the first"),
    ("devices.1.serial.to=none", "--set devices.1.serial.to=none: devices.1: is a debug-exit, not a serial; "
     "set devices.1 to a serial, or name another"),
    ("devices.2.serial.to=none", "--set devices.2.serial.to=none: devices.2.serial.port: com1 is taken by "
     "devices.0.serial; write another port"),
    ("kernel.cmdline=@x", "--set kernel.cmdline=@x: not YAML: found character that cannot start any token; "
     "put text that holds ': ', ' #' or '@' in quotes, and close each quote and bracket"),
    ("memory=*x", "--set memory=*x: *x is not defined above; write the value out"),
    ("name=\udcff", "--set name=?: not YAML: it holds a character that doesn't exist; "
     "look at its escapes, such as \\u1234"),
    ("name=\x1b[2J", "--set name=?[2J: '\\x1b' is a character that YAML doesn't allow; remove it"),
    ("name=" + "x" * 99, f"--set name={'x' * 68}…: name: '{'x' * 39}…' is not a name; "
     "write 1 to 64 characters, no slash among them"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_a_wrong_change_is_answered_with_what_was_typed(change, text, message):
    with pytest.raises(UsageError) as caught:
        change(K, text)
    assert str(caught.value) == message
    assert caught.value.status == 64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("limits.cpu=50%", "--set limits.cpu=50%: limits: comes later: pykvm can't limit its own process yet; "
         "leave it out, or use systemd-run"),
        ("devices.2.disk.file=a", "--set devices.2.disk.file=a: devices.2.disk: comes later: "
         "this pykvm has no disks yet; leave it out"),
    ],
)  # fmt: skip
def test_what_comes_later_is_status_65_from_the_command_line_too(change, text, message):
    with pytest.raises(InputError) as caught:
        change(K, text)
    assert str(caught.value) == message
    assert caught.value.status == 65


def test_a_fault_of_the_file_stays_the_files_beside_a_change(change):
    with pytest.raises(InputError) as caught:
        change(K + "memory: 512MB", "name=x")
    assert str(caught.value) == "../web/machine.yaml:2:9: memory: '512MB' is not a size; write 512M or 1G"


def test_a_change_mends_what_the_file_has_wrong(change):
    assert change(K + "cpus: 4\nmemory: lots", "cpus=1", "memory=64M").memory.size == 64 * MIB
