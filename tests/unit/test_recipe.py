"""Recipes: what is fetched, unpacked, built and cached, by the real apt, xz and make, on a small archive."""

from __future__ import annotations

import io
import os
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path
from typing import TextIO

import pytest
from apt_archive import Archive, only_source

from pykvm import config, guests
from pykvm.cache import Cache
from pykvm.errors import HostError, InputError
from pykvm.guests import initramfs, kernels, linux, recipe, table, tools
from pykvm.progress import Progress

pytestmark = pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs Debian's apt")

INITRAMFS = """
    kind = "initramfs"
    package = "busybox-static"
    directories = ["bin", "dev"]
    [from_package]
    "bin/busybox" = "bin/busybox"
    [links]
    "bin/sh" = "busybox"
    [files]
    init = "init"
    [devices]
    "dev/console" = [5, 1]
"""

KERNEL = """
    kind = "kernel"
    package = "linux-source-9.9"
    tarball = "usr/src/linux-source-9.9.tar.xz"
    config = "my.config"
    disk = "1M"
    lines = 3
    everywhere = ["Kconfig", "Makefile"]
    folders = ["kernel"]
    flat = ["lib"]
    [tools]
    make = "make"
    xz-utils = "xz"
"""

# The two targets of Linux's Makefile that a recipe uses, in small.
MAKEFILE = """
allnoconfig:
\tsed /WITHOUT/d $(KCONFIG_ALLCONFIG) > .config
bzImage:
\tmkdir -p arch/x86/boot
\tcat kernel/fork.c lib/flat.c > arch/x86/boot/bzImage
\techo $(KBUILD_BUILD_USER) >> arch/x86/boot/bzImage
"""


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    return only_source(tmp_path, monkeypatch)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(str(tmp_path / "pykvm"))


def folder(tmp_path: Path, text: str, **files: str) -> str:
    made = tmp_path / "guest" / "part"
    made.mkdir(parents=True, exist_ok=True)
    (made / "recipe.toml").write_text(textwrap.dedent(text))
    for name, content in files.items():
        (made / name.replace("_", ".")).write_text(content)
    return str(made)


def busybox(archive: Archive, version: str, content: bytes = b"\x7fELF busybox") -> None:
    archive.add(
        "busybox-static", version, {"bin/busybox": content, "usr/share/doc/busybox-static/README": b""}
    )


def source(archive: Archive, makefile: str = MAKEFILE, version: str = "9.9.1-1") -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as tar:
        for path, content in {
            "Makefile": makefile,
            "kernel/fork.c": "fork ",
            "kernel/deep/er.c": "",
            "lib/flat.c": "flat ",
            "lib/deep/er.c": "",
            "drivers/gpu/Kconfig": "",
            "drivers/gpu/large.c": "",
        }.items():
            member = tarfile.TarInfo(f"linux-source-9.9/{path}")
            member.size = len(content)
            member.mode = 0o644
            tar.addfile(member, io.BytesIO(content.encode()))
    archive.add("linux-source-9.9", version, {"usr/src/linux-source-9.9.tar.xz": packed.getvalue()})


def reader_of(fifo: Path) -> TextIO:
    """Of the FIFO, into which a writer says something within a minute."""
    fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(60_000), "nobody has written"
    os.set_blocking(fd, True)
    return open(fd)


def work_left(cache: Cache) -> list[str]:
    return os.listdir(os.path.join(cache.folder, "work"))


def test_an_initramfs_is_made_of_a_package_and_the_recipes_files(
    archive: Archive, cache: Cache, tmp_path: Path
) -> None:
    busybox(archive, "1.36-1")
    made = Path(recipe.built(folder(tmp_path, INITRAMFS, init="#!/bin/sh\n"), cache)).read_bytes()
    listed = subprocess.run(["cpio", "-itv", "--quiet"], input=made, capture_output=True, check=True).stdout
    lines = [line.split() for line in listed.decode().splitlines()]
    assert [(line[0], " ".join(line[8:] if line[0][0] != "c" else line[9:])) for line in lines] == [
        ("drwxr-xr-x", "bin"),
        ("drwxr-xr-x", "dev"),
        ("crw-------", "dev/console"),
        ("-rwxr-xr-x", "bin/busybox"),
        ("lrwxrwxrwx", "bin/sh -> busybox"),
        ("-rwxr-xr-x", "init"),
    ]
    assert b"\x7fELF busybox" in made


