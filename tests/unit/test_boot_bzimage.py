"""bzImages: unpacked on the host or by themselves, of every protocol, and with a header that lies."""

from __future__ import annotations

import struct

import pytest
from boot_doubles import COMPRESS, MIB, VERSION, bzimage, loaded, patch, place, vmlinux

from pykvm.boot import bzimage as room
from pykvm.boot.image import Image
from pykvm.cache import Cache
from pykvm.errors import InputError

VMLINUX = vmlinux()
PACKED = COMPRESS["gzip"](VMLINUX)
WHOLE = bzimage(PACKED)
TEXT = b"\xf4" + b"text" * 1000
LZO = b"\x89LZO" + bytes(100)
BOOT_PARAMS = 0x90000


def refused(image, **keys):
    with pytest.raises(InputError) as caught, loaded(image, **keys):
        pass
    return str(caught.value)


@pytest.mark.parametrize("how", COMPRESS)
def test_the_vmlinux_inside_is_loaded_and_entered_in_long_mode(how):
    with loaded(bzimage(COMPRESS[how](VMLINUX))) as (memory, entry):
        assert (entry.format, entry.mode, entry.address) == ("bzimage", "long", MIB)
        assert memory.read(MIB, len(TEXT)) == TEXT
        assert entry.state["regs"]["rsi"] == BOOT_PARAMS
        assert entry.version == VERSION.decode()


def test_unpack_gives_the_vmlinux():
    assert bytes(room.unpack(Image.of(WHOLE, "kernel"), 64 * MIB)) == VMLINUX


def test_a_32_bit_kernel_inside_is_entered_in_protected_mode():
    image = bzimage(COMPRESS["gzip"](vmlinux(bits=32)), xloadflags=0)
    with loaded(image) as (_, entry):
        assert (entry.mode, entry.address) == ("protected", MIB)
        assert entry.state["regs"]["rsi"] == BOOT_PARAMS
    assert "holds 32-bit code, which long mode can't run" in refused(image, entry="long")


def test_relocations_behind_the_vmlinux_do_no_harm():
    """Linux packs vmlinux.relocs behind it; at the address it was linked for, none are needed."""
    with loaded(bzimage(COMPRESS["gzip"](VMLINUX + bytes(4000)))) as (memory, _):
        assert memory.read(MIB, len(TEXT)) == TEXT


def test_protected_entry_lets_the_kernel_unpack_itself_at_its_preferred_address():
    with loaded(bzimage(PACKED, pref_address=16 * MIB), entry="protected") as (memory, entry):
        assert (entry.mode, entry.address) == ("protected", 16 * MIB)
        assert memory.read(16 * MIB, 16) == b"\x90" * 16
        assert memory.u32(BOOT_PARAMS + 0x214) == 16 * MIB, "code32_start"
        kernel = place(entry, "the kernel")
        assert (kernel.gpa, kernel.size) == (16 * MIB, 3 * MIB), "init_size is room to unpack in"


def test_a_kernel_that_cant_be_relocated_is_loaded_at_1_mib_and_keeps_room_where_it_will_run():
    image = bzimage(PACKED, relocatable_kernel=0, pref_address=16 * MIB)
    with loaded(image, entry="protected") as (memory, entry):
        assert entry.address == MIB
        assert memory.read(MIB, 16) == b"\x90" * 16
        assert {(p.gpa, p.size) for p in entry.placed if p.name == "the kernel"} == {
            (MIB, len(WHOLE) - 1024),
            (16 * MIB, 3 * MIB),
        }


def test_an_unknown_compression_is_left_to_the_kernels_own_64_bit_entry():
    with loaded(bzimage(LZO, pref_address=16 * MIB)) as (memory, entry):
        assert (entry.mode, entry.address) == ("long", 16 * MIB + 0x200)
        assert memory.u32(BOOT_PARAMS + 0x214) == 16 * MIB, "code32_start"


def test_an_unknown_compression_of_a_32_bit_kernel_is_left_to_its_32_bit_entry():
    with loaded(bzimage(LZO, xloadflags=0)) as (_, entry):
        assert (entry.mode, entry.address) == ("protected", MIB)
    assert "has no 64-bit entry" in refused(bzimage(LZO, xloadflags=0), entry="long")


