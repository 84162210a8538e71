"""The SMBIOS tables: what DSP0134 says of each, and what dmidecode reads."""

import shutil
import struct
import subprocess

import pytest

from pykvm.boot.smbios import ANCHOR, SIZE, build
from pykvm.errors import InternalError

GIB = 1 << 30
SMALL = ((0, 256 << 20),)
LARGE = ((0, 3 * GIB), (4 * GIB, 4 * GIB + (5 << 40)))


def structures(tables):
    """(type, handle, formatted area after the header, strings) of each, found by the 64-bit entry point."""
    image = tables.image
    at = image.index(b"_SM3_")
    assert at % 16 == 0  # "on a 16-byte boundary"
    assert sum(image[at : at + image[at + 6]]) % 256 == 0
    size, start = struct.unpack_from("<IQ", image, at + 12)
    data = image[start - tables.base : start - tables.base + size]
    found = []
    while data:
        kind, length, handle = struct.unpack_from("<BBH", data)
        end = data.index(b"\0\0", length)
        texts = data[length:end].split(b"\0") if end > length else []
        found.append((kind, handle, data[4:length], [text.decode() for text in texts]))
        data = data[end + 2 :]
    return found


@pytest.mark.parametrize("ranges", [SMALL, LARGE])
@pytest.mark.parametrize("cpus", [1, 64, 300])
def test_both_entry_points_lead_to_the_same_structures(ranges, cpus):
    tables = build(cpus, ranges, "1.2")
    image = tables.image
    assert image.startswith(b"_SM_")
    assert sum(image[: image[5]]) % 256 == 0
    assert image[0x10:0x15] == b"_DMI_"
    assert sum(image[0x10:0x1F]) % 256 == 0
    length, start, count = struct.unpack_from("<HIH", image, 0x16)
    found = structures(tables)
    assert len(found) == count
    assert ANCHOR <= start < start + length <= ANCHOR + SIZE
    assert [handle for _, handle, _, _ in found] == list(range(count))
    assert [kind for kind, *_ in found if kind != 19] == [0, 1, 3, 4, 16, 17, 32, 127]
    # "Required" structures (§6.2, table 3) are there; the formatted areas have their version's lengths.
    lengths = {kind: len(body) + 4 for kind, _, body, _ in found}
    assert lengths == {0: 0x18, 1: 0x1B, 3: 0x16, 4: 0x30, 16: 0x17, 17: 0x28, 19: 0x1F, 32: 0x0B, 127: 4}


def test_memory_is_told_in_full():
    found = structures(build(2, LARGE, "1.2"))
    total = sum(end - start for start, end in LARGE)
    (array,) = [body for kind, _, body, _ in found if kind == 16]
    assert struct.unpack_from("<I", array, 3)[0] == 0x8000_0000  # then the extended field counts
    assert struct.unpack_from("<Q", array, 11)[0] == total
    (device,) = [body for kind, _, body, _ in found if kind == 17]
    assert struct.unpack_from("<H", device, 8)[0] == 0x7FFF
    assert struct.unpack_from("<I", device, 24)[0] == total >> 20
    mapped = [body for kind, _, body, _ in found if kind == 19]
    assert struct.unpack_from("<II", mapped[0]) == (0, 3 * GIB // 1024 - 1)
    assert struct.unpack_from("<IIHBQQ", mapped[1])[4:] == (LARGE[1][0], LARGE[1][1] - 1)


def test_it_says_that_it_is_a_virtual_machine_and_how_many_cpus_it_has():
    found = structures(build(300, SMALL, "1.2"))
    assert found[0][2][0x13 - 4] & 1 << 4
    assert found[1][3] == ["pykvm", "pykvm virtual machine", "1.2"]
    processor = found[3][2]
    assert processor[0x23 - 4] == 0xFF
    assert struct.unpack_from("<H", processor, 0x2A - 4)[0] == 300


def test_what_does_not_fit_is_an_error():
    with pytest.raises(InternalError, match="pass 2048"):
        build(1, SMALL, "x" * SIZE)


def test_dmidecode_reads_it(tmp_path):
    if shutil.which("dmidecode") is None:
        pytest.fail("dmidecode is missing; tests/setup installs it")
    tables = build(2, LARGE, "1.2")
    # Its dump format: the entry point at 0, the structures at 0x20.
    at = tables.image.index(b"_SM3_")
    entry = bytearray(tables.image[at : at + 24])
    _, start = struct.unpack_from("<IQ", entry, 12)
    struct.pack_into("<Q", entry, 16, 0x20)
    entry[5] = 0
    entry[5] = -sum(entry) & 0xFF
    dump = tmp_path / "dump"
    dump.write_bytes(bytes(entry).ljust(0x20, b"\0") + tables.image[start - tables.base :])
    run = subprocess.run(["dmidecode", "--from-dump", dump], capture_output=True, text=True, check=True)
    for line in (
        "Manufacturer: pykvm",
        "Product Name: pykvm virtual machine",
        "Core Count: 2",
        "Maximum Capacity: 5123 GB",
        "Size: 5123 GB",
        "System is a virtual machine",
        "Status: No errors detected",
    ):
        assert line in run.stdout
    assert "OUT OF SPEC" not in run.stdout
    assert "invalid" not in run.stdout.lower()
    assert run.stderr == ""
