"""The ACPI tables: what the manual says of each, and what iasl (ACPICA's compiler) says of all."""

import shutil
import struct
import subprocess

import pytest

from pykvm.boot.acpi import aml
from pykvm.boot.acpi.board import Board
from pykvm.boot.acpi.tables import build
from pykvm.devices import power
from pykvm.devices.pci.bus import interrupt_of
from pykvm.errors import InternalError
from pykvm.memory.layout import HIGH_RAM, TABLES

FULL = Board(
    cpus=2,
    max_cpus=4,
    serials=((0x3F8, 4), (0x2F8, 3), (0x3E8, 4), (0x2E8, 3)),
    pci_hole_high=(8 << 30, 16 << 30),
    mouse=True,
    hpet=True,
)
BOARDS = {
    "one CPU": Board(serials=((0x3F8, 4),)),
    "64 CPUs": Board(cpus=64, max_cpus=64, serials=((0x3F8, 4),)),
    "300 CPUs": Board(cpus=300, max_cpus=300),
    "everything": FULL,
    "next to nothing": Board(pit=False, pvpanic=None),
}


@pytest.fixture(params=BOARDS.values(), ids=BOARDS.keys())
def board(request):
    return request.param


def table(tables, signature):
    """The bytes of the table with this signature."""
    ((address, length),) = [(at, size) for name, at, size in tables.tables if name == signature]
    return tables.image[address - tables.base : address - tables.base + length]


def u(data, offset, size):
    return int.from_bytes(data[offset : offset + size], "little")


# Finding them.


def find_rsdp(memory, base):
    """As acpi_find_root_pointer does: on a 16-byte boundary, with the right sum."""
    for offset in range(0, len(memory) - 20, 16):
        if memory[offset : offset + 8] == b"RSD PTR " and sum(memory[offset : offset + 20]) % 256 == 0:
            return base + offset
    return None


def test_a_scan_of_the_bios_area_finds_the_rsdp(board):
    tables = build(board)
    area = tables.image.ljust(HIGH_RAM - TABLES, b"\0")
    assert find_rsdp(area, TABLES) == tables.rsdp
    rsdp = table(tables, "RSD PTR")
    assert rsdp[15] == 2
    assert u(rsdp, 20, 4) == len(rsdp) == 36
    assert sum(rsdp) % 256 == 0


def test_tables_are_reached_from_the_rsdp_and_sum_to_zero(board):
    tables = build(board)

    def at(address):
        start = address - tables.base
        found = tables.image[start : start + u(tables.image, start + 4, 4)]
        assert found[:4] == b"FACS" or sum(found) % 256 == 0
        return found

    rsdp = table(tables, "RSD PTR")
    rsdt, xsdt = at(u(rsdp, 16, 4)), at(u(rsdp, 24, 8))
    narrow = [u(rsdt, offset, 4) for offset in range(36, len(rsdt), 4)]
    wide = [u(xsdt, offset, 8) for offset in range(36, len(xsdt), 8)]
    assert narrow == wide
    fadt, madt, *others = (at(address) for address in wide)
    assert (fadt[:4], madt[:4]) == (b"FACP", b"APIC")
    assert [other[:4] for other in others] == ([b"HPET"] if board.hpet else [])
    facs, dsdt = at(u(fadt, 36, 4)), at(u(fadt, 40, 4))
    assert (facs[:4], dsdt[:4]) == (b"FACS", b"DSDT")
    assert u(fadt, 36, 4) % 64 == 0


def test_tables_go_where_they_are_told():
    tables = build(FULL, 0x1000, 0x3000)
    assert (tables.base, tables.rsdp) == (0x1000, 0x1000)
    assert all(0x1000 <= address < 0x3000 for _, address, _ in tables.tables)


def test_1024_cpus_fit_and_too_small_a_place_is_an_error():
    build(Board(max_cpus=1024, serials=FULL.serials))
    with pytest.raises(InternalError, match="pass 0xe0800"):
        build(FULL, TABLES, TABLES + 0x800)


def test_more_cpus_than_there_may_be_are_an_error():
    with pytest.raises(InternalError, match="2 CPUs of 1"):
        build(Board(cpus=2))


# The FADT and the hardware agree.


def test_fadt_tells_the_ports_of_the_power_device():
    fadt = table(build(FULL), "FACP")
    assert len(fadt) == 276
    assert u(fadt, 46, 2) == power.SCI_IRQ
    assert (u(fadt, 56, 4), fadt[88]) == (0x600, 4)  # PM1a_EVT_BLK
    assert (u(fadt, 64, 4), fadt[89]) == (0x604, 2)  # PM1a_CNT_BLK
    assert (u(fadt, 76, 4), fadt[91]) == (0x608, 4)  # PM_TMR_BLK
    assert struct.unpack_from("<BBBBQ", fadt, 116) == (1, 8, 0, 1, 0xCF9)  # RESET_REG
    assert fadt[128] == 0x06
    assert fadt[108] == 0x32  # CENTURY, a cell of the RTC
    assert (u(fadt, 48, 4), u(fadt, 80, 4), fadt[92]) == (0, 0, 0)  # no SMI_CMD, no GPE0