def test_the_second_time_neither_apt_nor_a_tool_is_asked(
    archive: Archive, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busybox(archive, "1.36-1")
    path = recipe.built(folder(tmp_path, INITRAMFS, init="x"), cache)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert recipe.built(folder(tmp_path, INITRAMFS, init="x"), cache) == path


def test_a_changed_file_of_a_recipe_makes_it_anew_and_a_readme_does_not(tmp_path: Path) -> None:
    first = recipe.key(folder(tmp_path, INITRAMFS, init="one"))
    assert recipe.key(folder(tmp_path, INITRAMFS, init="one", README_md="read me")) == first
    assert recipe.key(folder(tmp_path, INITRAMFS, init="two")) != first
    assert recipe.key(folder(tmp_path, INITRAMFS + "# more\n", init="one")) != first


def test_update_builds_again_only_what_a_newer_package_changes(
    archive: Archive, cache: Cache, tmp_path: Path
) -> None:
    busybox(archive, "1.36-1", b"old")
    part = folder(tmp_path, INITRAMFS, init="x")
    old = recipe.built(part, cache)
    assert recipe.update(part, cache) == "busybox-static 1.36-1"
    assert recipe.built(part, cache) == old
    busybox(archive, "1.37-1", b"new")
    assert recipe.built(part, cache) == old
    assert recipe.update(part, cache) == "busybox-static 1.37-1"
    assert b"new" in Path(recipe.built(part, cache)).read_bytes()


def test_what_was_removed_is_built_again(archive: Archive, cache: Cache, tmp_path: Path) -> None:
    busybox(archive, "1.36-1")
    part = folder(tmp_path, INITRAMFS, init="x")
    recipe.built(part, cache)
    assert recipe.remove(part, cache)
    assert recipe.about(part, cache) is None
    assert not recipe.remove(part, cache)
    recipe.built(part, cache)
    assert recipe.about(part, cache) is not None


def test_a_package_that_lacks_a_file_is_told(archive: Archive, cache: Cache, tmp_path: Path) -> None:
    archive.add("busybox-static", "1.36-1", {"usr/bin/busybox": b""})
    with pytest.raises(HostError, match=r"busybox-static 1.36-1: has no bin/busybox"):
        recipe.built(folder(tmp_path, INITRAMFS, init="x"), cache)
    assert work_left(cache) == []


def test_a_kernel_is_built_from_what_the_recipe_unpacks(
    archive: Archive, cache: Cache, tmp_path: Path
) -> None:
    source(archive, MAKEFILE + "\tfind kernel lib drivers -type f | sort >> arch/x86/boot/bzImage\n")
    made = recipe.built(folder(tmp_path, KERNEL, my_config="CONFIG_SMP=y\n"), cache)
    assert Path(made).read_text().split() == [
        *("fork", "flat", "pykvm"),
        *("drivers/gpu/Kconfig", "kernel/deep/er.c", "kernel/fork.c", "lib/flat.c"),
    ]
    assert recipe.about(folder(tmp_path, KERNEL), cache) == (made, "linux-source-9.9 9.9.1-1")
    assert work_left(cache) == []


def test_download_and_disk_are_told_before_the_build(archive: Archive, cache: Cache, tmp_path: Path) -> None:
    source(archive)
    said = io.StringIO()
    part = folder(tmp_path, KERNEL, my_config="")
    recipe.built(part, cache, Progress(said, notes_in_pipes=True))
    assert "linux-source-9.9 9.9.1-1: 0.0 MB to fetch, 1.1 MB of disk in " + cache.folder in said.getvalue()


def test_a_boot_in_a_pipe_hears_nothing_of_a_build(archive: Archive, cache: Cache, tmp_path: Path) -> None:
    source(archive)
    said = io.StringIO()
    recipe.built(folder(tmp_path, KERNEL, my_config=""), cache, Progress(said))
    assert said.getvalue() == ""


def test_the_users_own_make_settings_change_nothing(
    archive: Archive, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAKEFLAGS", "--just-print")
    monkeypatch.setenv("KBUILD_BUILD_USER", "somebody")
    source(archive)
    made = recipe.built(folder(tmp_path, KERNEL, my_config=""), cache)
    assert Path(made).read_text() == "fork flat pykvm\n"


def test_a_build_that_fails_shows_the_last_lines_and_where_the_log_is(
    archive: Archive, cache: Cache, tmp_path: Path
) -> None:
    source(archive, MAKEFILE + "\techo this is why; exit 3\n")
    with pytest.raises(HostError, match="this is why") as error:
        recipe.built(folder(tmp_path, KERNEL, my_config=""), cache)
    log = os.path.join(cache.folder, "linux-source-9.9.log")
    assert log in error.value.remedy
    assert "this is why" in Path(log).read_text()
    assert work_left(cache) == []


def test_a_line_of_the_configuration_that_the_kernel_does_not_take_is_an_error(
    archive: Archive, cache: Cache, tmp_path: Path
) -> None:
    source(archive)
    part = folder(tmp_path, KERNEL, my_config="# words\nCONFIG_A=y\nCONFIG_WITHOUT=y\n")
    with pytest.raises(InputError, match=r"my.config:3: this kernel doesn't take CONFIG_WITHOUT=y"):
        recipe.built(part, cache)


def test_a_damaged_source_is_told(archive: Archive, cache: Cache, tmp_path: Path) -> None:
    archive.add("linux-source-9.9", "9.9.1-1", {"usr/src/linux-source-9.9.tar.xz": b"no xz at all" * 1000})
    with pytest.raises(HostError, match="is damaged"):
        recipe.built(folder(tmp_path, KERNEL, my_config=""), cache)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_ends_its_compilers_and_leaves_nothing_half(
    archive: Archive, cache: Cache, tmp_path: Path, how: signal.Signals
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    # As a compiler does: it runs for long and says nothing.
    source(archive, MAKEFILE + f"\texec 3> {fifo}; echo compiling >&3; exec sleep 1000\n")
    part = folder(tmp_path, KERNEL, my_config="")
    code = f"""
        from pykvm.cache import Cache
        from pykvm.guests import recipe
        recipe.built({part!r}, Cache({cache.folder!r}))
    """
    build = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stderr=subprocess.DEVNULL)
    with reader_of(fifo) as compiler:
        assert compiler.readline() == "compiling\n"
        build.send_signal(how)
        build.wait()
        assert compiler.read() == ""  # it has ended
    assert cache.parts(recipe.key(part)) is None
    if how == signal.SIGINT:
        assert work_left(cache) == []
    source(archive, version="9.9.2-1")
    assert recipe.update(part, cache) == "linux-source-9.9 9.9.2-1"
    assert work_left(cache) == []


def test_missing_tools_are_named_with_the_one_command_that_brings_them(
    archive: Archive, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = KERNEL + '    flexible = "no-such-program"\n    libodd-dev = "/usr/include/no-such-file.h"\n'
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(HostError, match="flexible, libodd-dev must be installed") as error:
        recipe.built(folder(tmp_path, text, my_config=""), cache)
    command = "apt-get install -y --no-install-recommends flexible libodd-dev"
    assert (
        command.replace("apt-get", "apt-get" if os.geteuid() == 0 else "sudo apt-get") in error.value.remedy
    )
    assert error.value.status == 69


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may install")
def test_with_yes_root_runs_the_command(archive: Archive, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HostError, match="the installation ended with status 100"):
        tools.require({"no-such-package": "no-such-program"}, yes=True, progress=Progress())
    assert "Unable to locate package no-such-package" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('kind = "kernel"', 'kind = "cake"', 'kind has another value .* write "kernel" or "initramfs"'),
        ('disk = "1M"', 'disk = "much"', 'write a size such as "700M"'),
        ("lines = 3", "lines = 0", "write a number above 0"),
        ("lines = 3", "", "lacks the key lines"),
        ("lines = 3", "lines = 3\ncolour = 1", "no recipe of this kind has the key colour"),
        ('flat = ["lib"]', "flat = [7]", "write a list of texts"),
        ('make = "make"', "make = 7", "write a table of texts"),
        ('kind = "kernel"', "kind =", "is no TOML: .*line"),
    ],
)
def test_a_wrong_recipe_is_an_error_that_says_where(
    tmp_path: Path, cache: Cache, old: str, new: str, said: str
) -> None:
    part = folder(tmp_path, KERNEL.replace(old, new), my_config="")
    with pytest.raises(InputError, match=said) as error:
        recipe.built(part, cache)
    assert error.value.where == os.path.join(part, "recipe.toml")


def test_device_numbers_are_checked(tmp_path: Path, cache: Cache) -> None:
    with pytest.raises(InputError, match=r"devices\.dev/console has another value"):
        recipe.built(folder(tmp_path, INITRAMFS.replace("[5, 1]", '["c", 1]'), init=""), cache)


def test_a_folder_without_a_recipe_is_an_error(tmp_path: Path, cache: Cache) -> None:
    with pytest.raises(InputError, match="is no folder with a recipe"):
        recipe.built(str(tmp_path), cache)
    with pytest.raises(InputError, match="is no folder with a recipe"):
        recipe.built(str(tmp_path / "nowhere"), cache)


def test_the_shipped_recipes_are_right() -> None:
    for name, maker in (("kernel", linux.Kernel), ("initramfs", initramfs.Initramfs)):
        part = os.path.join(guests.FOLDER, "linux", name)
        read = table.read(os.path.join(part, "recipe.toml"))
        assert read.choice("kind", ("kernel", "initramfs")) == name
        maker(read, part)
        read.done()


def test_shipped_guests_are_found_by_name_alone() -> None:
    assert {"debian", "hello", "linux"} <= set(guests.names())
    linux_folder = guests.find("linux")
    assert linux_folder is not None
    assert os.path.exists(os.path.join(linux_folder, "kernel", "linux.config"))
    for name in ("", ".", "..", "linux/kernel", "../guests/linux", "linux/", "nothing"):
        assert guests.find(name) is None


def test_a_machine_files_recipes_are_found_from_its_own_folder() -> None:
    folder_of_debian = guests.find("debian")
    assert folder_of_debian is not None
    kernel = config.load(os.path.join(folder_of_debian, "machine.yaml")).kernel
    assert kernel is not None
    assert kernel.image == "debian:linux-image-6.12-cloud"
    assert [os.path.normpath(path) for path in kernel.initrd] == [
        f"recipe:{os.path.normpath(guests.FOLDER)}/linux/initramfs"
    ]


def test_what_a_machine_file_says_becomes_paths(
    archive: Archive, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYKVM_CACHE", cache.folder)
    busybox(archive, "1.36-1")
    image = archive.add("linux-image-9.9.1-cloud-amd64", "9.9.1-1", {"boot/vmlinuz-9.9.1": b"the kernel"})
    assert image.exists()
    part = folder(tmp_path, INITRAMFS, init="x")
    machine = tmp_path / "machine.yaml"
    machine.write_text(
        "kernel: {image: 'debian:linux-image-9.9-cloud', initrd: ['recipe:guest/part', plain.cpio]}\n"
    )
    given = config.load(str(machine)).kernel
    assert given is not None
    made = kernels.resolve(given)
    assert Path(made.image).read_bytes() == b"the kernel"
    assert made.initrd == (recipe.built(part, cache), str(tmp_path / "plain.cpio"))


def test_a_plain_path_is_left_as_it_is(tmp_path: Path) -> None:
    given = config.defaults_for(str(tmp_path / "vmlinuz"), []).kernel
    assert given is not None
    assert kernels.resolve(given) == given
