"""The post-mortem from plain values: which fault began it, why, and why no handler was entered."""

from __future__ import annotations

import json
import random

import pytest
from postmortem_doubles import CODE, GDT, MEMORY, STACK, TABLES, UNLIKELY, gate, guest, with_idt
from x86_doubles import SparseMemory

from pykvm.debug import postmortem
from pykvm.debug.autopsy import of_machine
from pykvm.debug.reason import ADVICE
from pykvm.errors import PykvmError
from pykvm.x86 import entry
from pykvm.x86.exceptions import BP, DF, GP, NM, PF, SS, UD
from pykvm.x86.paging import PTE_P, PTE_PS, PTE_RW
from pykvm.x86.registers import GPRS

UD2 = "0f0b"
PDE = TABLES + 0x2000  # of the first 2 MiB


def examined(code, change=None, *, mode="long", kind="triple-fault", **more):
    state, memory = guest(code, mode)
    if change is not None:
        change(state, memory)
    return postmortem.examine(kind, state, memory, **more)


def registers(**values):
    return lambda state, memory: state["regs"].update(values)


def control(**values):
    return lambda state, memory: state["sregs"].update(values)


def read_only(state, memory):
    memory.put_u64(PDE + 8 * 4, 0x80_0000 | PTE_P | PTE_PS)
    state["sregs"]["cr0"] |= 1 << 16  # WP


def without_page_0(state, memory):
    memory.put_u64(PDE, 0)
    memory.write(0x40_0000, memory.read(CODE, 16))
    state["regs"]["rip"] = 0x40_0000


def to_null(state, memory):
    memory.put_u64(PDE, 0)
    state["regs"].update(rip=0x10, rsp=0x50_0000)


def at_an_absent_page(state, memory):
    memory.put_u64(PDE + 8 * 4, 0)
    state["regs"]["rip"] = 0x80_0000


@pytest.mark.parametrize(
    ("code", "change", "vector", "reason", "words"),
    [
        (UD2, None, UD, "ud2", "ud2"),
        ("ffff", None, UD, "opcode", "the bytes ff ff 00 00 00 00 00 00 are no instruction"),
        ("0f58c1", None, UD, "sse", "addps xmm0, xmm1: CR4.OSFXSR is 0"),
        ("0f58c1", control(cr4=0x220, cr0=0x8000_0019), NM, "sse", "addps xmm0, xmm1: CR0.TS set"),
        ("cc", None, GP, "gate", "INT 0x3 was executed; there is no IDT"),
        ("cd30", None, GP, "gate", "INT 0x30 was executed; there is no IDT"),
        ("0f32", registers(rcx=0xDEAD), GP, "protected", "rdmsr of MSR 0xdead"),
        ("31c08ed0", registers(rip=CODE + 2), None, "", "raises nothing by itself"),
        ("488b00", registers(rax=UNLIKELY), GP, "non-canonical", "rax 0x123456789abcdef0 isn't canonical"),
        ("50", registers(rsp=UNLIKELY), SS, "stack", "rsp 0x123456789abcdef0 is no address for a stack"),
        ("8b03", without_page_0, PF, "null-data", "address 0x0, by a null pointer, isn't mapped: its PDE"),
        (
            "8b042500008000",
            lambda _, memory: memory.put_u64(PDE + 8 * 4, 0),
            PF,
            "unmapped",
            "address 0x800000 isn't mapped: its PDE at 0x94020 is not present (0x0)",
        ),
        ("89042500008000", read_only, PF, "protection", "is mapped, but not for this: protection, write"),
        ("90", registers(rip=0x300_0000), UD, "no-code", "leads to 0x3000000, where no memory is"),
        ("90", registers(rip=UNLIKELY), GP, "non-canonical", "rip 0x123456789abcdef0 is not canonical"),
        ("90", at_an_absent_page, PF, "wild-jump", "control went to 0x800000, which isn't mapped: its PDE"),
        ("90", to_null, PF, "null-call", "control went through a null pointer to 0x10: its PDE"),
        ("90", control(cr3=0x40_0000), PF, "cr3", "CR3 0x400000 maps neither the code at 0x100000"),
    ],
)
def test_why_the_first_exception_came(code, change, vector, reason, words):
    found = examined(code, change)
    assert words in found["what"]
    if vector is None:
        assert "fault" not in found
        return
    assert (found["fault"]["vector"], found["fault"]["reason"]) == (vector, reason)
    assert found["triple"] is True
    assert found["chain"][-1]["vector"] == DF
    assert ADVICE[reason][0] in found["likely"]
    assert ADVICE[reason][1] in found["try"]


def descriptor(number, value):
    """A gate for #UD that names GDT entry ``number``, which holds ``value``."""

    def change(state, memory):
        memory.put_u64(GDT + 8 * number, value)
        state["sregs"]["gdt"]["limit"] = 0x7F
        with_idt(state, memory, {UD: gate(selector=8 * number), DF: bytes(16), GP: bytes(16), 11: bytes(16)})

    return change