def test_fadt_tells_which_of_a_pcs_old_parts_are_there():
    """§5.2.9.3: LEGACY_DEVICES, 8042; and clear VGA Not Present: "it is safe to probe the VGA hardware"."""
    assert u(table(build(FULL), "FACP"), 109, 2) == 0b011


def test_fadt_gives_the_same_blocks_in_both_forms():
    # What Linux calls "32/64X length mismatch" and "32/64X address mismatch".
    fadt = table(build(FULL), "FACP")
    for legacy, length, extended in ((56, 88, 148), (64, 89, 172), (76, 91, 208)):
        space, width, offset, _, address = struct.unpack_from("<BBBBQ", fadt, extended)
        assert (space, width, offset, address) == (1, 8 * fadt[length], 0, u(fadt, legacy, 4))
    assert u(fadt, 140, 8) == u(fadt, 40, 4)  # DSDT


def test_fadt_says_that_the_power_button_is_a_fixed_one_and_hardware_not_reduced():
    flags = u(table(build(FULL), "FACP"), 112, 4)
    assert not flags & 1 << 4
    assert not flags & 1 << 20
    assert flags & 1 << 8  # the PM timer has 32 bits
    assert flags & 1 << 10  # the reset register exists


# The MADT.


def madt_entries(board):
    madt, offset, entries = table(build(board), "APIC"), 44, []
    assert u(madt, 36, 4) == 0xFEE00000
    assert u(madt, 40, 4) == 1  # 8259s are there
    while offset < len(madt):
        entries.append((madt[offset], madt[offset + 2 : offset + madt[offset + 1]]))
        offset += madt[offset + 1]
    assert offset == len(madt)
    return entries


def test_madt_lists_cpus_and_those_that_may_come():
    cpus = [entry for kind, entry in madt_entries(FULL) if kind == 0]
    assert [(entry[0], entry[1], u(entry, 2, 4)) for entry in cpus] == [
        (0, 0, 1),
        (1, 1, 1),
        (2, 2, 2),  # ACPI 6.5 table 5.22: not enabled, online capable
        (3, 3, 2),
    ]


def test_apic_ids_from_255_on_are_x2apic():
    entries = madt_entries(Board(cpus=300, max_cpus=300))
    assert [entry[1] for kind, entry in entries if kind == 0] == list(range(255))
    wide = [struct.unpack("<HIII", entry) for kind, entry in entries if kind == 9]
    assert wide == [(0, cpu, 1, cpu) for cpu in range(255, 300)]
    assert [kind for kind, _ in entries if kind in (4, 10)] == [4, 10]


def test_madt_moves_the_timer_to_gsi_2_and_makes_the_sci_level():
    entries = madt_entries(FULL)
    overrides = [struct.unpack("<BBIH", entry) for kind, entry in entries if kind == 2]
    assert overrides == [(0, 0, 2, 0), (0, 9, 9, 0b1101)]
    assert [struct.unpack("<BBII", entry) for kind, entry in entries if kind == 1] == [(0, 0, 0xFEC00000, 0)]
    assert [struct.unpack("<BHB", entry) for kind, entry in entries if kind == 4] == [(0xFF, 0, 1)]


# AML by the grammar, for what iasl's round trip does not reach.


@pytest.mark.parametrize(
    ("number", "encoded"),
    [
        (0, "00"),
        (1, "01"),
        (2, "0a02"),
        (0xFF, "0aff"),
        (0x100, "0b0001"),
        (0x10000, "0c00000100"),
        (1 << 32, "0e0000000001000000"),
    ],
)
def test_integers_take_their_shortest_form(number, encoded):
    assert aml.value(number).hex() == encoded


@pytest.mark.parametrize(
    ("size", "length"),
    # ACPI 6.5 §20.2.4; the body of a scope is its name and its terms
    [(58, "3f"), (59, "4104"), (4000, "46fa"), (4089, "4fff"), (4090, "810001"), (70000, "87 1711")],
)
def test_lengths_count_themselves(size, length):
    length = bytes.fromhex(length)
    assert aml.scope("ABCD", bytes(size)) == b"\x10" + length + b"ABCD" + bytes(size)


