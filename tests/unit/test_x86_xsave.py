"""FXSAVE, XSAVE and their kin: by the manual's rules, and against the real processor."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from x86_machine import Machine
from x86_native import Processor, cpu_flags

from pykvm.x86.exceptions import GP, NM, PF, UD
from pykvm.x86.execute import Cpu, execute
from pykvm.x86.execute.area import MXCSR_DEFAULT, SSE, X87, XsaveArea
from pykvm.x86.msr import IA32_XSS
from pykvm.x86.registers import CR0_EM, CR0_TS, CR4_OSFXSR, CR4_OSXSAVE

AREA = 0x8000
FXSAVE, FXRSTOR, LDMXCSR, STMXCSR = "0f ae 03", "0f ae 0b", "0f ae 13", "0f ae 1b"
XSAVE, XRSTOR, XSAVEOPT = "0f ae 23", "0f ae 2b", "0f ae 33"
XSAVEC, XSAVES, XRSTORS = "0f c7 23", "0f c7 2b", "0f c7 1b"
COMPACTED = 1 << 63
PKRU = 9


def ready(xcr0: int = 7, mask: int = 0xFFFF_FFFF) -> Machine:
    """[rbx] is the area; component 2 at 576 (256 bytes), 9 at 832 (8 bytes)."""
    machine = Machine("long")
    machine.sregs["cr4"] |= CR4_OSFXSR | CR4_OSXSAVE
    machine.cpu.xcr0 = xcr0
    machine.regs |= {"rbx": AREA, "rax": mask, "rdx": 0}
    machine.memory.write(AREA, b"\xcc" * 512 + bytes(64) + b"\xcc" * 448)
    return machine


def fill(machine: Machine, *numbers: int) -> None:
    """Put something into components."""
    area = machine.cpu.area
    for number in numbers:
        area.set_component(number, bytes((number + 1,)) * area.size(number))


# MXCSR


def test_ldmxcsr_and_stmxcsr():
    machine = ready()
    machine.memory.put_u32(AREA, 0x3F80)
    machine.run(LDMXCSR)
    assert machine.cpu.area.mxcsr == 0x3F80
    assert machine.cpu.changed == {"xsave"}
    machine.run("0f ae 5b 20")  # stmxcsr [rbx + 0x20]
    assert machine.memory.u32(AREA + 0x20) == 0x3F80


def test_reserved_bits_of_mxcsr_are_gp():
    machine = ready()
    machine.memory.put_u32(AREA, 0x1_1F80)
    assert machine.fault(LDMXCSR) == (GP, 0)
    assert machine.cpu.area.mxcsr == MXCSR_DEFAULT


def test_for_kvm_mxcsr_goes_along_with_sse_in_use():
    area = XsaveArea(b"\xee" * 512 + bytes(64))
    area.mxcsr = 0x1FA0
    image = XsaveArea(area.image())
    assert (image.in_use, image.xmm(3), image.mxcsr) == (1 << SSE, 0, 0x1FA0)
    area.mxcsr = MXCSR_DEFAULT
    assert XsaveArea(area.image()).in_use == 0


def test_the_initial_state_is_the_manuals():
    area = XsaveArea.initial()
    assert area.component(X87)[:4] == bytes.fromhex("7f030000")
    assert (area.mxcsr, area.xmm(0), area.in_use) == (0x1F80, 0, 0)


def test_bytes_of_a_component_that_is_not_in_use_say_nothing():
    area = XsaveArea(b"\xee" * 512 + bytes(64) + b"\xee" * 256)
    assert area.xmm(1) == 0
    assert area.component(2) == bytes(256)
    area.set_xmm(1, 5)
    assert (area.xmm(0), area.xmm(1)) == (0, 5)


# FXSAVE


def test_fxsave_leaves_the_bytes_above_the_registers():
    machine = ready()
    machine.memory.write(AREA, b"\xcc" * 512)
    machine.run(FXSAVE)
    assert machine.memory.read(AREA + 416, 96) == b"\xcc" * 96


def test_outside_of_64_bit_mode_there_are_eight_xmm_registers():
    machine = Machine("protected")
    machine.sregs["cr4"] |= CR4_OSFXSR
    machine.regs["rbx"] = AREA
    fill(machine, SSE)
    machine.run(FXSAVE)
    assert machine.memory.read(AREA + 160, 256) == b"\2" * 128 + bytes(128)
    machine.memory.write(AREA + 160, b"\7" * 256)
    machine.run(FXRSTOR)
    assert machine.cpu.area.component(SSE) == b"\7" * 128 + b"\2" * 128


def test_without_osfxsr_xmm_and_mxcsr_stay_out_of_it():
    machine = ready()
    machine.sregs["cr4"] &= ~CR4_OSFXSR
    fill(machine, X87, SSE)
    machine.run(FXSAVE)
    assert machine.memory.read(AREA, 6) == b"\1" * 6
    assert machine.memory.read(AREA + 160, 256) == b"\xcc" * 256
    machine.run(FXRSTOR)  # an MXCSR of all 0xCC would be #GP
    assert machine.cpu.area.component(SSE) == b"\2" * 256


@pytest.mark.parametrize("code", [FXSAVE, FXRSTOR])
def test_fxsave_checks(code: str):
    machine = ready()
    machine.regs["rbx"] = AREA + 8
    assert machine.fault(code) == (GP, 0)
    machine = ready()
    machine.sregs["cr0"] |= CR0_TS
    assert machine.fault(code) == (NM, None)
    machine.sregs["cr0"] |= CR0_EM
    assert machine.fault(code) == (UD, None)


def test_fxrstor_of_a_bad_mxcsr_changes_nothing():
    machine = ready()
    fill(machine, X87, SSE)
    before = bytes(machine.cpu.area.data)
    machine.memory.write(AREA, bytes(24) + b"\xff" * 4 + bytes(484))
    assert machine.fault(FXRSTOR) == (GP, 0)
    assert bytes(machine.cpu.area.data) == before


def test_fxsave_that_faults_in_the_second_page_writes_nothing():
    machine = ready()
    machine.regs["rbx"] = 0x4000_0000 - 256
    assert machine.run(FXSAVE).fault.vector == PF
    assert machine.memory.read(0x4000_0000 - 256, 256) == bytes(256)


# XSAVE, the standard form


def test_xsave_writes_what_mask_and_xcr0_select():
    machine = ready(xcr0=0x207, mask=4 | 1)
    fill(machine, X87, SSE, 2, PKRU)
    machine.memory.put_u64(AREA + 512, 0x203)
    machine.run(XSAVE)
    read = machine.memory.read
    assert read(AREA + 32, 128) == b"\1" * 128
    assert read(AREA + 160, 256) == b"\xcc" * 256  # SSE isn't asked for,
    assert machine.memory.u32(AREA + 24) == MXCSR_DEFAULT  # but AVX brings MXCSR
    assert read(AREA + 576, 256) == b"\3" * 256
    assert read(AREA + 832, 8) == b"\xcc" * 8
    assert machine.memory.u64(AREA + 512) == 0x203 | 5


def test_edx_selects_the_upper_components():
    machine = ready(xcr0=0x2_0000_0007, mask=0)
    machine.cpu.components = {2: (576, 256, False), 33: (832, 8, False)}
    machine.regs["rdx"] = 2
    machine.run(XSAVE)
    assert machine.memory.read(AREA + 832, 8) == bytes(8)
    assert machine.memory.read(AREA + 576, 256) == b"\xcc" * 256


def test_xsave_writes_initial_values_and_clears_their_bit():
    machine = ready(mask=4)
    machine.memory.put_u64(AREA + 512, 7)
    machine.run(XSAVE)
    assert machine.memory.read(AREA + 576, 256) == bytes(256)
    assert machine.memory.u64(AREA + 512) == 3


def test_xsaveopt_leaves_what_is_not_in_use():
    machine = ready()
    fill(machine, SSE)
    machine.memory.put_u64(AREA + 512, 7)
    machine.run(XSAVEOPT)
    assert machine.memory.read(AREA + 576, 256) == b"\xcc" * 256
    assert machine.memory.read(AREA + 160, 256) == b"\2" * 256
    assert machine.memory.u64(AREA + 512) == 2


def test_xrstor_loads_what_is_there_and_resets_the_rest():
    machine = ready(xcr0=0x207)
    fill(machine, X87, SSE, 2, PKRU)
    machine.memory.write(AREA, bytes(576))
    machine.memory.put_u32(AREA + 24, 0x1FA0)
    machine.memory.put_u64(AREA + 512, 0x200)
    machine.memory.put_u64(AREA + 832, 0x5555)
    machine.run(XRSTOR)
    area = machine.cpu.area
    assert area.component(X87) == bytes.fromhex("7f03") + bytes(150)
    assert (area.xmm(0), area.component(2), area.mxcsr) == (0, bytes(256), 0x1FA0)
    assert area.component(PKRU) == (0x5555).to_bytes(8, "little")


def test_xrstor_leaves_what_is_not_asked_for():
    machine = ready(mask=1)
    fill(machine, X87, SSE, 2)
    machine.memory.put_u32(AREA + 24, 0xFFFF_FFFF)  # MXCSR isn't SSE's or AVX's here
    machine.run(XRSTOR)
    assert machine.cpu.area.component(SSE) == b"\2" * 256
    assert machine.cpu.area.component(2) == b"\3" * 256


@pytest.mark.parametrize(
    ("at", "value"),
    [(512, 8), (512, 1 << 63), (520, 1), (528, 1), (24, 0x1_0000)],
)
def test_xrstor_refuses_a_bad_header_or_mxcsr(at: int, value: int):
    machine = ready()
    fill(machine, X87, SSE, 2)
    before = bytes(machine.cpu.area.data)
    machine.memory.write(AREA, bytes(576))
    machine.memory.put_u64(AREA + at, value)
    assert machine.fault(XRSTOR) == (GP, 0)
    assert bytes(machine.cpu.area.data) == before


@pytest.mark.parametrize("code", [XSAVE, XRSTOR, XSAVEOPT, XSAVEC])
def test_xsave_checks(code: str):
    machine = ready()
    machine.regs["rbx"] = AREA + 32
    assert machine.fault(code) == (GP, 0)
    machine.sregs["cr0"] |= CR0_TS
    assert machine.fault(code) == (NM, None)
    machine.sregs["cr4"] &= ~CR4_OSXSAVE
    assert machine.fault(code) == (UD, None)


def test_xsave_that_faults_in_the_second_page_writes_nothing():
    machine = ready()
    machine.regs["rbx"] = 0x4000_0000 - 640
    fill(machine, X87, SSE, 2)
    assert machine.run(XSAVE).fault.vector == PF
    assert machine.memory.read(0x4000_0000 - 640, 640) == bytes(640)


def test_a_component_without_a_known_place_is_not_carried_out():
    machine = ready(xcr0=0xE7)
    assert execute(machine.cpu, machine.memory, bytes.fromhex(XSAVE)) is None


# The compacted form


def test_xsavec_packs_what_is_asked_for_and_writes_what_is_in_use():
    machine = ready(xcr0=0x207, mask=0x206)
    fill(machine, X87, PKRU)
    machine.run(XSAVEC)
    assert machine.memory.u64(AREA + 512) == 0x200
    assert machine.memory.u64(AREA + 520) == COMPACTED | 0x206
    assert machine.memory.read(AREA + 576, 256) == b"\xcc" * 256  # room for AVX, which is not in use
    assert machine.memory.read(AREA + 832, 8) == b"\x0a" * 8
    assert machine.memory.read(AREA, 32) == b"\xcc" * 32


def test_a_component_follows_the_one_before_it():
    machine = ready(xcr0=0x207, mask=0x200)
    fill(machine, PKRU)
    machine.run(XSAVEC)
    assert machine.memory.read(AREA + 576, 8) == b"\x0a" * 8


def test_an_aligned_component_starts_at_a_multiple_of_64():
    machine = ready(xcr0=0x607, mask=0x600)
    machine.cpu.components = {2: (576, 256, False), 9: (832, 8, False), 10: (896, 16, True)}
    machine.cpu.area.data.extend(bytes(80))
    machine.cpu.area.components = machine.cpu.components
    fill(machine, PKRU, 10)
    machine.run(XSAVEC)
    assert machine.memory.read(AREA + 576, 8) == b"\x0a" * 8
    assert machine.memory.read(AREA + 640, 16) == b"\x0b" * 16


def test_mxcsr_that_is_not_default_counts_as_sse_in_the_compacted_form():
    machine = ready()
    machine.cpu.area.mxcsr = 0x3F80
    machine.run(XSAVEC)
    assert machine.memory.u64(AREA + 512) == 2
    assert machine.memory.u32(AREA + 24) == 0x3F80


@pytest.mark.parametrize(("save", "restore"), [(XSAVEC, XRSTOR), (XSAVES, XRSTORS), (XSAVEC, XRSTORS)])
def test_what_is_saved_compacted_comes_back(save: str, restore: str):
    machine = ready(xcr0=0x207)
    fill(machine, X87, SSE, PKRU)
    machine.cpu.area.mxcsr = 0x3F80
    saved = bytes(machine.cpu.area.data)
    machine.run(save)
    fill(machine, X87, SSE, 2, PKRU)
    machine.cpu.area.set_xmm(3, 0x1234)
    machine.cpu.area.mxcsr = 0x1F80
    machine.run(restore)
    area = machine.cpu.area
    again = XsaveArea(saved, area.components)
    assert area.mxcsr == 0x3F80
    assert [area.component(n) for n in (X87, SSE, 2, PKRU)] == [
        again.component(n)[:12] + bytes(4) + again.component(n)[16:20] + bytes(4) + again.component(n)[24:]
        if n == X87
        else again.component(n)
        for n in (X87, SSE, 2, PKRU)
    ]


@pytest.mark.parametrize(
    ("at", "value"),
    [(520, COMPACTED | 8), (512, 4), (528, 1), (560, 1 << 50)],
)
def test_xrstor_refuses_a_bad_compacted_header(at: int, value: int):
    machine = ready()
    machine.memory.put_u64(AREA + 520, COMPACTED | 3)
    machine.memory.put_u64(AREA + at, value)
    assert machine.fault(XRSTOR) == (GP, 0)


def test_xrstors_knows_the_compacted_form_only():
    assert ready().fault(XRSTORS) == (GP, 0)


@pytest.mark.parametrize("code", [XSAVES, XRSTORS])
def test_supervisor_state_is_for_ring_0_and_not_carried_out(code: str):
    machine = ready()
    machine.enter_ring(3)
    assert machine.fault(code) == (GP, 0)
    machine = ready()
    machine.cpu.msrs[IA32_XSS] = 1 << 11
    assert execute(machine.cpu, machine.memory, bytes.fromhex(code)) is None


# Against the real processor

HAVE = cpu_flags()
RBX_AT = 3


@pytest.fixture(scope="module")
def processor() -> Iterator[Processor]:
    made = Processor()
    yield made
    made.close()


def images(seed: int, mask: int) -> Iterator[bytes]:
    """XSAVE areas with random contents that may be loaded; x87 without a pending exception."""
    numbers = random.Random(seed)
    for _ in range(60):
        image = bytearray(numbers.randbytes(832))
        image[0:2] = (0x37F).to_bytes(2, "little")
        image[2:4] = (numbers.getrandbits(16) & 0x4700).to_bytes(2, "little")
        image[5] = 0
        image[6:24] = bytes(18)  # AMD keeps the last instruction and operand only of a pending exception
        image[24:28] = (0x1F80 | numbers.getrandbits(6)).to_bytes(4, "little")
        image[28:32] = (0xFFFF).to_bytes(4, "little")
        for register in range(8):
            image[42 + 16 * register : 48 + 16 * register] = bytes(6)
        image[512:576] = (numbers.getrandbits(3) & mask).to_bytes(8, "little") + bytes(56)
        yield bytes(image)


def run_both(processor: Processor, codes: list[str], image: bytes, mask: int) -> tuple[bytes, bytes]:
    """Load ``image`` by the first instruction, save it by the second 1024 bytes further on; both results."""
    for block in (processor.state, processor.memory):
        block[:] = bytes(4096)
    processor.fx = image[:416].ljust(512, b"\0")
    processor.memory[: len(image)] = image
    processor.memory[1024:2048] = b"\xcc" * 512 + bytes(64) + b"\xcc" * 448
    processor.flags = 2
    processor.set_reg(RBX_AT, processor.memory_address)
    processor.set_reg(0, mask)
    processor.load(b"".join(bytes.fromhex(code) for code in codes))

    machine = ready(xcr0=7, mask=mask)
    machine.memory.write(AREA, processor.memory[:])
    fresh = image[:416].ljust(512, b"\0") + (3).to_bytes(8, "little") + bytes(312)
    machine.cpu = Cpu(machine.regs, machine.sregs, xsave=lambda: fresh, xcr0=7)
    for code in codes:
        assert machine.run(code).fault is None
    processor.run()
    return machine.memory.read(AREA, 2048), processor.memory[:2048]


def without_mxcsr_mask(memory: bytes) -> bytes:
    """Which MXCSR bits there are is the processor's own."""
    return memory[: 1024 + 28] + memory[1024 + 32 :]


