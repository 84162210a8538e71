"""ELF kernels: what is loaded where, and each way in which a file can be wrong."""

from __future__ import annotations

import pytest
from boot_doubles import MIB, elf, loaded, place, vmlinux

from pykvm.boot.image import Image
from pykvm.errors import InputError

TEXT = b"\xf4" + b"text" * 1000
HIGH = 0xFFFF_FFFF_8000_0000


def refused(image, **keys):
    with pytest.raises(InputError) as caught, loaded(image, **keys):
        pass
    assert caught.value.where == "kernel"
    return str(caught.value)


@pytest.mark.parametrize(("bits", "mode"), [(64, "long"), (32, "protected")])
def test_a_vmlinux_is_loaded_at_its_physical_addresses_and_entered_at_its_entry(bits, mode):
    with loaded(vmlinux(bits=bits)) as (memory, entry):
        assert memory.read(MIB, len(TEXT)) == TEXT
        assert memory.read(2 * MIB, 2000) == b"data" * 500
        assert memory.read(2 * MIB + 2000, 0x10000) == bytes(0x10000)
        assert (entry.format, entry.mode, entry.address) == ("elf", mode, MIB)
        assert entry.state["regs"]["rip"] == MIB
        assert place(entry, "segment 1 of the kernel").size == 2000 + 0x10000, ".bss counts as taken"


@pytest.mark.parametrize("bits", [64, 32])
def test_rsi_holds_the_address_of_boot_params_with_the_magic_of_a_setup_header(bits):
    with loaded(vmlinux(bits=bits), cmdline="console=ttyS0") as (memory, entry):
        params = entry.state["regs"]["rsi"]
        assert memory.read(params + 0x202, 4) == b"HdrS"
        cmdline = memory.u32(params + 0x228)
        assert memory.read(cmdline, 14) == b"console=ttyS0\0"
        assert memory.u8(params + 0x210) == 0xFF


def test_a_vmlinux_is_known_for_linux_by_its_note():
    with loaded(vmlinux()) as (_, entry):
        assert entry.version == "Linux"
    with loaded(elf([(MIB, TEXT, len(TEXT), HIGH)], MIB)) as (_, entry):
        assert entry.version == ""


def test_a_segment_may_lie_above_4_gib_where_memory_is():
    image = elf([(MIB, TEXT, len(TEXT), 0), (4 << 30, b"high", 0x1000, 0)], MIB)
    with loaded(image, memory=(3 << 30) + MIB) as (memory, _):
        assert memory.read(4 << 30, 4) == b"high"


def test_a_segment_may_touch_its_neighbour():
    image = elf([(MIB, b"a" * 16, 16, 0), (MIB + 16, b"b" * 16, 16, 0)], MIB)
    with loaded(image) as (memory, _):
        assert memory.read(MIB, 32) == b"a" * 16 + b"b" * 16


def test_segments_and_headers_of_other_types_are_left_alone():
    image = elf([(MIB, TEXT, len(TEXT), 0)], MIB, others=[(0x6474E551, b"stack"), (7, b"tls")])
    with loaded(image) as (memory, _):
        assert memory.read(0, 16) == bytes(16)


def test_code_of_64_bits_may_be_entered_in_protected_mode():
    """Kernels that bring their own way into long mode."""
    with loaded(vmlinux(), entry="protected") as (_, entry):
        assert entry.mode == "protected"
        assert entry.state["sregs"]["cr0"] >> 31 == 0


def test_code_of_64_bits_in_a_file_of_32_is_entered_in_long_mode():
    """x32 and kernels that objcopy has put into an ELF32 file."""
    with loaded(elf([(MIB, TEXT, len(TEXT), 0)], MIB, bits=32, machine=62)) as (_, entry):
        assert entry.mode == "long"


def test_an_entry_mode_that_the_code_is_not_for_is_refused():
    assert "holds 32-bit code, which long mode can't run; set kernel.entry to protected" in refused(
        vmlinux(bits=32), entry="long"
    )
    assert "holds 64-bit code, which real mode can't run; set kernel.entry to long" in refused(
        vmlinux(), entry="real"
    )


def test_kernels_for_other_machines_are_told_by_their_name():
    image = elf([(MIB, TEXT, len(TEXT), 0)], MIB, machine=183)
    assert refused(image) == "kernel: is for AArch64 (e_machine 183); pykvm runs x86"
    assert "another machine (e_machine 9999)" in refused(elf([(MIB, TEXT, 9999, 0)], MIB, machine=9999))


def test_a_program_for_an_operating_system_is_no_kernel():
    image = elf([(MIB, TEXT, len(TEXT), 0)], MIB, others=[(3, b"/lib64/ld-linux-x86-64.so.2\0")])
    assert "is a program that runs under an operating system" in refused(image)
    with open("/bin/sh", "rb") as file:
        assert "is a program that runs under an operating system" in refused(file.read())


