"""What a good machine file means."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pykvm.config import defaults_for, load
from pykvm.config.backend import asks_for_kvm, on_backend
from pykvm.config.model import (
    CpusConfig,
    DebugExitConfig,
    ExpectConfig,
    KernelConfig,
    MachineConfig,
    MemoryConfig,
    OnConfig,
    SerialConfig,
)

MIB = 1 << 20


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Loads a text as web/machine.yaml, seen from its parent folder."""
    folder = tmp_path / "web"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)

    def load_text(text: str, *sets: str) -> MachineConfig:
        (folder / "machine.yaml").write_text(text, encoding="utf-8")
        return load("web/machine.yaml", sets)

    load_text.folder = str(folder)
    return load_text


def test_a_kernel_alone_gives_the_machine_with_all_defaults(machine):
    assert machine("kernel: vmlinuz") == MachineConfig(
        name="web",
        folder=machine.folder,
        source="web/machine.yaml",
        cpus=CpusConfig(count=1, model="host", features=()),
        memory=MemoryConfig(size=512 * MIB, hugepages=False),
        kernel=KernelConfig(
            image=f"{machine.folder}/vmlinuz",
            initrd=(),
            cmdline="",
            format="auto",
            entry="auto",
            load=None,
            start=None,
        ),
        firmware="none",
        backend="auto",
        interrupts=None,
        pit=None,
        hpet=False,
        display="terminal",
        transport="pci",
        devices=(SerialConfig(port="com1", to="terminal"), DebugExitConfig(port=0xF4)),
        on=OnConfig(reset="exit", panic="exit"),
        expect=None,
    )


def test_every_key_that_works_is_taken(machine):
    text = """
name: first guest
cpus: {count: 1, model: x86-64-v2, features: {avx2: off, sse4_2: on}}
memory: {size: 64M, hugepages: false}
kernel:
  image: /boot/a.bin
  format: flat
  entry: real
  load: 0x7c00
  start: 0x7c10
firmware: none
backend: kvm
interrupts: kernel
pit: user
transport: pci
devices:
  - serial: {port: com2, to: none}
  - serial: {port: com1, to: unix:run/s.sock}
  - serial: {port: com3, to: pty}
  - serial: {port: com4, to: log.txt}
  - debug-exit: {port: 0x501}
on: {reset: exit, panic: exit}
expect: {output: "login:", within: 90s}
"""
    got = machine(text)
    assert got.name == "first guest"
    assert got.cpus == CpusConfig(count=1, model="x86-64-v2", features=(("avx2", False), ("sse4_2", True)))
    assert got.memory.size == 64 * MIB
    assert got.kernel == KernelConfig(
        image="/boot/a.bin", initrd=(), cmdline="", format="flat", entry="real", load=0x7C00, start=0x7C10
    )
    assert (got.backend, got.pit) == ("kvm", "user")
    assert got.devices == (
        SerialConfig(port="com2", to="none"),
        SerialConfig(port="com1", to=f"unix:{machine.folder}/run/s.sock"),
        SerialConfig(port="com3", to="pty"),
        SerialConfig(port="com4", to=f"{machine.folder}/log.txt"),
        DebugExitConfig(port=0x501),
    )
    assert got.expect == ExpectConfig(output="login:", within_ns=90 * 10**9)


@pytest.mark.parametrize(
    ("written", "image"),
    [
        ("vmlinuz", "{folder}/vmlinuz"),
        ("../boot/vmlinuz", "{folder}/../boot/vmlinuz"),
        ("/boot/vmlinuz", "/boot/vmlinuz"),
        ("./host", "{folder}/./host"),
        ("host", "host"),
        ("debian:linux-image-6.12.9+deb13-amd64", "debian:linux-image-6.12.9+deb13-amd64"),
    ],
)
def test_a_kernel_is_a_path_from_the_files_folder_or_a_package_or_the_running_one(machine, written, image):
    assert machine(f"kernel: {{image: {written}}}").kernel.image == image.format(folder=machine.folder)


@pytest.mark.parametrize(
    ("written", "paths"), [("a", ("a",)), ("[a]", ("a",)), ("[a, b]", ("a", "b")), ("[]", ())]
)
def test_an_initrd_is_one_path_or_a_list(machine, written, paths):
    got = machine(f"kernel: {{image: k, initrd: {written}}}").kernel.initrd
    assert got == tuple(f"{machine.folder}/{path}" for path in paths)


@pytest.mark.parametrize(
    ("written", "line"),
    [
        ("", ""),
        ("quiet", "quiet"),
        ('"root=/dev/vda1 quiet"', "root=/dev/vda1 quiet"),
        ("console=ttyS0,115200n8", "console=ttyS0,115200n8"),
        (">\n    root=/dev/vda1\n    quiet\n", "root=/dev/vda1 quiet"),
        ("|\n    root=/dev/vda1\n    quiet\n", "root=/dev/vda1 quiet"),
        ("12", "12"),
        ("on", "on"),
    ],
)
def test_a_command_line_may_be_written_over_several_lines(machine, written, line):
    assert machine(f"kernel:\n  image: k\n  cmdline: {written}").kernel.cmdline == line


def test_a_given_list_of_devices_replaces_both_defaults(machine):
    assert machine("kernel: k\ndevices: []").devices == ()
    assert machine("kernel: k\ndevices:\n- debug-exit: {}").devices == (DebugExitConfig(port=0xF4),)


def test_a_device_without_settings_has_the_defaults(machine):
    got = machine("kernel: k\ndevices: [{serial: {}}, {serial: {port: com2, to: none}}]").devices
    assert got == (SerialConfig(port="com1", to="terminal"), SerialConfig(port="com2", to="none"))


