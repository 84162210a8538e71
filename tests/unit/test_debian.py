"""Kernels from Debian packages, by the real apt and dpkg on an archive made for the test."""

from __future__ import annotations

import io
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from apt_archive import Archive, only_source, system_update

from pykvm.boot import debian, running, versions
from pykvm.cache import Cache
from pykvm.errors import HostError, InputError
from pykvm.progress import Progress

pytestmark = pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs Debian's apt")

CLOUD = "linux-image-6.12.117+deb12-cloud-amd64"


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    return only_source(tmp_path, monkeypatch)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(str(tmp_path / "pykvm"))


def kernel(archive: Archive, name: str, version: str, content: bytes | None = None) -> Path:
    release = name.removeprefix("linux-image-").removesuffix("-unsigned")
    return archive.add(
        name,
        version,
        {
            f"boot/config-{release}": b"CONFIG_64BIT=y\n",
            f"boot/System.map-{release}": b"",
            f"boot/vmlinuz-{release}": content or f"{name} {version}".encode(),
        },
        depends="kmod, initramfs-tools | linux-initramfs-tool",
    )


def fetched(name: str, cache: Cache) -> str:
    return Path(debian.kernel(name, cache)).read_text()


def test_a_metapackage_leads_to_the_kernel_it_depends_on(archive: Archive, cache: Cache) -> None:
    kernel(archive, CLOUD, "6.12.117-1")
    archive.add("linux-image-cloud-amd64", "6.12.117-1", depends=f"{CLOUD} (= 6.12.117-1)")
    assert fetched("linux-image-cloud-amd64", cache) == f"{CLOUD} 6.12.117-1"


def test_a_series_and_flavour_lead_to_the_newest_kernel(archive: Archive, cache: Cache) -> None:
    for name, version in [
        ("linux-image-6.1.0-40-cloud-amd64", "6.1.153-1"),
        ("linux-image-6.12.98+deb12-cloud-amd64", "6.12.98-1"),
        (CLOUD + "-unsigned", "6.12.117-1"),
        ("linux-image-6.12.118+deb12-amd64", "6.12.118-1"),
        ("linux-image-6.12.119+deb12-rt-amd64", "6.12.119-1"),
        ("linux-image-6.13.1+deb12-cloud-amd64", "6.13.1-1"),
    ]:
        kernel(archive, name, version)
    archive.add("linux-image-6.12.117+deb12-cloud-amd64-dbg", "6.12.117-1")
    archive.add("linux-image-6.12-cloud-amd64", "6.12.200-1", depends="linux-image-gone-amd64")
    assert fetched("linux-image-6.12-cloud", cache) == f"{CLOUD}-unsigned 6.12.117-1"
    assert fetched("linux-image-6.12", cache) == "linux-image-6.12.118+deb12-amd64 6.12.118-1"


def test_a_kernel_for_i386_comes_from_lists_of_its_own(archive: Archive, cache: Cache) -> None:
    for name, version in [
        ("linux-image-6.1.0-50-686-unsigned", "6.1.176-1"),
        ("linux-image-6.1.0-50-686-pae-unsigned", "6.1.176-1"),
        ("linux-image-6.1.0-51-rt-686-pae", "6.1.177-1"),
        ("linux-image-6.1.0-51-amd64", "6.1.177-1"),
    ]:
        kernel(archive, name, version)
    archive.add("linux-image-686", "6.1.176-1", depends="linux-image-6.1.0-50-686-unsigned (= 6.1.176-1)")
    system_update()
    assert fetched("linux-image-6.1-686-pae", cache) == "linux-image-6.1.0-50-686-pae-unsigned 6.1.176-1"
    assert fetched("linux-image-686", cache) == "linux-image-6.1.0-50-686-unsigned 6.1.176-1"
    assert sorted(name for name in os.listdir(cache.folder) if name.startswith("apt")) == ["apt-i386"]


def test_a_source_that_fails_is_no_harm_where_another_has_the_kernel(
    archive: Archive, cache: Cache, tmp_path: Path
) -> None:
    with open(tmp_path / "etc/sources.list", "a") as sources:
        sources.write(f"deb [trusted=yes] file:{tmp_path}/gone ./\n")
    kernel(archive, CLOUD, "6.12.117-1")
    assert fetched(CLOUD, cache) == f"{CLOUD} 6.12.117-1"
    with pytest.raises(HostError, match=r"apt-get update: .*gone"):
        debian.kernel("linux-image-9.9-cloud", cache)


def test_a_signed_kernel_goes_before_an_unsigned_of_the_same_version(
    archive: Archive,
    cache: Cache,
) -> None:
    kernel(archive, CLOUD + "-unsigned", "6.12.117-1")
    kernel(archive, CLOUD, "6.12.117-1")
    assert fetched("linux-image-6.12-cloud", cache) == f"{CLOUD} 6.12.117-1"


def test_the_configuration_is_kept_beside_the_image(archive: Archive, cache: Cache) -> None:
    kernel(archive, CLOUD, "6.12.117-1")
    debian.kernel(CLOUD, cache)
    about = debian.about(CLOUD, cache)
    assert about is not None
    assert about.startswith(f"{CLOUD} 6.12.117-1 ")