def bad(gate_of_ud):
    return lambda state, memory: with_idt(
        state, memory, {UD: gate_of_ud, DF: bytes(16), GP: bytes(16), 11: bytes(16)}
    )


def idt_elsewhere(state, memory):
    state["sregs"]["idt"] = {"base": 0x2_0000_0000, "limit": 0xFFF}


def stack_elsewhere(state, memory):
    with_idt(state, memory, {})
    state["regs"]["rsp"] = 0x2_0000_0000


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        (None, "no-idt", "there is no IDT (its limit is 0x0)"),
        (lambda s, m: with_idt(s, m, {}, 4), "idt", "the IDT ends before gate 6 (limit 0x3f, base 0x200000)"),
        (bad(bytes(16)), "idt", "gate 6 of the IDT, at 0x200060, is empty (all zeros)"),
        (bad(gate(present=0)), "idt", "gate 6 of the IDT, at 0x200060, is not present"),
        (bad(gate(type=12)), "idt", "is of type 0xc: no interrupt gate"),
        (bad(gate(selector=0)), "handler-code", "names code selector 0x0: it is null"),
        (bad(gate(selector=0x78)), "handler-code", "selector 0x78: it is beyond the GDT's limit, 0x2f"),
        (bad(gate(selector=4)), "handler-code", "it names the LDT, and there is none"),
        (descriptor(8, 0), "handler-code", "its descriptor at 0x91040 is empty (all zeros)"),
        (descriptor(8, 0x00AF1B000000FFFF), "handler-code", "its segment isn't present"),
        (descriptor(8, 0x00CF93000000FFFF), "handler-code", "it is data, writable, not code"),
        (descriptor(8, 0x00CF9B000000FFFF), "handler-code", "it is 32-bit code, readable, and long mode's"),
        (descriptor(8, 0x00EF9B000000FFFF), "handler-code", "its descriptor has both L and D set"),
        (idt_elsewhere, "tables", "gate 6 of the IDT, at 0x200000060, isn't mapped"),
        (stack_elsewhere, "handler-stack", "its frame can't be pushed, rsp is 0x200000000: #PF page fault"),
    ],
)
def test_why_no_handler_was_entered(change, reason, words):
    found = examined(UD2, change)
    first = found["chain"][0]
    assert (first["vector"], first["undelivered_reason"]) == (UD, reason)
    assert words in first["undelivered"]
    assert found["triple"] is True


def test_a_handler_that_can_be_entered_is_told():
    found = examined(UD2, lambda state, memory: with_idt(state, memory, {}))
    assert [link["undelivered"] for link in found["chain"]] == [""]
    assert found["triple"] is False
    assert "tried on a copy, this is delivered" in "\n".join(postmortem.lines(found))


def test_an_interrupt_without_a_gate_is_told_of_its_error_code():
    found = examined("90", raised=[(GP, 8 * 0x20 + 3, None, CODE)])
    assert found["fault"]["source"] == "recorded"
    assert "interrupt 0x20 came; there is no IDT" in found["what"]


def test_what_a_back_end_recorded_goes_before_what_is_tried():
    found = examined(UD2, raised=[(BP, None, None, 5), (GP, 0, None, CODE)])
    assert found["fault"]["vector"] == GP
    assert found["exceptions_before"] == ["#BP breakpoint, at rip 0x5"]


def test_what_kvm_reports_is_the_last_resort():
    events = {"exception": {"nr": PF, "has_error_code": 1, "error_code": 2, "injected": 0, "pending": 0}}
    found = examined("90", lambda state, memory: state.update(events=events))
    assert (found["fault"]["vector"], found["fault"]["error"]) == (PF, 2)
    assert found["fault"]["source"] == "reported"
    assert examined(UD2, lambda state, memory: state.update(events=events))["fault"]["vector"] == UD


def test_exceptions_that_came_over_and_over_take_one_line():
    row = (PF, 2, 0x1000, CODE)
    found = examined("ebfe", kind="timeout", raised=[row, row, row, (UD, None, None, 7)])
    assert found["exceptions_before"] == [
        "#PF page fault, error code 0x2, address 0x1000, at rip 0x100000 (3 times)",
        "#UD invalid opcode, at rip 0x7",
    ]


def test_registers_after_a_reset_tell_nothing():
    state = entry.real(0, stack=0)
    state["sregs"]["cs"]["selector"] = 0xF000
    state["regs"]["rip"] = 0xFFF0
    found = postmortem.examine("triple-fault", state, SparseMemory(MEMORY))
    assert found["reset_by_host"] is True
    assert "--set backend=translate" in found["try"]
    assert "fault" not in found
    assert "rip" not in found