def test_debug_exit_ports_four_apart_do_not_clash(machine):
    got = machine("kernel: k\ndevices: [{debug-exit: {}}, {debug-exit: {port: 0xf8}}]").devices
    assert [device.port for device in got] == [0xF4, 0xF8]


# YAML 1.1 reads each of these differently from what its author meant.


@pytest.mark.parametrize("key", ["on", '"on"', "'on'"])
def test_the_key_on_is_a_word_and_no_boolean(machine, key):
    assert machine(f"kernel: k\n{key}: {{reset: exit}}").on == OnConfig(reset="exit", panic="exit")


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("on", True),
        ("yes", True),
        ("true", True),
        ("True", True),
        ("off", False),
        ("NO", False),
        ("false", False),
    ],
)
def test_a_feature_is_switched_by_any_of_yamls_booleans(machine, word, value):
    assert machine(f"kernel: k\ncpus: {{features: {{avx2: {word}}}}}").cpus.features == (("avx2", value),)


@pytest.mark.parametrize("port", ["0xf4", "0xF4", "244", "0o364", "0b11110100", '"0xf4"'])
def test_a_port_may_be_written_in_any_base(machine, port):
    assert machine(f"kernel: k\ndevices: [{{debug-exit: {{port: {port}}}}}]").devices[0].port == 0xF4


@pytest.mark.parametrize("name", ["yes", "on", "null.", "123", "1:30", "0x10", "1e3", "2026-01-01", "ü"])
def test_a_name_stays_the_text_that_was_written(machine, name):
    assert machine(f"kernel: k\nname: {name}").name == name


@pytest.mark.parametrize(
    ("size", "value"), [("67108864", 64), ("0x4000000", 64), ("65536K", 64), ("1.5G", 1536)]
)
def test_a_bare_number_is_a_size_in_bytes(machine, size, value):
    assert machine(f"kernel: k\nmemory: {size}").memory.size == value * MIB


def test_values_may_be_shared_by_an_alias(machine):
    got = machine("kernel: k\nmemory: &m 64M\nname: *m\n")
    assert (got.memory.size, got.name) == (64 * MIB, "64M")


def test_a_byte_order_mark_and_windows_line_ends_are_no_trouble(machine):
    got = machine("\ufeffkernel:\r\n  image: k\r\nmemory: 64M\r\n")
    assert (got.kernel.image, got.memory.size) == (f"{machine.folder}/k", 64 * MIB)


def test_the_same_file_loads_without_libyaml(machine, monkeypatch):
    text = "kernel: {image: k, cmdline: 'a b'}\non: {reset: exit}\ndevices: [{debug-exit: {port: 0xf4}}]\n"
    quick = machine(text)
    monkeypatch.setattr("yaml.__with_libyaml__", False)
    assert machine(text) == quick


# A kernel image without a file.


def test_a_kernel_image_alone_boots_with_defaults(tmp_path, monkeypatch, machine):
    monkeypatch.chdir(tmp_path)
    got = defaults_for("boot/vmlinuz-6.12")
    assert (got.name, got.source) == ("vmlinuz-6.12", "boot/vmlinuz-6.12")
    assert got.folder == str(tmp_path / "boot")
    assert got.kernel.image == str(tmp_path / "boot/vmlinuz-6.12")
    assert got.devices == machine("kernel: k").devices


def test_a_kernel_image_called_host_is_the_file_and_not_the_running_kernel(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert defaults_for("host").kernel.image == str(tmp_path / "host")


def test_a_kernel_image_takes_changes_too():
    got = defaults_for("/boot/k", ["memory=64M", "kernel.cmdline=quiet"])
    assert (got.memory.size, got.kernel.cmdline) == (64 * MIB, "quiet")


def test_a_folder_whose_name_is_no_name_gives_the_name_machine(tmp_path):
    folder = tmp_path / ("x" * 65)
    folder.mkdir()
    (folder / "machine.yaml").write_text("kernel: k")
    assert load(str(folder / "machine.yaml")).name == "machine"


def test_a_kernel_image_alone_does_not_load_yaml():
    code = (
        "import sys; from pykvm.config import defaults_for; defaults_for('/k'); print('yaml' in sys.modules)"
    )
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (got.stdout, got.stderr) == ("False\n", "")


@pytest.mark.parametrize(
    ("more", "backend", "interrupts", "pit"),
    [
        ("", "kvm", "kernel", "kernel"),
        ("", "translate", "user", "user"),
        ("pit: none", "translate", "user", "none"),
        ("interrupts: user", "kvm", "user", "user"),
        ("interrupts: split", "kvm", "split", "user"),
        ("{interrupts: split, pit: none}", "kvm", "split", "none"),
        ("pit: user", "kvm", "kernel", "user"),
        ("{interrupts: user, pit: none}", "kvm", "user", "none"),
    ],
)
def test_what_a_file_leaves_open_the_back_end_settles(machine, more, backend, interrupts, pit):
    settled = on_backend(machine("kernel: k\n" + more.strip("{}").replace(", ", "\n")), backend)
    assert (settled.backend, settled.interrupts, settled.pit) == (backend, interrupts, pit)


@pytest.mark.parametrize(
    ("more", "asked"),
    [
        ("", ""),
        ("backend: kvm", ""),
        ("interrupts: user", ""),
        ("cpus: 4", ""),
        ("pit: kernel", "pit: kernel"),
        ("interrupts: split", "interrupts: split"),
        ("interrupts: kernel\npit: kernel", "interrupts: kernel and pit: kernel"),
    ],
)
def test_what_only_kvm_can_give_is_named(machine, more, asked):
    assert asks_for_kvm(machine("kernel: k\n" + more)) == asked