def test_a_kernel_that_was_fetched_once_needs_neither_apt_nor_network(
    archive: Archive,
    cache: Cache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel(archive, CLOUD, "6.12.117-1")
    path = debian.kernel(CLOUD, cache)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert debian.kernel(CLOUD, cache) == path


def test_the_systems_lists_serve_if_they_know_the_package(archive: Archive, cache: Cache) -> None:
    kernel(archive, CLOUD, "6.12.117-1")
    system_update()
    debian.kernel(CLOUD, cache)
    assert not os.path.exists(os.path.join(cache.folder, "apt"))


def test_lists_that_name_a_vanished_version_are_fetched_anew(archive: Archive, cache: Cache) -> None:
    kernel(archive, CLOUD, "6.12.117-1")
    system_update()
    archive.drop(CLOUD, "6.12.117-1")
    kernel(archive, CLOUD, "6.12.118-1")
    assert fetched(CLOUD, cache) == f"{CLOUD} 6.12.118-1"


def test_a_newer_kernel_comes_with_update_and_not_before(archive: Archive, cache: Cache) -> None:
    kernel(archive, CLOUD, "6.12.117-1")
    old = debian.kernel(CLOUD, cache)
    kernel(archive, CLOUD, "6.12.118-1")
    assert debian.kernel(CLOUD, cache) == old
    assert debian.update(CLOUD, cache).startswith(f"{CLOUD} 6.12.118-1 ")
    assert fetched(CLOUD, cache) == f"{CLOUD} 6.12.118-1"
    assert not os.path.exists(old)


def test_update_fetches_nothing_where_nothing_is_newer(archive: Archive, cache: Cache) -> None:
    deb = kernel(archive, CLOUD, "6.12.117-1")
    path = debian.kernel(CLOUD, cache)
    deb.unlink()
    debian.update(CLOUD, cache)
    assert debian.kernel(CLOUD, cache) == path


def test_an_unknown_package_is_a_host_error_that_names_it(archive: Archive, cache: Cache) -> None:
    kernel(archive, CLOUD, "6.12.117-1")
    with pytest.raises(HostError, match=r"linux-image-9\.9-cloud: apt knows no such package"):
        debian.kernel("linux-image-9.9-cloud", cache)


def test_a_package_that_was_changed_on_its_way_is_refused(archive: Archive, cache: Cache) -> None:
    deb = kernel(archive, CLOUD, "6.12.117-1")
    system_update()
    content = bytearray(deb.read_bytes())
    content[-2000] ^= 1
    deb.write_bytes(content)
    with pytest.raises(HostError):
        debian.kernel(CLOUD, cache)
    assert cache.parts(debian._key(CLOUD)) is None


def test_a_package_without_a_kernel_is_refused(archive: Archive, cache: Cache) -> None:
    archive.add(CLOUD, "6.12.117-1", {"usr/share/doc/nothing": b"here"})
    with pytest.raises(InputError, match="has no kernel image in it"):
        debian.kernel(CLOUD, cache)


@pytest.mark.parametrize("name", ["bash", "linux-image-../../x", "linux-image-6.12 -o=x", "--help", ""])
def test_a_name_that_is_no_kernels_never_reaches_apt(cache: Cache, name: str) -> None:
    with pytest.raises(InputError, match="no name of a kernel package"):
        debian.kernel(name, cache)


def test_a_host_without_apt_is_told_of_another_way(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(HostError, match="--kernel PATH"):
        debian.kernel(CLOUD, cache)


def test_a_pipe_hears_nothing_of_a_fetch(archive: Archive, cache: Cache) -> None:
    kernel(archive, CLOUD, "6.12.117-1")
    pipe = io.StringIO()
    debian.kernel(CLOUD, cache, Progress(pipe))
    assert pipe.getvalue() == ""


VERSIONS = [
    *("1.0", "1.0-1", "1.0-2", "1.0-10", "1.0-1.1", "1.00-1", "01.0-1", "0:1.0-1", "1:0.9-1", "2:1:1-1"),
    *("1.0~rc1-1", "1.0~~-1", "1.0-1~", "1.0+b1-1", "1.0a-1", "1.0.1-1", "a-1", "1-1-1", "1-1"),
    *("6.12.98-1", "6.12.117-1", "6.12.117-1+b1", "6.12.117-1~deb12u1", "6.12.117-1~bpo12+1"),
]


def test_versions_are_ordered_as_dpkg_orders_them() -> None:
    for a in VERSIONS:
        for b in VERSIONS:
            older = subprocess.run(["dpkg", "--compare-versions", a, "lt", b], stderr=subprocess.DEVNULL)
            assert (versions.compare(a, b) < 0) == (older.returncode == 0), (a, b)


def bzimage(release: str) -> bytes:
    image = bytearray(0x1000)
    struct.pack_into("<H", image, 0x20E, 0x600)
    image[0x800 : 0x800 + 64] = f"{release} (builder@host) #1 SMP".encode().ljust(64, b"\0")
    return bytes(image)


@pytest.mark.parametrize("place", ["boot/vmlinuz-6.12.1", "lib/modules/6.12.1/vmlinuz", "vmlinuz"])
def test_the_running_kernels_image_is_found(tmp_path: Path, place: str) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bzimage("6.12.1"))
    assert running.kernel(str(tmp_path), "6.12.1") == str(path)


def test_the_link_to_another_kernel_is_not_the_running_one(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(bzimage("6.12.2"))
    with pytest.raises(HostError, match=r"no image of the running kernel.*--kernel PATH"):
        running.kernel(str(tmp_path), "6.12.1")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_a_running_kernel_that_only_root_may_read_is_told_with_its_remedy(tmp_path: Path) -> None:
    image = tmp_path / "boot/vmlinuz-6.12.1"
    image.parent.mkdir()
    image.write_bytes(bzimage("6.12.1"))
    image.chmod(0o600)
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    pid = os.fork()
    if pid == 0:
        os.setuid(65534)
        try:
            running.kernel(str(tmp_path), "6.12.1")
        except HostError as error:
            os._exit(0 if f"sudo chmod a+r {image}" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
