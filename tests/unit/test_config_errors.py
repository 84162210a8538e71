"""What a wrong machine file is answered: the place, what is wrong, and what to write."""

# ruff: noqa: E501 (a message is best read in one piece)

from __future__ import annotations

import os
import re

import pytest

from pykvm.config import load
from pykvm.errors import InputError

K = "kernel: k\n"
QUOTES = "put text that holds ': ', ' #' or '@' in quotes, and close each quote and bracket"
FLAT = "kernel: {image: k, format: flat"

WRONG = [
    # the file as a whole
    ("", "machine.yaml: is empty; write at least kernel: and the path of a kernel"),
    ("# nothing\n", "machine.yaml: is empty; write at least kernel: and the path of a kernel"),
    ("---\n...\n", "machine.yaml: is empty; write at least kernel: and the path of a kernel"),
    ("null", "machine.yaml: is empty; write at least kernel: and the path of a kernel"),
    ("- kernel\n", "machine.yaml:1:1: a list is not a machine; write keys such as kernel: vmlinuz"),
    ("\nhello", "machine.yaml:2:1: 'hello' is not a machine; write keys such as kernel: vmlinuz"),
    ("{}", "machine.yaml:1:1: there is nothing to start; write kernel: and the path of a kernel"),
    ("memory: 1G", "machine.yaml:1:1: there is nothing to start; write kernel: and the path of a kernel"),
    (K + "---\n" + K, "machine.yaml:2:1: a second document begins here; keep one machine a file"),
    # bytes and YAML
    (b"kernel: k\nname: caf\xe9", "machine.yaml:2:10: byte 0xe9 is not UTF-8 text; save the file as UTF-8"),
    (K.encode("utf-16"), "machine.yaml:1:1: byte 0xff is not UTF-8 text; save the file as UTF-8"),
    (b"\xef\xbb\xbfa: \xff", "machine.yaml:1:4: byte 0xff is not UTF-8 text; save the file as UTF-8"),
    ("é: a\0", "machine.yaml:1:5: '\\x00' is a character that YAML doesn't allow; remove it"),
    (K + "\x1b[2J", "machine.yaml:2:1: '\\x1b' is a character that YAML doesn't allow; remove it"),
    ("cpus:\n\tcount: 1", "machine.yaml:2:1: is indented with a tab, which YAML forbids; indent with spaces"),
    ("cpus:\n \tcount: 1", "machine.yaml:2:2: is indented with a tab, which YAML forbids; indent with spaces"),
    ("\tkernel: k", "machine.yaml:1:1: is indented with a tab, which YAML forbids; indent with spaces"),
    (K + "a: b: c", f"machine.yaml:2:5: not YAML: mapping values are not allowed in this context; {QUOTES}"),
    (K + "a: [1\nb: 2", f"machine.yaml:2:4: not YAML: did not find expected ',' or ']'; {QUOTES}"),
    (K + "a: 'b\n\n", f"machine.yaml:2:4: not YAML: found unexpected end of stream; {QUOTES}"),
    (K + "a: @b\n", f"machine.yaml:2:4: not YAML: found character that cannot start any token; {QUOTES}"),
    # keys
    (K + "memroy: 1G", "machine.yaml:2:1: memroy: not a key that pykvm knows; did you mean memory?"),
    (K + "Memory: 1G", "machine.yaml:2:1: Memory: not a key that pykvm knows; did you mean memory?"),
    ("kernel: {imag: k}", "machine.yaml:1:10: kernel.imag: not a key that pykvm knows; did you mean image?"),
    (K + "cmdline: a", "machine.yaml:2:1: cmdline: not a key that pykvm knows; did you mean kernel.cmdline?"),
    (K + "on: {x: 1}", "machine.yaml:2:6: on.x: not a key that pykvm knows; write reset or panic"),
    (K + '"a\\eb": 1', "machine.yaml:2:1: 'a\\x1bb': not a key that pykvm knows; write name, cpus, memory, kernel, "
     "firmware, backend, interrupts, pit, hpet, display, transport, devices, limits, on or expect"),
    (K + "pit: none\n\npit: user", "machine.yaml:4:1: pit: stands here and in line 2; keep one of the two"),
    ("kernel: {image: a, 'image': b}",
     "machine.yaml:1:20: kernel.image: stands here and in line 1; keep one of the two"),
    ("? [a]\n: b", "machine.yaml:1:3: has a key that is no word; write keys as in memory: 512M"),
    ("cpus: {'': 1}", "machine.yaml:1:8: cpus: has a key that is no word; write keys as in memory: 512M"),
    ("kernel: {cmdline: a}", "machine.yaml:1:9: kernel: lacks the key image; write image: and the path of a kernel"),
    (K + "expect: {within: 5s}",
     'machine.yaml:2:9: expect: lacks the key output; write output: and the text, such as "login:"'),
    # what the back end can't give
    (K + "backend: qemu", "machine.yaml:2:10: backend: 'qemu' is not a back end; write auto, kvm or translate"),
    *[
        (K + f"backend: translate\n{key}: kernel", f"machine.yaml:3:{len(key) + 3}: {key}: 'kernel' is for KVM, "
         "and the back end is translate; write user, or leave it out")
        for key in ("interrupts", "pit")
    ],
    *[
        (K + f"interrupts: {place}\npit: kernel", "machine.yaml:3:6: pit: 'kernel' needs the interrupt controllers "
         f"there, and they are at {place}; write user, or leave it out")
        for place in ("split", "user")
    ],
    (K + "backend: translate\ninterrupts: split", "machine.yaml:3:13: interrupts: 'split' is for KVM, "
     "and the back end is translate; write user, or leave it out"),
    # aliases and tags
    (K + "a: *b", "machine.yaml:2:4: a: *b is not defined above; write the value out"),
    (K + "a: &b [*b]", "machine.yaml:2:8: a.0: *b stands inside of itself; write the value out"),
    (K + "memory: !!str 1G", "machine.yaml:2:9: memory: has a tag, which machine files don't use; "
     "write the value without 'tag:yaml.org,2002:str'"),
    (K + "a: !!python/object/apply:os.system [true]", "machine.yaml:2:4: a: has a tag, which machine files don't "
     "use; write the value without 'tag:yaml.org,2002:python/object/apply:o…'"),
    # values of the wrong kind
    (K + "memory: 512MB", "machine.yaml:2:9: memory: '512MB' is not a size; write 512M or 1G"),
    (K + "memory: {size: 512m}", "machine.yaml:2:16: memory.size: '512m' is not a size; write 512M or 1G"),
    (K + "memory: 1:30", "machine.yaml:2:9: memory: '1:30' is not a size; write 512M or 1G"),
    (K + "memory: -1G", "machine.yaml:2:9: memory: '-1G' is not a size; write 512M or 1G"),
    (K + "memory: 1_000M", "machine.yaml:2:9: memory: '1_000M' is not a size; write 512M or 1G"),
    (K + "memory: [1G]", "machine.yaml:2:9: memory: a list is not a size; write memory: 512M"),
    (K + "memory: {size: {}}", "machine.yaml:2:16: memory.size: a map is not a size; write 512M or 1G"),
    (K + "memory:", "machine.yaml:2:8: memory: has no value; write memory: 512M"),
    (K + "memory: ~", "machine.yaml:2:9: memory: has no value; write memory: 512M"),
    (K + "memory: 4K", "machine.yaml:2:9: memory: '4K' is out of range; write a size from 1M to 8T"),
    (K + "memory: 9T", "machine.yaml:2:9: memory: '9T' is out of range; write a size from 1M to 8T"),
    (K + "memory: 2097153", "machine.yaml:2:9: memory: '2097153' is not a multiple of 4K; write 2M"),
    (K + f"memory: {'9' * 5000}",
     f"machine.yaml:2:9: memory: '{'9' * 39}…' is not a size; write 512M or 1G"),
    (K + "cpus: 0", "machine.yaml:2:7: cpus: '0' is out of range; write a number from 1 to 64"),
    (K + "cpus: two", "machine.yaml:2:7: cpus: 'two' is not a whole number; write digits, such as 244 or 0xf4"),
    (K + "cpus: 1.0", "machine.yaml:2:7: cpus: '1.0' is not a whole number; write digits, such as 244 or 0xf4"),
    (K + "cpus: [1]", "machine.yaml:2:7: cpus: a list is not a number of CPUs; write cpus: 1"),
    (K + "cpus: {count: []}", "machine.yaml:2:15: cpus.count: a list is not a number; write a number from 1 to 64"),
    (K + "cpus: {model: 486}", "machine.yaml:2:15: cpus.model: '486' is not a CPU model; "
     "write host, baseline, x86-64-v1, x86-64-v2 or x86-64-v3"),
    (K + "cpus: {features: avx2}",
     "machine.yaml:2:18: cpus.features: 'avx2' is not a map of CPU features; write features: {avx2: off}"),
    (K + "cpus: {features: {avx2: 2}}", "machine.yaml:2:25: cpus.features.avx2: '2' is not on or off; write on or off"),
    (K + "cpus: {features: {AVX 2: on}}",
     "machine.yaml:2:19: cpus.features: 'AVX 2' is not the name of a CPU feature; write features: {avx2: off}"),
    (K + "memory: {hugepages: maybe}",
     "machine.yaml:2:21: memory.hugepages: 'maybe' is not on or off; write on or off"),
    (K + "name: a/b", "machine.yaml:2:7: name: 'a/b' is not a name; write 1 to 64 characters, no slash among them"),
    (K + "name: ''", "machine.yaml:2:7: name: '' is not a name; write 1 to 64 characters, no slash among them"),
    (K + "name: {}", "machine.yaml:2:7: name: a map is not a name; write a word"),
    (K + "pit: off", "machine.yaml:2:6: pit: 'off' is not a place for the timer chip; write kernel, user or none"),
    (K + "on: exit", "machine.yaml:2:5: on: 'exit' is not a map of events; write on: {reset: exit}"),
    (K + "expect: 'login:'", "machine.yaml:2:9: expect: 'login:' is not an expectation; "
     'write expect: {output: "login:", within: 60s}'),
    (K + "expect: {output: ''}",
     "machine.yaml:2:18: expect.output: '' is not text to look for; write at least one character"),
    (K + "expect: {output: a, within: 60}",
     "machine.yaml:2:29: expect.within: '60' is not a duration; write 60s, 500ms or 2m"),
    (K + "expect: {output: a, within: 1:30}",
     "machine.yaml:2:29: expect.within: '1:30' is not a duration; write 60s, 500ms or 2m"),
    (K + "expect: {output: a, within: 0s}",
     "machine.yaml:2:29: expect.within: '0s' is out of range; write more than 0s, and at most 60000m"),
    # the kernel
    ("kernel:", "machine.yaml:1:8: kernel: has no value; write kernel: vmlinuz"),
    ("kernel: [k]", "machine.yaml:1:9: kernel: a list is not a kernel; write kernel: vmlinuz"),
    ("kernel: ''", "machine.yaml:1:9: kernel: '' is not a path; write the path of a file"),
    ('kernel: "a\\0b"', "machine.yaml:1:9: kernel: 'a\\x00b' is not a path; remove its control characters"),
    ("kernel: debian:../../etc/x", "machine.yaml:1:9: kernel: 'debian:../../etc/x' is not the name of a Debian "
     "package; write debian:linux-image-cloud-amd64"),
    ("kernel: debian:--purge", "machine.yaml:1:9: kernel: 'debian:--purge' is not the name of a Debian package; "
     "write debian:linux-image-cloud-amd64"),
    ("kernel: {image: k, initrd: {a: b}}",
     "machine.yaml:1:28: kernel.initrd: a map is not a list; write a list, or [] for an empty one"),
    ("kernel: {image: k, initrd: [a, []]}",
     "machine.yaml:1:32: kernel.initrd.1: a list is not a path; write the path of a file"),
    ("kernel: {image: k, cmdline: [quiet]}", "machine.yaml:1:29: kernel.cmdline: a list is not a command line; "
     "write its words on one line, in quotes if need be"),
    ('kernel: {image: k, cmdline: "a\\0b"}', "machine.yaml:1:29: kernel.cmdline: 'a\\x00b' is not a command line; "
     "remove its control characters"),
    ("kernel: {image: k, load: 0x1000}",
     "machine.yaml:1:26: kernel.load: is for flat kernels; write format: flat, or leave it out"),
    ("kernel: {image: k, format: elf, start: 0}",
     "machine.yaml:1:40: kernel.start: is for flat kernels; write format: flat, or leave it out"),
    (f"{FLAT}, load: 0123}}", "machine.yaml:1:40: kernel.load: '0123' may be octal or decimal; write 123, or 0o123"),
    (f"{FLAT}, load: 09}}", "machine.yaml:1:40: kernel.load: '09' may be octal or decimal; write 9"),
    (f"{FLAT}, load: 0x100000000}}",
     "machine.yaml:1:40: kernel.load: '0x100000000' is out of range; write a number from 0x0 to 0xffffffff"),
    (f"{FLAT}, cmdline: quiet}}", "machine.yaml:1:43: kernel.cmdline: a flat kernel takes none; leave it out"),
    (f"{FLAT}, initrd: i}}", "machine.yaml:1:42: kernel.initrd: a flat kernel takes none; leave it out"),
    # devices
    (K + "devices:", "machine.yaml:2:9: devices: has no value; write a list, or [] for an empty one"),
    (K + "devices: {serial: {}}",
     "machine.yaml:2:10: devices: a map is not a list; write a list, or [] for an empty one"),
    (K + "devices: [serial]", "machine.yaml:2:11: devices.0: 'serial' is not a device; write serial: {}"),
    (K + "devices: [{}]", "machine.yaml:2:11: devices.0: has 0 devices in one entry; "
     "begin each device with a dash of its own"),
    (K + "devices:\n  - serial: {}\n    debug-exit: {}", "machine.yaml:3:5: devices.0: has 2 devices in one entry; "
     "begin each device with a dash of its own"),
    (K + "devices:\n  - seriel: {}",
     "machine.yaml:3:5: devices.0.seriel: not a device that pykvm knows; did you mean serial?"),
    (K + "devices:\n  - serial:\n    port: com1",
     "machine.yaml:4:5: devices.0.port: not a device that pykvm knows; did you mean serial.port?"),
    (K + "devices:\n  - serial:",
     "machine.yaml:3:12: devices.0.serial: has no value; write serial: {port: com1, to: terminal}"),
    (K + "devices:\n  - serial: {port: com5}", "machine.yaml:3:20: devices.0.serial.port: 'com5' is not a serial port; "
     "write com1, com2, com3 or com4"),
    (K + "devices:\n  - serial: {to: 'unix:'}",
     "machine.yaml:3:18: devices.0.serial.to: 'unix:' is not a path; write the path of a file"),
    (K + "devices:\n  - serial: {to: []}", "machine.yaml:3:18: devices.0.serial.to: a list is not a place for a serial "
     "port; write terminal, none, pty, unix:PATH or a path"),
    (K + "devices:\n  - debug-exit: {port: 0xffff}",
     "machine.yaml:3:24: devices.0.debug-exit.port: '0xffff' is out of range; write a number from 0x0 to 0xfffc"),
    (K + "devices:\n  - debug-exit: 0xf4",
     "machine.yaml:3:17: devices.0.debug-exit: '0xf4' is not a debug-exit device; write debug-exit: {port: 0xf4}"),
    (K + "devices:\n  - serial: {}\n  - serial: {to: pty}",
     "machine.yaml:4:13: devices.1.serial.port: com1 is taken by devices.0.serial; write another port"),
    (K + "devices:\n  - serial: {}\n  - serial: {port: com2, to: terminal}",
     "machine.yaml:4:30: devices.1.serial.to: terminal is taken by devices.0.serial; write pty, none or a path"),
    (K + "devices:\n  - debug-exit: {}\n  - debug-exit: {port: 0xf7}",
     "machine.yaml:4:24: devices.1.debug-exit.port: 0xf7 is taken by devices.0.debug-exit; write another port"),
    # what comes later
    (K + "cpus: 65", "machine.yaml:2:7: cpus: '65' is out of range; write a number from 1 to 64"),
    (K + "cpus: {count: 4, max: 3}",
     "machine.yaml:2:23: cpus.max: '3' is less than the 4 CPUs that the machine starts with; "
     "write a number from 4 on, or leave it out"),
    (K + "memory: {max: 2G}",
     "machine.yaml:2:15: memory.max: comes later: memory can't be added to a running machine yet; leave it out"),
    (K + "memory: {hugepages: true}", "machine.yaml:2:21: memory.hugepages: 'true' comes later: "
     "pykvm takes guest memory in ordinary pages so far; write off"),
    ("kernel: {image: k, format: coff}", "machine.yaml:1:28: kernel.format: 'coff' is not a kernel format; "
     "write auto, bzimage, elf, pvh, multiboot, multiboot2, bootsector or flat"),
    *[
        (K + f"firmware: {word}", f"machine.yaml:2:11: firmware: '{word}' comes later: "
         "pykvm starts kernels without firmware so far; write none")
        for word in ("bios", "OVMF.fd")
    ],
    (K + "interrupts: both", "machine.yaml:2:13: interrupts: 'both' is not a place for the interrupt controllers; "
     "write kernel, split or user"),
    (K + "transport: mmio", "machine.yaml:2:12: transport: 'mmio' comes later: "
     "there is no virtio device yet that it could attach; write pci"),
    *[
        (K + f"on: {{{event}: reboot}}", f"machine.yaml:2:{8 + len(event)}: on.{event}: 'reboot' is not an action; "
         "write exit, restart or pause")
        for event in ("reset", "panic")
    ],
    (K + "limits: {cpu: 50%}", "machine.yaml:2:9: limits: comes later: pykvm can't limit its own process yet; "
     "leave it out, or use systemd-run"),
    *[
        (K + f"devices:\n- {device}: {{}}",
         f"machine.yaml:3:{5 + len(device)}: devices.0.{device}: comes later: this pykvm {lacks}")
        for device, lacks in [
            ("disk", "has no disks yet; leave it out"),
            ("net", "has no network cards yet; leave it out"),
            ("share", "can't share folders yet; leave it out"),
            ("rng", "has no random device yet; leave it out"),
            ("console", "has no virtio console yet; use a serial port"),
            ("balloon", "has no memory balloon yet; leave it out"),
            ("vsock", "has no vsock yet; leave it out"),
        ]
    ],
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_a_wrong_file_is_answered_with_place_fault_and_remedy(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "machine.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as caught:
        load("machine.yaml")
    assert str(caught.value) == message
    assert caught.value.status == 65


SAME_IN_BOTH = [
    row for row in WRONG if "not YAML: " not in row[1]
]  # pyyaml's two scanners word those differently


@pytest.mark.parametrize(("text", "message"), SAME_IN_BOTH)
def test_without_libyaml_the_answers_are_the_same(tmp_path, monkeypatch, text, message):
    monkeypatch.setattr("yaml.__with_libyaml__", False)
    test_a_wrong_file_is_answered_with_place_fault_and_remedy(tmp_path, monkeypatch, text, message)


@pytest.mark.parametrize("text", ["a: b: c", "a: [1", "a: 'b", "a: @b", 'a: "\\ud800"', 'a: "\\UFFFFFFFF"'])
def test_without_libyaml_bad_yaml_is_told_too(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("yaml.__with_libyaml__", False)
    (tmp_path / "machine.yaml").write_text(text)
    with pytest.raises(InputError, match=r"^machine\.yaml.*: not YAML: .*; "):
        load("machine.yaml")


def test_the_file_is_named_as_the_user_named_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "guests").mkdir()
    (tmp_path / "guests/web.yaml").write_text("memory: x")
    with pytest.raises(InputError, match=re.escape("../guests/web.yaml:1:9: memory: 'x' is not a size")):
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        load("../guests/web.yaml")


def test_a_file_that_is_not_there_is_told(tmp_path):
    path = str(tmp_path / "none.yaml")
    with pytest.raises(InputError) as caught:
        load(path)
    expected = f"{path}: cannot be read: No such file or directory; check the path and its permissions"
    assert str(caught.value) == expected


def test_a_folder_in_the_place_of_a_file_is_told(tmp_path):
    with pytest.raises(InputError, match=r"cannot be read: Is a directory; "):
        load(str(tmp_path))


def test_a_working_directory_that_is_gone_is_told(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    os.rmdir(gone)
    with pytest.raises(Exception) as caught:
        load("machine.yaml")
    assert str(caught.value) == "the working directory is gone; change to a folder that exists"
    assert caught.value.status == 64
