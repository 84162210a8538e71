"""Integer instructions that 64-bit code hasn't, or that no user program can try: by the manual's words."""

from __future__ import annotations

import pytest
from x86_machine import GDT, KERNEL_DATA, READ_ONLY, STACK, USER_DATA, Machine

from pykvm.x86.exceptions import BR, DE, GP, NP, PF, SS, UD
from pykvm.x86.registers import RFLAGS_AF, RFLAGS_CF, RFLAGS_OF, RFLAGS_ZF

PLACE = 0x4_0000


def bcd(number: int) -> int:
    return number // 10 << 4 | number % 10


# Decimal


def test_daa_makes_the_sum_of_two_decimal_numbers_decimal():
    machine = Machine("protected")
    for a in range(100):
        for b in range(100):
            machine.regs |= {"rax": bcd(a), "rbx": bcd(b), "rflags": 2}
            machine.run("00 d8")
            machine.run("27")
            assert machine.regs["rax"] == bcd((a + b) % 100), (a, b)
            assert machine.flag(RFLAGS_CF) == (a + b > 99), (a, b)


def test_das_makes_the_difference_of_two_decimal_numbers_decimal():
    machine = Machine("protected")
    for a in range(100):
        for b in range(100):
            machine.regs |= {"rax": bcd(a), "rbx": bcd(b), "rflags": 2}
            machine.run("28 d8")
            machine.run("2f")
            assert machine.regs["rax"] == bcd((a - b) % 100), (a, b)
            assert machine.flag(RFLAGS_CF) == (a < b), (a, b)


def test_das_keeps_the_borrow_of_its_own_subtraction():
    machine = Machine("protected")
    machine.regs |= {"rax": 2, "rflags": 2 | RFLAGS_AF}
    machine.run("2f")
    assert machine.regs["rax"] == 0xFC
    assert machine.flag(RFLAGS_CF)