@pytest.mark.parametrize("version", [0x202, 0x203, 0x204, 0x206, 0x207])
def test_kernels_without_a_payload_field_unpack_themselves(version):
    with loaded(bzimage(PACKED, version=version)) as (memory, entry):
        assert (entry.mode, entry.address) == ("protected", MIB)
        assert memory.read(MIB, 16) == b"\x90" * 16


@pytest.mark.parametrize("version", [0x208, 0x20A, 0x20C, 0x20D, 0x20F, 0x3FF])
def test_kernels_with_a_payload_field_are_unpacked_on_the_host(version):
    with loaded(bzimage(PACKED, version=version)) as (_, entry):
        assert entry.mode == "long"


def test_setup_sects_of_0_means_4():
    image = WHOLE[:1024] + bytes(3 * 512) + WHOLE[1024:]
    with loaded(patch(image, setup_sects=0)) as (memory, _):
        assert memory.read(MIB, len(TEXT)) == TEXT


def test_builds_before_2_08_may_lack_the_end_of_their_last_paragraph():
    image = bzimage(PACKED, version=0x207)
    with loaded(image[:-15]) as (_, entry):
        assert entry.mode == "protected"
    assert "is truncated" in refused(image[:-16])


def test_builds_since_2_08_lack_nothing():
    assert "is truncated" in refused(bzimage(LZO)[:-1])


def test_bytes_behind_the_kernel_do_no_harm():
    """A signed kernel carries its signature there."""
    with loaded(WHOLE + b"signature" * 100) as (_, entry):
        assert entry.mode == "long"


def test_unprintable_bytes_in_the_version_reach_no_terminal():
    image = bytearray(WHOLE)
    image[0x300:0x308] = b"6.1\x1b[2J\xff"
    with loaded(bytes(image)) as (_, entry):
        assert entry.version.startswith("6.1[2J")
        assert entry.version.isprintable()


def test_a_version_pointer_out_of_the_setup_code_gives_no_version():
    with loaded(patch(WHOLE, kernel_version=0xF000)) as (_, entry):
        assert entry.version == ""


LYING = {
    "older protocol": (
        {"version": 0x1FF},
        "speaks boot protocol 1.255 in a header of 123 bytes; pykvm needs 2.00",
    ),
    "old protocol in a short header": (
        {"version": 0x201, "jump_distance": 0x1C},
        "speaks boot protocol 2.01 in a header of 45 bytes; pykvm needs 2.00",
    ),
    "no jump": ({"jump_opcode": 0xE9}, "its setup header is damaged: e9 6a at 0x200"),
    "jump back": ({"jump_distance": 0x80}, "its setup header is damaged: eb 80 at 0x200"),
    "short header": ({"jump_distance": 0x10}, "speaks boot protocol 2.15 in a header of 33 bytes"),
    "no header": ({"jump_distance": 0}, "speaks boot protocol"),
    "setup_sects": ({"setup_sects": 0xFF}, "is truncated: its header speaks of"),
    "syssize": ({"syssize": 0xFFFFFFFF}, "is truncated: its header speaks of 68719477744 bytes"),
    "no syssize": ({"syssize": 0}, "is truncated"),
    "payload_offset": ({"payload_offset": 0xFFFFFFFF}, "is damaged: a payload of"),
    "payload_length": ({"payload_length": 0xFFFFFFFF}, "is damaged: a payload of 4294967295 bytes at 0x2cc"),
    "init_size": ({"init_size": 1000}, "unpacks to"),
}


@pytest.mark.parametrize("case", LYING)
def test_a_header_that_lies_is_told_of_its_lie(case):
    fields, text = LYING[case]
    found = refused(patch(WHOLE, **fields))
    assert found.startswith("kernel: ")
    assert text in found


@pytest.mark.parametrize(
    "fields",
    [
        {"code32_start": 0},
        {"kernel_version": 0x110},  # "(me@here) #1" is no number; and it doesn't say how much memory it needs
    ],
)
def test_what_only_wears_the_header_is_entered_at_its_16_bit_entry(fields):
    image = bzimage(PACKED, payload_offset=0, payload_length=0, init_size=0, **fields)
    with loaded(image) as (_, entry):
        assert (entry.mode, entry.linux) == ("real", False)
    with loaded(image, entry="protected") as (_, entry):
        assert entry.mode == "protected"