def test_after_a_reset_the_last_that_is_known_is_told_with_when_it_was():
    state = entry.real(0, stack=0)
    state["sregs"]["cs"]["selector"] = 0xF000
    state["regs"]["rip"] = 0xFFF0
    before, memory = guest(UD2)
    earlier = ({name: before[name] for name in ("regs", "sregs")}, "when it first wrote to port 0x3f8")
    found = postmortem.examine("triple-fault", state, memory, earlier=earlier)
    assert found["reset_by_host"] is True
    assert (found["rip"], found["moment"]) == (CODE, "when it first wrote to port 0x3f8")
    assert "fault" not in found
    text = postmortem.lines(found)
    assert text[0].startswith("what happened: this host's KVM resets the registers")
    assert text[1] == (
        "  the last that is known of it, which follows, is how it was when it first wrote to port 0x3f8"
    )
    assert any("ud2" in line for line in text)


@pytest.mark.parametrize(("kind", "raised"), [("halted", []), ("triple-fault", [(UD, None, None, 0xFFF0)])])
def test_a_guest_that_ran_to_the_reset_vector_is_looked_at(kind, raised):
    state = entry.real(0, stack=0)
    state["sregs"]["cs"]["selector"] = 0xF000
    state["regs"]["rip"] = 0xFFF0
    found = postmortem.examine(kind, state, SparseMemory(MEMORY), raised=raised)
    assert "reset_by_host" not in found
    assert found["rip"] == 0xFFF0


@pytest.mark.parametrize(
    ("sregs", "words"),
    [
        ({"cr4": 0}, "long mode without CR4.PAE"),
        ({"efer": 0x400}, "EFER.LMA isn't EFER.LME and CR0.PG"),
        ({"cr0": 0x8000_0010}, "CR0.PG is set without CR0.PE"),
        ({"cr4": 1 << 30 | 0x20}, "CR4 0x40000020 has reserved bits set"),
        ({}, "none of the usual rules is broken"),
    ],
)
def test_a_failed_entry_names_the_rule(sregs, words):
    assert words in examined("90", control(**sregs), kind="entry")["what"]


def test_an_instruction_that_kvm_gave_up_is_told_with_what_hardware_does():
    assert "CR4.OSFXSR is 0" in examined("0f58c1", kind="internal-error")["what"]
    assert "backend=translate" in examined("90", kind="internal-error")["try"]


def test_a_jump_to_where_no_memory_is_ends_kvm_too():
    found = examined("90", registers(rip=0x300_0000), kind="internal-error")
    assert "rip 0x3000000 leads to 0x3000000, where no memory is" in found["what"]
    assert found["try"] == ADVICE["no-code"][1]


@pytest.mark.parametrize(("times", "told"), [(7, False), (8, True)])
def test_an_exception_that_never_ends_is_told(times, told):
    found = examined("ebfe", kind="timeout", raised=[(PF, 2, 0x1000 * n, CODE) for n in range(times)])
    assert ("one exception comes over and over: #PF page fault" in found.get("likely", "")) is told


@pytest.mark.parametrize(
    ("kind", "words"), [("halted", "HLT with interrupts off"), ("panic", "the kernel ended itself")]
)
def test_other_ends_are_told(kind, words):
    assert words in examined("f4", kind=kind)["what"]


def test_a_null_call_is_traced_to_its_return_address():
    def called(state, memory):
        memory.write(CODE, bytes.fromhex("ffd0 90"))  # call rax
        memory.put_u64(STACK - 8, CODE + 2)
        state["regs"].update(rip=UNLIKELY, rsp=STACK - 8)

    found = examined("", called)
    assert found["called_from"] == CODE + 2
    assert found["calling_code"][-1].split(maxsplit=1)[1].endswith("call rax")
    assert "the return address 0x100002: the call before it led here" in "\n".join(postmortem.lines(found))


def test_the_text_has_every_section_and_the_data_is_json():
    found = examined(UD2, control(cr2=0x1234))
    text = "\n".join(postmortem.lines(found))
    json.dumps(found)
    for heading in (
        "code:",
        "registers:",
        "page walk of rip:",
        "page walk of cr2:",
        "stack:",
        "IDT:",
        "GDT:",
    ):
        assert f"\n{heading}\n" in text
    assert "=> 0x100000: 0f 0b                          ud2" in text
    assert "cr0 80000011 [PE ET PG]" in text
    assert "64-bit code in ring 0, 4-level paging" in text


class NoMemory:
    def read(self, gpa, size):
        raise PykvmError("nothing is there")


@pytest.mark.parametrize("kind", ["triple-fault", "halted", "timeout", "entry", "internal-error", "panic"])
@pytest.mark.parametrize("mode", ["real", "protected", "long"])
def test_nothing_that_can_be_read_is_no_traceback(kind, mode):
    state, _ = guest("90", mode)
    found = postmortem.examine(kind, state, NoMemory())
    text = "\n".join(postmortem.lines(found))
    assert "can't be told" not in text
    assert "could not go on:" not in text
    assert "nothing can be read there" in text