def test_names_are_filled_and_joined():
    assert aml.path("\\_SB") == b"\\_SB_"
    assert aml.path("_SB.PCI0") == b"\x2e_SB_PCI0"
    assert aml.path("A.B.C") == b"\x2f\x03A___B___C___"
    for wrong in ("", "TOOLONG", "A..B"):
        with pytest.raises(InternalError):
            aml.path(wrong)


def test_what_aml_cannot_hold_is_an_error():
    with pytest.raises(InternalError):
        aml.value(1 << 64)
    with pytest.raises(InternalError):
        aml.scope("ABCD", bytes(1 << 28))


# ACPICA's own opinion.


@pytest.fixture
def iasl(tmp_path):
    program = shutil.which("iasl")
    if program is None:
        pytest.skip("iasl is missing: apt-get install acpica-tools")

    def run(*arguments):
        done = subprocess.run(
            [program, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run


@pytest.mark.parametrize("signature", ["DSDT", "FACP", "FACS", "APIC", "RSDT", "XSDT"])
def test_iasl_reads_each_table_and_compiles_it_to_the_same_bytes(iasl, tmp_path, board, signature):
    ours = table(build(board), signature)
    (tmp_path / "ours.dat").write_bytes(ours)
    said = iasl("-d", "ours.dat")
    source = (tmp_path / "ours.dsl").read_text()
    for complaint in ("Warning", "Error", "Invalid", "Unknown"):
        assert complaint not in said
        assert complaint not in source
    assert "0 Errors, 0 Warnings, 0 Remarks" in iasl("-p", "theirs", "ours.dsl")
    theirs = (tmp_path / "theirs.aml").read_bytes()
    body = 36 if signature != "FACS" else 0  # iasl puts its own name into the header
    assert theirs[body:] == ours[body:]


def dsdt_source(iasl, tmp_path, board):
    (tmp_path / "dsdt.dat").write_bytes(table(build(board), "DSDT"))
    iasl("-d", "dsdt.dat")
    return " ".join((tmp_path / "dsdt.dsl").read_text().split())


def test_dsdt_says_what_the_board_has(iasl, tmp_path):
    source = dsdt_source(iasl, tmp_path, FULL)
    for phrase in (
        'Name (_HID, "ACPI0007" /* Processor Device */)',
        'Name (_HID, EisaId ("PNP0A03") /* PCI Bus */)',
        'Name (_HID, EisaId ("PNP0501") /* 16550A-compatible COM Serial Port */)',
        'Name (_HID, "QEMU0001")',
        "IO (Decode16, 0x0505, // Range Minimum 0x0505, // Range Maximum",
        "IO (Decode16, 0x03F8, // Range Minimum 0x03F8, // Range Maximum",
        "0xC0000000, // Range Minimum 0xFEBFFFFF,",
        "0x0000000200000000, // Range Minimum 0x00000003FFFFFFFF,",
    ):
        assert phrase in source
    assert source.count("Name (_STA, Zero)") == 2  # CPUs 2 and 3
    assert [f"Device (COM{n})" in source for n in range(1, 6)] == [True] * 4 + [False]


def test_dsdt_says_nothing_of_what_the_board_lacks(iasl, tmp_path):
    source = dsdt_source(iasl, tmp_path, BOARDS["next to nothing"])
    for absent in ("COM1", "TIMR", "PS2M", "PEVT", "_STA", "QWordMemory"):
        assert absent not in source
    for present in ("RTC", "PS2K", "PCI0"):
        assert f"Device ({present})" in source


def test_every_pci_pin_has_the_route_that_the_bus_uses(iasl, tmp_path):
    source = dsdt_source(iasl, tmp_path, FULL)
    word = {0: "Zero", 1: "One"}
    for device in (0, 1, 31):
        for pin in range(4):
            number = f"0x{device << 16 | 0xFFFF:08X}" if device else "0xFFFF"
            pin_text = word.get(pin, f"0x{pin:02X}")
            assert f"{{ {number}, {pin_text}, Zero, 0x{interrupt_of(device, pin):02X} }}" in source


def test_s5_is_what_the_power_device_takes_for_off(iasl, tmp_path):
    source = dsdt_source(iasl, tmp_path, FULL)
    off = f"0x{power.SLP_TYP_S5:02X}"
    assert f"Name (_S5, Package (0x04) // _S5_: S5 System State {{ {off}, {off}, Zero, Zero }})" in source


# The HPET.


def test_hpet_table_tells_where_it_is_and_what_its_own_register_tells():
    hpet = table(build(FULL), "HPET")
    assert len(hpet) == 56
    assert u(hpet, 36, 4) == 0x8086A201  # the low half of GCAP_ID
    assert struct.unpack_from("<BBBBQ", hpet, 40) == (0, 64, 0, 0, 0xFED00000)
    assert "HPET" not in [name for name, _, _ in build(Board()).tables]