def test_the_16_bit_entry():
    """boot.rst: interrupts off, the segment registers are the real-mode code's, SP is the heap's end."""
    with loaded(WHOLE, entry="real", cmdline="quiet", initrds=[b"disk"]) as (memory, entry):
        assert (entry.mode, entry.address) == ("real", 0x80200)
        ip, cs, flags = struct.unpack("<HHH", memory.read(0xFE004, 6))
        assert flags == 2
        assert cs * 16 + ip == 0x80200
        sregs = entry.state["sregs"]
        assert {sregs[name]["selector"] for name in ("ds", "es", "fs", "gs", "ss")} == {0x8000}
        assert {sregs[name]["base"] for name in ("ds", "es", "fs", "gs", "ss")} == {0x80000}
        assert entry.state["regs"]["rsp"] == 0xE000
        assert memory.read(0x80202, 4) == b"HdrS"
        assert memory.u8(0x80210) == 0xFF, "type_of_loader"
        assert memory.u8(0x80211) & 0x80, "CAN_USE_HEAP"
        assert memory.u16(0x80224) == 0xDE00, "heap_end_ptr"
        text = entry.cmdline.encode() + b"\0"
        assert memory.read(memory.u32(0x80228), len(text)) == text
        assert memory.read(memory.u32(0x80218), memory.u32(0x8021C)) == b"disk"
        assert memory.u32(0x80214) == MIB, "code32_start"
        assert memory.read(MIB, 16) == b"\x90" * 16
        assert memory.u16(0x413) == 639, "KiB of memory below the extended BIOS data area"


def test_the_16_bit_entry_has_4_kib_for_the_command_line():
    image = bzimage(PACKED, cmdline_size=0xFFFF)
    text = "x" * 4095
    with loaded(image, entry="real", cmdline=text) as (memory, _):
        assert memory.read(memory.u32(0x80228), 4096) == text.encode() + b"\0"
    assert "4095 are the most at its 16-bit entry" in refused(image, entry="real", cmdline=text + "x")


def test_the_16_bit_entry_has_room_for_64_sectors():
    assert "bytes of real-mode code, and 32768 are the most" in refused(
        patch(WHOLE + bytes(0x8000), setup_sects=64, syssize=16), entry="real"
    )


ZIMAGE = bzimage(PACKED, version=0x203, loadflags=0, code32_start=0x1000)
CODE = 16 * b"\x90"


def test_a_zimage_lies_where_its_setup_code_takes_it_from():
    """boot.rst: a zImage at 0x10000, the real-mode code at 0x90000, its heap up to 0x9800 there."""
    with loaded(ZIMAGE, cmdline="quiet") as (memory, entry):
        assert (entry.mode, entry.address, entry.linux) == ("real", 0x90200, True)
        assert (entry.how, entry.asks) == ("its setup code calls pykvm's BIOS", ("boot protocol 2.03",))
        assert memory.read(0x10000, 16) == CODE
        assert memory.u32(0x90214) == 0x1000, "code32_start is the setup code's own"
        assert (memory.u16(0x90224), entry.state["regs"]["rsp"]) == (0x9600, 0x9800)
        assert memory.u32(0x90228) == 0x99800
        assert memory.read(0x99800, 6) == b"quiet\0"
        assert {entry.state["sregs"][name]["selector"] for name in ("ds", "es", "ss")} == {0x9000}


def test_a_zimage_by_its_32_bit_entry_lies_where_its_setup_code_would_move_it():
    with loaded(ZIMAGE, entry="protected") as (memory, entry):
        assert (entry.mode, entry.address) == ("protected", 0x1000)
        assert memory.read(0x1000, 16) == CODE
        assert memory.u32(BOOT_PARAMS + 0x214) == 0x1000


def test_a_zimage_with_a_payload_is_unpacked_by_pykvm():
    with loaded(bzimage(PACKED, version=0x209, loadflags=0)) as (_, entry):
        assert (entry.mode, entry.address) == ("long", MIB)


def test_a_zimage_of_more_than_512_kib_has_no_place():
    image = bzimage(LZO, version=0x203, loadflags=0) + bytes(0x80000)
    assert "the real-mode code at 0x90000" in refused(image)


