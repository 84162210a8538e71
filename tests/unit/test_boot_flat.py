"""Flat binaries: where they go, and in which state the CPU starts them."""

from __future__ import annotations

import pytest
from boot_doubles import MIB, loaded, place

from pykvm.errors import InputError

CODE = bytes(range(1, 200))


def flat(image=CODE, **keys):
    return loaded(image, format="flat", **keys)


def refused(image=CODE, **keys):
    with pytest.raises(InputError) as caught, flat(image, **keys):
        pass
    return str(caught.value)


@pytest.mark.parametrize(
    ("mode", "address"), [("auto", MIB), ("long", MIB), ("protected", MIB), ("real", 0x7C00)]
)
def test_a_flat_binary_starts_at_its_first_byte_at_the_usual_address_of_its_mode(mode, address):
    with flat(entry=mode) as (memory, entry):
        assert memory.read(address, len(CODE)) == CODE
        assert (entry.format, entry.address) == ("flat", address)
        assert entry.mode == ("long" if mode == "auto" else mode)
        sregs = entry.state["sregs"]
        assert sregs["cs"]["base"] + entry.state["regs"]["rip"] == address


def test_load_and_start_are_obeyed():
    with flat(entry="real", load=0x1234, start=0x1240 + 5) as (memory, entry):
        assert memory.read(0x1234, len(CODE)) == CODE
        assert entry.state["sregs"]["cs"]["selector"] == 0x124
        assert entry.state["regs"]["rip"] == 5


def test_real_mode_puts_nothing_else_into_memory():
    with flat(entry="real") as (memory, entry):
        assert {p.name for p in entry.placed} == {"the flat binary", "the stack"}
        memory.fill(0x7C00, len(CODE))
        assert memory.read(0, MIB) == bytes(MIB)


def test_protected_mode_has_its_gdt_in_memory_and_no_page_tables():
    with flat(entry="protected") as (memory, entry):
        gdt = entry.state["sregs"]["gdt"]
        assert memory.read(gdt["base"], gdt["limit"] + 1)[0x10:0x18] == bytes.fromhex("ffff0000009bcf00")
        assert {p.name for p in entry.placed} == {"the flat binary", "the GDT", "the stack"}


def test_long_mode_has_its_page_tables_in_memory():
    with flat() as (memory, entry):
        cr3 = entry.state["sregs"]["cr3"]
        assert memory.u64(cr3) & 1
        assert place(entry, "the page tables").gpa == cr3


@pytest.mark.parametrize("mode", ["real", "protected", "long"])
def test_the_stack_is_memory_that_nobody_else_has(mode):
    with flat(entry=mode) as (_, entry):
        sregs, regs = entry.state["sregs"], entry.state["regs"]
        top = sregs["ss"]["base"] + regs["rsp"]
        stack = place(entry, "the stack")
        assert stack.end == top and stack.size >= 4096


def test_a_machine_of_64_kib_runs_real_mode():
    with flat(entry="real", memory=64 << 10) as (_, entry):
        assert place(entry, "the stack").end == 64 << 10


def test_the_first_512_kib_are_free_for_programs_in_every_mode():
    with flat(bytes(512 << 10), load=0, entry="long") as (_, entry):
        assert place(entry, "the flat binary").size == 512 << 10


def test_no_registers_point_to_boot_params():
    with flat() as (_, entry):
        assert entry.state["regs"]["rsi"] == 0


def test_what_looks_like_a_kernel_is_flat_all_the_same_when_asked():
    with flat(b"\x7fELF" + CODE) as (memory, _):
        assert memory.read(MIB, 4) == b"\x7fELF"


def test_what_cant_be_is_told():
    assert refused(b"") == "kernel: is empty"
    assert (
        refused(start=MIB - 1)
        == "kernel.start: 0xfffff is outside the file, which is loaded at 0x100000–0x1000c6"
    )
    assert refused(start=MIB + len(CODE)).startswith("kernel.start: ")
    assert refused(entry="real", load=MIB).startswith(
        "kernel.start: 0x100000 is beyond the reach of real mode"
    )
    assert refused(load=4 << 30, memory=5 << 30).startswith(
        "kernel.start: 0x100000000 is beyond the reach of long"
    )
    assert "set memory to 65M or more" in refused(load=64 * MIB)
    assert "where a PC has its devices" in refused(load=0xFFFFFF00)
    assert "the flat binary at 0x92000–0x920c6" in refused(load=0x92000)
    assert "overlap" in refused(load=0x92000)
    assert "takes no initrd and no command line" in refused(cmdline="quiet")
    assert "takes no initrd and no command line" in refused(initrds=[b"x"])
