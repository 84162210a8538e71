"""Unpacking a bzImage's payload: every compression of Linux's build, whole, damaged, cut and overgrown."""

from __future__ import annotations

import ctypes
import lzma
import random
import struct
import tracemalloc
import zlib

import pytest
from boot_doubles import COMPRESS, MIB, compress_lz4, with_size

from pykvm.boot import payload
from pykvm.errors import HostError, InputError

# Compresses, but not to nothing: a damaged byte in the middle then matters.
DATA = random.Random(1).randbytes(30_000) + b"the same again " * 5000


@pytest.fixture(params=COMPRESS, name="how")
def any_compression(request):
    return request.param


def test_what_was_packed_comes_out(how):
    packed = COMPRESS[how](DATA)
    assert payload.compression(packed) == how
    assert bytes(payload.unpack(packed, where="kernel")) == DATA


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_payload_is_damaged(how, keep):
    packed = COMPRESS[how](DATA)
    cut = with_size(packed[: max(int(len(packed) * keep), 8)], len(DATA))
    with pytest.raises(InputError, match=rf"^kernel: its {how} payload is damaged: \w"):
        payload.unpack(cut, where="kernel")


def test_a_payload_without_its_last_byte_is_refused(how):
    with pytest.raises(InputError, match=f"its {how} payload"):
        payload.unpack(COMPRESS[how](DATA)[:-1], where="kernel")


@pytest.mark.parametrize("how", ["gzip", "bzip2", "xz"])
def test_a_wrong_byte_is_noticed_by_the_formats_with_a_checksum(how):
    packed = bytearray(COMPRESS[how](DATA))
    packed[len(packed) // 2] ^= 0xFF
    with pytest.raises(InputError, match=f"its {how} payload is damaged"):
        payload.unpack(bytes(packed), where="kernel")


def test_a_payload_that_grows_beyond_its_own_size_is_refused(how):
    packed = COMPRESS[how](DATA)
    lying = packed[:-4] + struct.pack("<I", 1000)
    with pytest.raises(InputError, match=f"its {how} payload is damaged"):
        payload.unpack(lying, where="kernel")


def test_a_payload_that_stays_below_its_own_size_is_refused(how):
    packed = COMPRESS[how](DATA)
    lying = packed[:-4] + struct.pack("<I", len(DATA) + 1)
    with pytest.raises(InputError, match=f"its {how} payload is damaged"):
        payload.unpack(lying, where="kernel")


def test_nothing_beyond_the_limit_is_made(how):
    with pytest.raises(InputError, match="unpacks to 105000 bytes, too many"):
        payload.unpack(COMPRESS[how](DATA), where="kernel", limit=len(DATA) - 1)


def test_a_gigabyte_is_the_limit_of_every_kernel():
    with pytest.raises(InputError, match="too many"):
        payload.unpack(b"\x28\xb5\x2f\xfd" + struct.pack("<I", MIB << 11), where="kernel")


def test_a_payload_that_the_guest_cannot_hold_is_not_unpacked(how):
    packed = COMPRESS[how](bytes(9 * MIB))
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            payload.unpack(packed, where="kernel", memory=8 * MIB)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(caught.value) == (
        f"kernel: its {how} payload unpacks to more than the machine's 8M of memory; "
        "see that it is a kernel, and give the machine more memory"
    )
    assert peak < MIB


@pytest.mark.parametrize("how", ["gzip", "bzip2", "xz", "lzma"])
def test_unpacking_takes_no_more_memory_than_what_comes_out(how):
    packed = COMPRESS[how](bytes(40 * MIB))
    tracemalloc.start()
    try:
        assert len(payload.unpack(packed, where="kernel")) == 40 * MIB
        assert tracemalloc.get_traced_memory()[1] < 60 * MIB
    finally:
        tracemalloc.stop()


def test_lz4_frames_of_several_blocks_unpack():
    data = random.Random(2).randbytes(1000) * 20_000  # 20 MB: three blocks of 8 MiB
    assert bytes(payload.unpack(with_size(compress_lz4(data), len(data)), where="kernel")) == data


def test_an_lz4_block_longer_than_the_payload_is_damage_and_no_read_behind_it():
    frame = struct.pack("<IIB", 0x184C2102, 0xFFFFFFFF, 0)
    with pytest.raises(InputError, match="ends behind the payload"):
        payload.unpack(with_size(frame, 100), where="kernel")


def test_an_lz4_block_that_makes_no_sense_is_told_by_its_place():
    frame = struct.pack("<II", 0x184C2102, 8) + b"\xff" * 8
    with pytest.raises(InputError, match="the block at 0x4 doesn't unpack"):
        payload.unpack(with_size(frame, 100), where="kernel")


def test_an_xz_file_that_asks_for_gigabytes_of_dictionary_is_refused():
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 256 << 20, "mode": lzma.MODE_FAST, "mf": lzma.MF_HC3}]
    data = b"x" * 1000
    small = lzma.compress(data, filters=[{**filters[0], "dict_size": 1 << 20}])
    # The block header holds the dictionary's size as one byte of exponent; its CRC32 follows the header.
    header = bytearray(small[12 : 12 + (small[12] + 1) * 4])
    header[4] = 39  # 3 GiB
    header[-4:] = struct.pack("<I", zlib.crc32(bytes(header[:-4])))
    huge = small[:12] + bytes(header) + small[12 + len(header) :]
    with pytest.raises(InputError, match=r"its xz payload is damaged: Memory usage limit"):
        payload.unpack(with_size(huge, len(data)), where="kernel")


def test_an_unknown_magic_is_no_compression():
    assert payload.compression(b"\x89LZO") is None
    assert payload.compression(b"") is None
    with pytest.raises(InputError, match="compressed in a way that starts 89 4c 5a 4f"):
        payload.unpack(b"\x89LZO" + bytes(100), where="kernel")


@pytest.mark.parametrize(("how", "package"), [("zstd", "libzstd1"), ("lz4", "liblz4-1")])
def test_a_missing_library_is_an_error_that_names_the_package(how, package, monkeypatch):
    packed = COMPRESS[how](DATA)

    def missing(name, *_):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(HostError, match=rf"^kernel: .*lib{how}.so.1; .*apt-get install {package};"):
        payload.unpack(packed, where="kernel")