@pytest.mark.parametrize(("code", "sign"), [("37", 1), ("3f", -1)])
def test_aaa_and_aas_carry_into_ah(code: str, sign: int):
    machine = Machine("protected")
    for a in range(10):
        for b in range(10):
            machine.regs |= {"rax": 0x500 | a, "rbx": b, "rflags": 2}
            machine.run("00 d8" if sign > 0 else "28 d8")
            machine.run(code)
            total = 50 + a + sign * b
            assert machine.regs["rax"] == total // 10 << 8 | total % 10, (a, b)
            assert machine.flag(RFLAGS_CF) == machine.flag(RFLAGS_AF) == (total // 10 != 5)


def test_aam_and_aad_are_inverse_and_take_any_base():
    machine = Machine("protected")
    for base in (10, 7, 255):
        for number in range(0, min(base * base, 256), 3):
            machine.regs["rax"] = 0xABCD_0000 | number
            machine.run(f"d4 {base:02x}")
            assert machine.regs["rax"] == 0xABCD_0000 | number // base << 8 | number % base
            machine.run(f"d5 {base:02x}")
            assert machine.regs["rax"] == 0xABCD_0000 | number
            assert machine.flag(RFLAGS_ZF) == (number == 0)
    assert machine.fault("d4 00") == (DE, None)


# Forms


def test_40_to_4f_are_inc_and_dec_outside_of_64_bit_mode():
    machine = Machine("protected")
    machine.regs |= {"rbx": 0xFFFF_FFFF, "rflags": 2 | RFLAGS_CF}
    machine.run("43")
    assert machine.regs["rbx"] == 0
    assert machine.flag(RFLAGS_ZF)
    assert machine.flag(RFLAGS_CF)  # as it was
    machine.regs["rbx"] = 0x1_8000
    machine.run("66 4b")
    assert machine.regs["rbx"] == 0x1_7FFF
    assert machine.flag(RFLAGS_OF)


def test_82_is_80_and_nothing_in_64_bit_mode():
    machine = Machine("protected")
    machine.regs["rcx"] = 0xFF
    machine.run("82 c1 01")
    assert machine.regs["rcx"] == 0
    assert Machine("long").fault("82 c1 01") == (UD, None)


@pytest.mark.parametrize("code", ["06", "27", "60", "9a 00 00 00 00 00 00", "ce", "d4 0a", "d6", "ea"])
def test_what_64_bit_mode_took_away_is_ud(code: str):
    assert Machine("long").fault(code + " 00" * 8) == (UD, None)


@pytest.mark.parametrize("code", ["fe d0", "ff f8", "8d c0", "c6 c8 00", "0f ba c0 01", "0f 0b", "0f b2 c0"])
def test_what_the_maps_leave_empty_is_ud(code: str):
    assert Machine("protected").fault(code) == (UD, None)


def test_salc_spreads_the_carry():
    machine = Machine("protected")
    machine.regs |= {"rax": 0x1234, "rflags": 3}
    machine.run("d6")
    assert machine.regs["rax"] == 0x12FF
    machine.regs["rflags"] = 2
    machine.run("d6")
    assert machine.regs["rax"] == 0x1200


@pytest.mark.parametrize(("index", "inside"), [(-3, True), (-4, False), (7, True), (8, False)])
def test_bound_is_br_outside_of_the_signed_pair(index: int, inside: bool):
    machine = Machine("protected")
    machine.memory.write(PLACE, (-3 & 0xFFFF_FFFF).to_bytes(4, "little") + (7).to_bytes(4, "little"))
    machine.regs |= {"rcx": PLACE, "rax": index & 0xFFFF_FFFF}
    if inside:
        assert machine.run("62 01").fault is None
    else:
        assert machine.fault("62 01") == (BR, None)


def test_arpl_raises_the_rpl_of_a_selector():
    machine = Machine("protected")
    machine.regs |= {"rax": 0x11, "rcx": 3}
    machine.run("63 c8")
    assert machine.regs["rax"] == 0x13
    assert machine.flag(RFLAGS_ZF)
    machine.regs["rcx"] = 2
    machine.run("63 c8")
    assert machine.regs["rax"] == 0x13
    assert not machine.flag(RFLAGS_ZF)
    assert Machine("real").fault("63 c8") == (UD, None)


def test_arpl_writes_only_where_it_raises():
    """A selector that is privileged enough may lie where nothing can be written."""
    machine = Machine("protected")
    machine.memory.put_u32(0x4_0000, 0x12)
    machine.regs |= {"rsi": 0x4_0000, "rcx": 2}
    machine.sregs["cs"] |= {"type": 10}  # readable code
    machine.run("2e 63 0e")
    assert not machine.flag(RFLAGS_ZF)
    machine.regs["rcx"] = 3
    assert machine.fault("2e 63 0e") == (GP, 0)


def test_moffs_takes_an_address_of_address_size():
    machine = Machine("long")
    machine.memory.put_u64(PLACE, 0x1122_3344_5566_7788)
    machine.run("48 a1 " + PLACE.to_bytes(8, "little").hex())
    assert machine.regs["rax"] == 0x1122_3344_5566_7788
    machine.run("67 a2 " + (PLACE + 8).to_bytes(4, "little").hex())
    assert machine.memory.u64(PLACE + 8) == 0x88


def test_xlat_adds_al_unsigned_to_ebx_in_ds():
    machine = Machine("protected")
    machine.sregs["ds"] |= {"base": 0x1_0000}
    machine.memory.write(PLACE + 0x80, b"\x5a")
    machine.regs |= {"rbx": PLACE - 0x1_0000, "rax": 0x1280}
    machine.run("d7")
    assert machine.regs["rax"] == 0x125A


def test_a_16_bit_branch_form_of_alu_wraps_its_address():
    machine = Machine("real")
    machine.regs |= {"rbx": 0xFFFF, "rsi": 3, "rax": 0x1111}
    machine.memory.put_u16(machine.sregs["ds"]["base"] + 2, 0x2222)
    machine.run("01 00")  # add [bx+si], ax
    assert machine.memory.u16(machine.sregs["ds"]["base"] + 2) == 0x3333


def test_a_store_that_will_fail_is_a_write_fault_before_anything_is_read():
    machine = Machine("long", cpl=3)
    machine.memory.put_u64(0x5000 + 0x1000 + 8, 0)
    machine.regs["rbx"] = 1 << 30
    fault = machine.run("48 01 03").fault
    assert fault is not None
    assert (fault.vector, fault.error) == (PF, 6)


# LOCK


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("01 03", True),
        ("03 03", False),  # to a register
        ("01 d8", False),
        ("39 03", False),  # CMP stores nothing
        ("83 23 01", True),
        ("ff 03", True),
        ("fe 0b", True),
        ("f7 13", True),
        ("f6 1b", True),
        ("f7 03 01 00 00 00", False),
        ("0f ab 03", True),
        ("0f a3 03", False),
        ("0f ba 3b 01", True),
        ("0f ba 23 01", False),
        ("0f b1 0b", True),
        ("0f c1 0b", True),
        ("0f c1 cb", False),
        ("87 03", True),
        ("89 03", False),
        ("90", False),
        ("50", False),
    ],
)
def test_lock_goes_with_what_the_manual_lists_and_a_memory_destination(code: str, allowed: bool):
    machine = Machine("protected")
    machine.regs["rbx"] = PLACE
    if allowed:
        assert machine.run("f0 " + code).fault is None
    else:
        assert machine.fault("f0 " + code) == (UD, None)