IDENT = b"\x7fELF\x02\x01\x01" + bytes(9)
ONE = [(MIB, TEXT, len(TEXT), HIGH + MIB)]
WRONG = {
    "object file": (elf(ONE, MIB, kind=1), "is an object file that isn't linked"),
    "core dump": (elf(ONE, MIB, kind=4), "is a core dump"),
    "class": (elf(ONE, MIB, e_ident=b"\x7fELF\x03" + IDENT[5:]), "class 03 is neither 32 nor 64 bits"),
    "big-endian": (elf(ONE, MIB, e_ident=b"\x7fELF\x02\x02" + IDENT[6:]), "for a big-endian machine"),
    "magic only": (b"\x7fELF", "class missing is neither"),
    "no headers": (elf([], MIB), "no program headers"),
    "no segment": (elf([], MIB, others=[(7, b"tls")]), "no segment to load"),
    "empty segment": (elf([(MIB, b"", 0, 0)], MIB), "no segment to load"),
    "header size": (elf(ONE, MIB, phentsize=32), "program headers of 32 bytes, not 56"),
    "headers beyond": (elf(ONE, MIB, phoff=1 << 40), "is truncated: its program headers go to"),
    "headers wrap": (elf(ONE, MIB, phoff=(1 << 64) - 8), "is truncated: its program headers go to"),
    "many headers": (elf(ONE, MIB, phnum=0xFFFF), "is truncated: its program headers go to"),
    "filesz": (elf([(MIB, TEXT, 16, 0)], MIB), "segment 0 has 0xfa1 bytes in 0x10 of memory"),
    "wraps": (elf([((1 << 64) - 16, TEXT, 1 << 20, 0)], MIB), "wraps around"),
    "wraps in 32": (elf([((1 << 32) - 16, TEXT, 1 << 20, 0)], MIB, bits=32), "wraps around"),
    "virtual": (
        elf([(HIGH, TEXT, len(TEXT), HIGH)], HIGH),
        "gives virtual addresses as physical ones: segment 0 at 0xffffffff80000000; link it with AT()",
    ),
    "virtual in 32": (
        elf([(0xC010_0000, TEXT, len(TEXT), 0xC010_0000)], 0xC010_0000, bits=32),
        "gives virtual addresses as physical ones",
    ),
    "device hole": (elf([(0xD000_0000, TEXT, len(TEXT), 0)], 0xD000_0000), "where a PC has its devices"),
    "cut segment": (elf(ONE, MIB)[:-1], "is truncated: segment 0 goes to 0x1019, the file to 0x1018"),
    "entry": (elf(ONE, 2 * MIB), "starts at 0x200000, where none of its segments lies"),
    "virtual entry": (elf(ONE, HIGH + MIB), "starts at 0xffffffff80100000, where none"),
    "entry above 4G": (elf([(4 << 30, TEXT, 9999, 0)], 4 << 30), "starts at 0x100000000, where none"),
    "overlap": (
        elf([(MIB, TEXT, 0x2000, 0), (MIB + 0x1FFF, TEXT, 0x2000, 0)], MIB),
        "segment 0 of the kernel at 0x100000–0x101fff and segment 1 of the kernel at 0x101fff–0x103ffe",
    ),
    "inside": (
        elf([(MIB, TEXT, 0x8000, 0), (MIB + 0x1000, b"x", 1, 0)], MIB),
        "segment 1 of the kernel at 0x101000–0x101000 and segment 0 of the kernel at 0x100000–0x107fff",
    ),
    "boot_params": (elf([(0x90000, TEXT, len(TEXT), 0)], 0x90000), "boot_params"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_told_what_is_wrong_with_it(case):
    image, text = WRONG[case]
    found = refused(image)
    # Of two that overlap, either may be named first.
    assert all(part in found for part in text.split(" and "))


@pytest.mark.parametrize("bits", [64, 32])
def test_every_truncation_is_noticed(bits):
    whole = elf([(MIB, b"code" * 8, 64, 0), (2 * MIB, b"data" * 8, 32, 0)], MIB, bits=bits)
    for size in range(len(whole)):
        with pytest.raises(InputError), loaded(whole[:size]):
            pytest.fail(f"{size} of {len(whole)} bytes were loaded")
    with loaded(whole):
        pass


def test_too_little_memory_is_told_with_what_is_needed_for_all_of_the_kernel():
    text = refused(vmlinux(), memory=MIB)
    assert text == (
        "kernel: segment 1 of the kernel needs memory at 0x200000–0x2107cf, and the machine has 1M; "
        "set memory to 3M or more"
    )
    with loaded(vmlinux(), memory=3 * MIB):
        pass


def test_memory_that_is_needed_above_4_gib_counts_what_the_device_hole_takes():
    image = elf([(MIB, TEXT, len(TEXT), 0), ((4 << 30) + MIB, b"high", 0x1000, 0)], MIB)
    assert "set memory to 3074M or more" in refused(image)
    with loaded(image, memory=3074 * MIB):
        pass


def test_a_file_is_loaded_as_bytes_are(tmp_path):
    path = tmp_path / "any name"
    path.write_bytes(vmlinux())
    with Image.open(str(path)) as image, loaded(image) as (memory, entry):
        assert memory.read(MIB, len(TEXT)) == TEXT
        assert entry.mode == "long"


def test_a_file_that_is_cut_short_while_it_is_loaded_is_an_error(tmp_path):
    path = tmp_path / "vmlinux"
    path.write_bytes(vmlinux())
    with Image.open(str(path)) as image:
        with open(path, "r+b") as file:
            file.truncate(1000)
        with pytest.raises(InputError, match="was cut short while it was read"), loaded(image):
            pass