@pytest.mark.parametrize("version", [0x200, 0x201])
@pytest.mark.parametrize(("loadflags", "code_at"), [(0, 0x10000), (1, MIB)])
def test_before_2_02_the_command_line_lies_in_the_setup_codes_segment(version, loadflags, code_at):
    """boot.rst: the magic A33F at 0x20, the offset at 0x22, and setup_move_size covers it all."""
    image = bzimage(PACKED, version=version, loadflags=loadflags)
    with loaded(image, cmdline="quiet", initrds=[b"disk"]) as (memory, entry):
        assert (entry.mode, entry.address) == ("real", 0x90200)
        assert memory.read(code_at, 16) == CODE
        assert (memory.u16(0x90020), memory.u16(0x90022)) == (0xA33F, 0x9800)
        assert memory.read(0x99800, 6) == b"quiet\0"
        assert memory.u16(0x90212) == 0x9800 + 6
        assert memory.u8(0x90210) == 0xFF
        assert bool(memory.u8(0x90211) & 0x80) == (version == 0x201), "CAN_USE_HEAP came with 2.01"
        assert memory.read(memory.u32(0x90218), memory.u32(0x9021C)) == b"disk"
    told = refused(image, entry="protected")
    assert "whose only entry is that of the 16-bit setup code; set kernel.entry to real" in told
    assert "255" in refused(image, cmdline="x" * 256)


def test_a_header_without_linuxs_name_and_memory_is_entered_at_its_setup_code():
    """GRUB's lnxboot.img: protocol 2.03, no version text, code32_start as Linux has it."""
    with loaded(bzimage(PACKED, version=0x203, kernel_version=0)) as (_, entry):
        assert (entry.mode, entry.linux) == ("real", False)


@pytest.mark.parametrize("pref", [0xC000_0000, 1 << 63, (1 << 64) - 1, 0x90000])
def test_a_preferred_address_where_no_room_is_is_refused(pref):
    assert refused(bzimage(LZO, pref_address=pref)).startswith("kernel: ")


def test_a_preferred_address_beyond_4_gib_is_refused_even_where_memory_is():
    image = bzimage(LZO, pref_address=4 << 30)
    assert "wants to be loaded at 0x100000000, beyond the 4 GiB" in refused(image, memory=5 << 30)


def test_every_truncation_is_noticed():
    for size in range(len(WHOLE)):
        with pytest.raises(InputError), loaded(WHOLE[:size]):
            pytest.fail(f"{size} of {len(WHOLE)} bytes were loaded")


def test_a_payload_that_is_no_elf_is_refused():
    assert "kernel: is no ELF file: starts 6e 6f 20 6b" in refused(bzimage(COMPRESS["xz"](b"no kernel" * 99)))


def test_too_little_memory_for_a_kernel_that_unpacks_itself_is_told_with_what_it_needs():
    assert refused(bzimage(PACKED, pref_address=16 * MIB), entry="protected", memory=16 * MIB) == (
        "kernel: the kernel needs memory at 0x1000000–0x12fffff, and the machine has 16M; "
        "set memory to 19M or more"
    )


def test_an_unpacked_kernel_is_taken_from_the_cache_the_next_time(tmp_path):
    cache = Cache(str(tmp_path))
    with loaded(WHOLE, cache=cache) as (memory, first):
        before = memory.read(0, 4 * MIB)
    (kept,) = (tmp_path / "data").iterdir()
    assert kept.read_bytes() == VMLINUX
    with loaded(WHOLE, cache=cache) as (memory, second):
        assert memory.read(0, 4 * MIB) == before
        assert second == first


def test_another_kernel_is_not_mistaken_for_the_cached_one(tmp_path):
    cache = Cache(str(tmp_path))
    with loaded(WHOLE, cache=cache):
        pass
    other = bzimage(COMPRESS["gzip"](VMLINUX.replace(b"text", b"TEXT")))
    with loaded(other, cache=cache) as (memory, _):
        assert memory.read(MIB, 5) == b"\xf4TEXT"


def test_a_kernel_boots_where_the_cache_cant_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with loaded(WHOLE, cache=Cache(str(tmp_path / "file" / "cache"))) as (memory, entry):
        assert entry.mode == "long"
        assert memory.read(MIB, len(TEXT)) == TEXT


def test_a_damaged_payload_leaves_nothing_in_the_cache(tmp_path):
    damaged = bytearray(WHOLE)
    offset = 1024 + 0x2CC + len(PACKED) // 2
    struct.pack_into("<I", damaged, offset, 0xDEADBEEF)
    cache = Cache(str(tmp_path / "cache"))
    assert "its gzip payload is damaged" in refused(bytes(damaged), cache=cache)
    assert not (tmp_path / "cache").exists()