# Far pointers and segment registers


@pytest.mark.parametrize(
    ("code", "name"), [("c4 03", "es"), ("c5 03", "ds"), ("0f b2 03", "ss"), ("0f b5 03", "gs")]
)
def test_lds_and_its_kin_load_both_halves_of_a_far_pointer(code: str, name: str):
    machine = Machine("protected")
    machine.memory.write(PLACE, (0x1234_5678).to_bytes(4, "little") + KERNEL_DATA.to_bytes(2, "little"))
    machine.regs["rbx"] = PLACE
    machine.sregs[name] |= {"selector": 0}
    machine.run(code)
    assert machine.regs["rax"] == 0x1234_5678
    assert machine.sregs[name]["selector"] == KERNEL_DATA


def test_a_bad_selector_of_a_far_pointer_changes_neither_half():
    machine = Machine("protected")
    machine.memory.write(PLACE, (0x1234_5678).to_bytes(4, "little") + READ_ONLY.to_bytes(2, "little"))
    machine.regs["rbx"] = PLACE
    assert machine.fault("0f b2 03") == (GP, READ_ONLY)


def test_pop_ss_holds_interrupts_for_one_instruction_and_pop_ds_does_not():
    machine = Machine("protected")
    machine.push(KERNEL_DATA, KERNEL_DATA, width=4)
    machine.run("17")
    assert machine.cpu.interrupt_shadow
    machine.run("1f")
    assert not machine.cpu.interrupt_shadow
    assert machine.regs["rsp"] == STACK


def test_pop_to_a_segment_register_that_fails_leaves_the_stack():
    machine = Machine("protected")
    machine.memory.put_u64(GDT + USER_DATA, 0x00CF_7300_0000_FFFF)  # not present
    machine.push(USER_DATA, width=4)
    assert machine.fault("07") == (NP, USER_DATA)
    machine.push(USER_DATA | 3, width=4)
    assert machine.fault("17") == (GP, USER_DATA)
    machine.memory.put_u64(GDT + KERNEL_DATA, 0x00CF_1300_0000_FFFF)
    machine.push(KERNEL_DATA, width=4)
    assert machine.fault("17") == (SS, KERNEL_DATA)
