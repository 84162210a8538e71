"""Lines of a post-mortem, one kind each: code, stack, page walks, tables, circles, names from an ELF file."""

from __future__ import annotations

import shutil
import subprocess
from struct import pack

import pytest
from postmortem_doubles import CODE, GDT, STACK, TABLES, gate, guest, with_idt

from pykvm.boot.image import Image
from pykvm.debug import listing, symbols
from pykvm.debug.circles import STEPS, circles, waits_text
from pykvm.debug.subject import Subject
from pykvm.x86.exceptions import DF, UD
from pykvm.x86.paging import PTE_US
from pykvm.x86.registers import CR4_SMAP


def subject(code, mode="long", **registers):
    state, memory = guest(code, mode)
    state["regs"].update(registers)
    return Subject(state, memory)


def test_instructions_before_rip_are_found():
    # nop; mov eax, 0x90909090; xor ecx, ecx; inc eax; dec ebx; ud2
    lines = listing.code(subject("90 b890909090 31c9 ffc0 ffcb 0f0b", rip=CODE + 12))
    assert [line.split(maxsplit=1)[0] for line in lines[:5]] == [
        f"{CODE + 1:#x}:", f"{CODE + 6:#x}:", f"{CODE + 8:#x}:", f"{CODE + 10:#x}:", "=>"
    ]  # fmt: skip
    assert lines[4].startswith(f"=> {CODE + 12:#x}: 0f 0b ")
    assert lines[0].endswith("mov eax, 0x90909090")


def test_code_that_cannot_be_read_is_said():
    assert listing.code(subject("", rip=0x2_0000_0000)) == ["=> 0x200000000: nothing can be read there"]


@pytest.mark.parametrize(
    "call", ["e800000000", "ffd0", "ff10", "ff5008", "ff90 00010000", "ff142500000100", "ff5424 08"]
)
def test_a_return_address_has_a_call_before_it(call):
    code = bytes.fromhex(call)
    found = subject("90" * 8 + call)
    assert listing.is_return_address(found, CODE + 8 + len(code))
    assert not listing.is_return_address(found, CODE + 7)


@pytest.mark.parametrize("other", ["ffe0", "ff20", "ff3500000000", "0f0b"])
def test_what_no_call_is_before_is_no_return_address(other):
    code = bytes.fromhex(other)
    assert not listing.is_return_address(subject("90" * 8 + other), CODE + 8 + len(code))


def test_the_stack_names_what_it_holds():
    state, memory = guest("90909090 e800000000")
    memory.put_u64(STACK, CODE + 9)
    names = symbols.Symbols({CODE: "start"})
    lines = listing.stack(Subject(state, memory), names)
    assert lines[0] == "0x80000: 0000000000100009 start+0x9 (a return address: a call is before it)"
    assert lines[1:] == ["0x80008: 0000000000000000", "0x80078: the same up to here"]