@pytest.mark.parametrize("wide", [False, True])
def test_fxrstor_and_fxsave_do_what_the_processor_does(processor: Processor, wide: bool):
    rex = "48" if wide else ""
    for image in images(1, 7):
        mine, theirs = run_both(processor, [f"{rex} 0f ae 0b", f"{rex} 0f ae 83 00 04 00 00"], image, 7)
        assert without_mxcsr_mask(mine) == without_mxcsr_mask(theirs)


def told(memory: bytes, mask: int, compacted: bool) -> list[bytes | int]:
    """What a saved image says. A processor may count as in use what has its initial values, or not."""
    area = XsaveArea(memory[1024:])
    mxcsr = area.mxcsr if (area.in_use & 2 if compacted else mask & 6) else MXCSR_DEFAULT
    return [mxcsr, *(area.component(number) for number in (X87, SSE, 2) if mask >> number & 1)]


@pytest.mark.parametrize(
    ("feature", "save"),
    [("xsave", "0f ae a3"), ("xsaveopt", "0f ae b3"), ("xsavec", "0f c7 a3")],
)
@pytest.mark.parametrize("mask", [1, 2, 3, 4, 6, 7])
def test_xrstor_and_xsave_do_what_the_processor_does(
    processor: Processor, feature: str, save: str, mask: int
):
    if feature not in HAVE or "avx" not in HAVE:
        pytest.skip(f"this processor has no {feature} or no avx")
    for image in images(mask, 7):
        mine, theirs = run_both(processor, ["48 0f ae 2b", f"48 {save} 00 04 00 00"], image, mask)
        assert told(mine, mask, feature == "xsavec") == told(theirs, mask, feature == "xsavec")