def _odd(source: random.Random, state, memory) -> None:
    """Registers, tables and memory at random, most of them near what is there."""

    def value() -> int:
        place = source.choice((0, CODE, STACK, GDT, TABLES, MEMORY, 1 << 32, 1 << 47, (1 << 64) - 0x1000))
        return (
            place + source.randrange(-64, 64) & (1 << 64) - 1
            if source.random() < 0.8
            else source.getrandbits(64)
        )

    for name in (*GPRS, "rip"):
        state["regs"][name] = value()
    state["regs"]["rflags"] = source.getrandbits(22) | 2
    sregs = state["sregs"]
    for name in ("cr0", "cr4", "efer"):
        sregs[name] ^= source.getrandbits(32) & source.getrandbits(32) & source.getrandbits(32)
    sregs["cr2"], sregs["cr3"] = value(), source.choice((sregs["cr3"], value()))
    for name in ("idt", "gdt"):
        sregs[name] = {"base": value(), "limit": source.choice((0, 7, 0x2F, 0xFFF, 0xFFFF))}
    for name in ("cs", "ss", "ds", "tr", "ldt"):
        field = source.choice(
            ("base", "limit", "type", "present", "dpl", "db", "s", "l", "unusable", "selector")
        )
        bits = {"base": 64, "limit": 32, "type": 4, "dpl": 2, "selector": 16}.get(field, 1)
        sregs[name][field] = source.getrandbits(bits)
    for place in (CODE, GDT, TABLES, PDE):
        memory.write(place + source.randrange(64), source.randbytes(24))


@pytest.mark.parametrize("seed", range(60))
def test_whatever_the_guest_left_is_told(seed):
    source = random.Random(seed)
    state, memory = guest("90", source.choice(("real", "protected", "long")))
    _odd(source, state, memory)
    rows = [(source.randrange(256), source.choice((None, 0x32)), source.choice((None, 5)), 7)]
    for kind in ("triple-fault", "timeout", "entry"):
        for raised in ([], rows):
            found = postmortem.examine(kind, state, memory, raised=raised)
            text = "\n".join(postmortem.lines(found))
            json.dumps(found)
            assert found["what"]
            assert "can't be told" not in text
            assert "could not go on:" not in text


def test_looking_changes_nothing():
    state, memory = guest("8904250000 8000", "long")
    before = (json.dumps(state), {number: bytes(page) for number, page in memory.pages.items()})
    postmortem.examine("triple-fault", state, memory)
    postmortem.examine("timeout", state, memory)
    after = {number: bytes(page) for number, page in memory.pages.items() if any(page)}
    assert json.dumps(state) == before[0]
    assert after == {number: page for number, page in before[1].items() if any(page)}


def test_a_page_with_a_reserved_bit_is_named():
    beyond = 0x80_0000 | 1 << 51 | PTE_P | PTE_RW | PTE_PS  # MAXPHYADDR is 40
    leaf = {"function": 0x8000_0008, "index": 0, "flags": 0, "eax": 40, "ebx": 0, "ecx": 0, "edx": 0}
    found = examined("8b042500008000", lambda _, memory: memory.put_u64(PDE + 8 * 4, beyond), entries=[leaf])
    assert found["fault"]["reason"] == "reserved"
    assert "with a reserved bit set (bit 51)" in found["what"]


class Stopped:
    """A vCPU at rest, as a back end gives it."""

    def __init__(self, state):
        self._state = state

    def state(self):
        if self._state is None:
            raise OSError("bad file descriptor")
        return self._state

    def raised(self):
        return [(UD, None, None, CODE)]

    def earlier(self):
        return None


def test_a_machine_without_a_state_or_a_kernel_file_is_told(tmp_path):
    state, memory = guest(UD2)
    gone = str(tmp_path / "gone")
    found = of_machine("triple-fault", [Stopped(state)], memory, [], gone)
    assert (found["fault"]["vector"], found["symbol"]) == (UD, "")
    lost = of_machine("triple-fault", [Stopped(None)], memory, [], gone)
    assert lost == {"what": "the CPU's state can't be had: OSError: bad file descriptor"}


def test_a_fault_of_the_post_mortem_is_said_in_its_place():
    class Broken:
        def read(self, gpa, size):
            raise RuntimeError("broken")

    state, _ = guest(UD2)
    text = "\n".join(postmortem.lines(postmortem.examine("triple-fault", state, Broken())))
    assert "the post-mortem could not go on: RuntimeError: broken" in text
    assert "stack:\n  can't be told: RuntimeError: broken" in text
    assert "rax 0000000000000000" in text