def test_words_of_the_stack_that_differ_are_all_told():
    state, memory = guest("")
    for number in range(listing.STACK_WORDS):
        memory.put_u64(STACK + 8 * number, number // listing.ALIKE)
    lines = listing.stack(Subject(state, memory), None)
    assert len(lines) == listing.STACK_WORDS
    assert lines[-1] == f"{STACK + 8 * (listing.STACK_WORDS - 1):#x}: 0000000000000005"


def test_segment_registers_that_are_the_same_share_a_line():
    state, memory = guest("")
    lines = listing.registers(Subject(state, memory))
    assert any(line.startswith("es ss ds fs gs ") for line in lines), lines


def test_the_stack_of_real_mode_has_words_of_16_bits():
    state, memory = guest("", "real")
    memory.write(0x7000, b"\x34\x12")
    assert listing.stack(Subject(state, memory), None)[0] == "0x7000: 1234"


def test_a_page_walk_shows_each_entry():
    lines = listing.page_walk(subject(""), 0x12_3456)
    assert [line.split()[0] for line in lines[:3]] == ["PML4E", "PDPTE", "PDE"]
    assert lines[-1] == "0x123456 is 0x123456 (page of 0x200000, wx-)"
    assert listing.page_walk(subject(""), 0x1_2345_0000)[-1].startswith(
        "0x123450000 can't be reached: its PDPTE"
    )


def test_smap_hides_no_users_page_from_a_walk():
    state, memory = guest("")
    for place in (TABLES, TABLES + 0x1000, TABLES + 0x2000):
        memory.put_u64(place, memory.u64(place) | PTE_US)
    state["sregs"]["cr4"] |= CR4_SMAP
    assert listing.page_walk(Subject(state, memory), 0x3000)[-1] == "0x3000 is 0x3000 (page of 0x200000, wxu)"


def test_the_idt_and_the_gdt_in_brief():
    state, memory = guest("")
    with_idt(state, memory, {UD: gate(present=0), DF: gate(ist=2)})
    found = Subject(state, memory)
    assert "gates for exceptions: 31 present, 1 not, of 32" in listing.idt(found)
    assert "#DF double fault: 0x10:0x110000 type 0xe ist 2" in listing.idt(found)
    assert listing.gdt(found)[0] == f"base {GDT:#x} limit 0x2f"
    assert listing.gdt(found)[1] == "0x10: 0x00af9b000000ffff 64-bit code, readable, dpl 0"


def test_a_loop_that_changes_nothing_is_endless():
    found = circles(subject("f390 ebfc"))
    assert (found.low, found.high, found.instructions, found.endless) == (CODE, CODE + 2, 2, True)


def test_a_loop_that_counts_is_not_called_endless():
    found = circles(subject("ffc0 ebfc"))  # inc eax; jmp
    assert (found.low, found.high, found.instructions, found.endless) == (CODE, CODE + 2, STEPS, False)


def test_a_loop_that_asks_a_device_is_not_called_endless():
    found = circles(subject("8b042500000004 ebf7"))  # mov eax, [0x4000000]; jmp
    assert found.instructions == 2
    assert found.endless is False


@pytest.mark.parametrize("code", ["e460 ebfc", "0f0b", "f4", "90" * 500])  # in; ud2; hlt; straight ahead
def test_what_leads_away_is_no_circle(code):
    assert circles(subject(code)) is None


@pytest.mark.parametrize(
    ("code", "rflags", "words"),
    [
        ("ebfe", 2, "it runs in a circle of 1 instruction, rip 0x100000 to 0x100000"),
        ("ebfe", 0x202, "with interrupts on"),
        ("e460 ebfc", 2, "it runs, with interrupts off"),
        ("00" * 16, 2, "it has run astray: rip 0x100000 is in memory full of zeros"),
    ],
)
def test_what_a_cpu_does_at_the_end_of_its_time(code, rflags, words):
    assert words in waits_text(subject(code, rflags=rflags))


def test_a_halted_cpu_waits():
    state, memory = guest("f4")
    assert waits_text(Subject({**state, "mp_state": 3}, memory)) == "it waits, halted, with interrupts off"


def elf(bits: int, table: list[tuple[str, int, int, int]]) -> bytes:
    """An ELF file with a symbol table: name, value, type and section of each."""
    strings = b"\0" + b"".join(name.encode() + b"\0" for name, *_ in table)
    entries, at = b"", 1
    for name, value, kind, section in table:
        if bits == 64:
            entries += pack("<IBBHQQ", at, kind, 0, section, value, 0)
        else:
            entries += pack("<IIIBBH", at, value, 0, kind, 0, section)
        at += len(name) + 1
    places = 0x100, 0x100 + len(strings)
    end = places[1] + len(entries)
    if bits == 64:
        head = pack("<4sBBB9xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 2, 62, 1, 0, 0, end, 0, 64, 0, 0, 64, 3, 0)
        rows = [(3, places[0], len(strings), 0), (2, places[1], len(entries), 1)]
        headers = bytes(64) + b"".join(
            pack("<IIQQQQIIQQ", 0, kind, 0, 0, place, size, link, 0, 0, 0) for kind, place, size, link in rows
        )
    else:
        head = pack("<4sBBB9xHHIIIIIHHHHHH", b"\x7fELF", 1, 1, 1, 2, 3, 1, 0, 0, end, 0, 52, 0, 0, 40, 3, 0)
        rows = [(3, places[0], len(strings), 0), (2, places[1], len(entries), 1)]
        headers = bytes(40) + b"".join(
            pack("<IIIIIIIIII", 0, kind, 0, 0, place, size, link, 0, 0, 0) for kind, place, size, link in rows
        )
    return head.ljust(0x100, b"\0") + strings + entries + headers


TABLE = [
    ("start", 0x1000, 0, 1),
    ("main", 0x1040, 2, 1),
    ("label", 0x1040, 0, 1),
    ("early", 0x1080, 0, 1),
    ("late", 0x1080, 2, 1),
    ("data", 0x1050, 1, 1),
    ("abs", 0x1060, 0, 0xFFF1),
]


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(
    ("address", "name"),
    [
        (0x1000, "start"),
        (0x103F, "start+0x3f"),
        (0x1040, "main"),
        (0x1070, "main+0x30"),
        (0x1080, "late"),
        (0xFFF, ""),
        (0x80_0000, ""),
    ],
)
def test_an_address_has_a_name_and_an_offset(bits, address, name):
    assert symbols.read(Image.of(elf(bits, TABLE), "kernel")).name(address) == name


@pytest.mark.parametrize("bits", [32, 64])
def test_a_damaged_elf_file_has_fewer_names_and_raises_nothing(bits):
    whole = elf(bits, TABLE)
    for length in range(0, len(whole), 7):
        symbols.read(Image.of(whole[:length], "kernel"))
    for place in range(len(whole)):
        symbols.read(Image.of(whole[:place] + b"\xff" + whole[place + 1 :], "kernel"))
    assert not symbols.read(Image.of(whole[:64], "kernel"))
    assert not symbols.read(Image.of(b"MZ" + bytes(100), "kernel"))


def test_names_are_those_that_a_linker_wrote(tmp_path):
    if not shutil.which("ld"):
        pytest.skip("ld is not installed")
    source = tmp_path / "k.asm"
    source.write_text("bits 64\nglobal _start\n_start: nop\nhere: hlt\n")
    subprocess.run(["nasm", "-f", "elf64", "-o", tmp_path / "k.o", source], check=True)
    subprocess.run(["ld", "-Ttext=0x100000", "-o", tmp_path / "k", tmp_path / "k.o"], check=True)
    with Image.open(str(tmp_path / "k")) as image:
        found = symbols.read(image)
    assert (found.name(0x10_0000), found.name(0x10_0001)) == ("_start", "here")
