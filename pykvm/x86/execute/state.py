"""Saving and restoring x87, SSE and further state: FXSAVE, XSAVE and their kin, LDMXCSR, STMXCSR.

By the Intel SDM vol. 1 §13 (XSAVE) and §10.5 (FXSAVE). Supervisor state (IA32_XSS) is not carried out.
"""

from __future__ import annotations

from pykvm.x86.exceptions import GP, NM, UD, Fault
from pykvm.x86.execute.area import HEADER_END, LEGACY_SIZE, MXCSR_DEFAULT, SSE, X87
from pykvm.x86.execute.cpu import Unsupported
from pykvm.x86.execute.integers import RAX, RDX
from pykvm.x86.msr import IA32_XSS
from pykvm.x86.paging import READ
from pykvm.x86.registers import CR0_EM, CR0_TS, CR4_OSFXSR, CR4_OSXSAVE, XCR0_AVX, XCR0_SSE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.x86.execute.step import Step

_COMPACTED = 1 << 63
_MXCSR_AT = 24
_ST_AT = 32
_XMM_AT = 160
_USES_MXCSR = XCR0_SSE | XCR0_AVX


def ldmxcsr(step: Step) -> None:
    step.need_sse()
    _set_mxcsr(step, step.load_memory(4))


def stmxcsr(step: Step) -> None:
    step.need_sse()
    step.store_memory(step.cpu.area.mxcsr, 4)


def _set_mxcsr(step: Step, value: int) -> None:
    if value & ~step.cpu.area.mxcsr_mask:
        raise Fault(GP, 0)
    step.cpu.area.mxcsr = value
    step.cpu.changed.add("xsave")


# FXSAVE and FXRSTOR


def _need_fxsave(step: Step) -> None:
    cr0 = step.cpu.sregs["cr0"]
    if cr0 & CR0_EM:
        raise Fault(UD)
    if cr0 & CR0_TS:
        raise Fault(NM)
    # What the segment forbids comes before the alignment: by SS that is #SS(0), as processors have it.
    step.memory.address(step.segment, step.offset(), 1, READ)
    step.need_alignment(16)


def fxsave(step: Step) -> None:
    _need_fxsave(step)
    step.memory.check_write(step.segment, step.offset(), LEGACY_SIZE)
    _store_x87(step)
    if step.cpu.sregs["cr4"] & CR4_OSFXSR:
        _store_mxcsr(step)
        _store_xmm(step)


def fxrstor(step: Step) -> None:
    _need_fxsave(step)
    image = step.memory.read(step.segment, step.offset(), LEGACY_SIZE)
    area = step.cpu.area
    if step.cpu.sregs["cr4"] & CR4_OSFXSR:
        _set_mxcsr(step, int.from_bytes(image[_MXCSR_AT : _MXCSR_AT + 4], "little"))
        _load_xmm(step, image)
    area.set_component(X87, _x87_of(step, image))
    step.cpu.changed.add("xsave")


def _write(step: Step, at: int, data: bytes) -> None:
    step.memory.write(step.segment, step.offset() + at, data)


def _store_x87(step: Step) -> None:
    content = step.cpu.area.component(X87)
    _write(step, 0, _pointers(step, content[:24]))
    _write(step, _ST_AT, content[24:])


def _pointers(step: Step, control: bytes) -> bytes:
    """The last instruction's and operand's addresses have 64 bits with REX.W, else 32 and a selector that
    CPUs of today store as 0 (SDM vol. 1 table 10-2)."""
    if step.size == 8:
        return control
    return control[:12] + bytes(4) + control[16:20] + bytes(4)


def _x87_of(step: Step, image: bytes) -> bytes:
    return _pointers(step, image[:24]) + image[_ST_AT:_XMM_AT]


def _store_mxcsr(step: Step) -> None:
    area = step.cpu.area
    _write(step, _MXCSR_AT, area.mxcsr.to_bytes(4, "little") + area.mxcsr_mask.to_bytes(4, "little"))


def _xmm_size(step: Step) -> int:
    """Outside of 64-bit mode there are eight XMM registers."""
    return 256 if step.cpu.bits == 64 else 128


def _store_xmm(step: Step) -> None:
    _write(step, _XMM_AT, step.cpu.area.component(SSE)[: _xmm_size(step)])


def _load_xmm(step: Step, image: bytes) -> None:
    area, size = step.cpu.area, _xmm_size(step)
    area.set_component(SSE, image[_XMM_AT : _XMM_AT + size] + area.component(SSE)[size:])


# XSAVE and its kin


def _need_xsave(step: Step) -> int:
    """Raise what stands against any of them; gives the components that EDX:EAX and XCR0 select (RFBM)."""
    cpu = step.cpu
    if not cpu.sregs["cr4"] & CR4_OSXSAVE:
        raise Fault(UD)
    if cpu.sregs["cr0"] & CR0_TS:
        raise Fault(NM)
    if any(number not in cpu.components for number in _numbers(cpu.xcr0)):
        raise Unsupported  # a component whose place is not known
    step.need_alignment(64)
    return cpu.xcr0 & (cpu.reg(RDX, 4) << 32 | cpu.reg(RAX, 4))


def _need_no_xss(step: Step) -> None:
    step.need_cpl0()
    if step.cpu.msr(IA32_XSS):
        raise Unsupported


def xsave(step: Step) -> None:
    _save(step, _need_xsave(step), only_in_use=False)


def xsaveopt(step: Step) -> None:
    _save(step, _need_xsave(step), only_in_use=True)


def _save(step: Step, wanted: int, *, only_in_use: bool) -> None:
    """The standard form: components have fixed places; those not asked for, and their bits, stay."""
    area = step.cpu.area
    in_use = area.in_use & wanted
    write = in_use if only_in_use else wanted
    old = step.load_memory(8, LEGACY_SIZE)
    ends = [sum(area.components[number][:2]) for number in _numbers(wanted)]
    step.memory.check_write(step.segment, step.offset(), max([HEADER_END, *ends]))
    _save_legacy(step, write, wanted)
    for number in _numbers(write):
        _write(step, area.components[number][0], area.component(number))
    step.store_memory(old & ~wanted | in_use, 8, LEGACY_SIZE)


def _save_legacy(step: Step, write: int, wanted: int) -> None:
    if write >> X87 & 1:
        _store_x87(step)
    if wanted & _USES_MXCSR:
        _store_mxcsr(step)
    if write >> SSE & 1:
        _store_xmm(step)


def _numbers(mask: int) -> list[int]:
    """The components beyond SSE in ``mask``."""
    return [number for number in range(2, mask.bit_length()) if mask >> number & 1]


def xsavec(step: Step) -> None:
    _save_compacted(step, _need_xsave(step))


def xsaves(step: Step) -> None:
    _need_no_xss(step)
    _save_compacted(step, _need_xsave(step))


def _save_compacted(step: Step, wanted: int) -> None:
    area = step.cpu.area
    in_use = area.in_use & wanted
    if wanted & XCR0_SSE and area.mxcsr != MXCSR_DEFAULT:
        in_use |= XCR0_SSE  # MXCSR counts as SSE's here
    places, end = _compacted_places(step, wanted)
    step.memory.check_write(step.segment, step.offset(), end)
    _save_legacy(step, in_use, in_use & XCR0_SSE)
    for number in _numbers(in_use):
        _write(step, places[number], area.component(number))
    step.store_memory(in_use | (wanted | _COMPACTED) << 64, 16, LEGACY_SIZE)


def _compacted_places(step: Step, wanted: int) -> tuple[dict[int, int], int]:
    """Where each component is in the compacted form, and the end (SDM vol. 1 §13.4.3)."""
    places, end = {}, HEADER_END
    for number in _numbers(wanted):
        _, size, aligned = step.cpu.area.components[number]
        if aligned:
            end = -(-end // 64) * 64
        places[number] = end
        end += size
    return places, end


def xrstor(step: Step) -> None:
    wanted = _need_xsave(step)
    header = step.load_memory(24, LEGACY_SIZE)
    form = header >> 64 & (1 << 64) - 1
    if form & _COMPACTED:
        _restore_compacted(step, wanted, form)
    elif header >> 64 or header & ~step.cpu.xcr0:
        raise Fault(GP, 0)
    else:
        _restore(step, wanted, header, {n: step.cpu.area.components[n][0] for n in _numbers(wanted)})


def xrstors(step: Step) -> None:
    _need_no_xss(step)
    wanted = _need_xsave(step)
    form = step.load_memory(8, LEGACY_SIZE + 8)
    if not form & _COMPACTED:
        raise Fault(GP, 0)
    _restore_compacted(step, wanted, form)


def _restore_compacted(step: Step, wanted: int, form: int) -> None:
    header = step.load_memory(64, LEGACY_SIZE)
    present = header & (1 << 64) - 1
    held = form & ~_COMPACTED
    if held & ~step.cpu.xcr0 or present & ~held or header >> 128:
        raise Fault(GP, 0)
    places, _ = _compacted_places(step, held)
    _restore(step, wanted, present, places, compacted=True)


def _restore(
    step: Step, wanted: int, present: int, places: dict[int, int], *, compacted: bool = False
) -> None:
    """Load the components in ``wanted`` that the image has, and reset those that it hasn't.

    MXCSR is loaded with the standard form whenever SSE or AVX is wanted; of the compacted form it is SSE's.
    """
    area = step.cpu.area
    legacy = step.memory.read(step.segment, step.offset(), LEGACY_SIZE)
    load = wanted & present
    contents = {
        number: step.memory.read(step.segment, step.offset() + places[number], area.size(number))
        for number in _numbers(load)
    }
    if load & XCR0_SSE if compacted else wanted & _USES_MXCSR:
        _set_mxcsr(step, int.from_bytes(legacy[_MXCSR_AT : _MXCSR_AT + 4], "little"))
    elif compacted and wanted & XCR0_SSE:
        _set_mxcsr(step, MXCSR_DEFAULT)
    if load >> X87 & 1:
        area.set_component(X87, _x87_of(step, legacy))
    elif wanted >> X87 & 1:
        area.reset_component(X87)
    if load & XCR0_SSE:
        _load_xmm(step, legacy)
    elif wanted & XCR0_SSE:
        area.reset_component(SSE)
    for number in _numbers(wanted):
        if number in contents:
            area.set_component(number, contents[number])
        else:
            area.reset_component(number)
    step.cpu.changed.add("xsave")


INSTRUCTIONS = (
    ("NP 0F AE /0 m", "fxsave", fxsave, "fxsr"),
    ("NP 0F AE /1 m", "fxrstor", fxrstor, "fxsr"),
    ("NP 0F AE /2 m", "ldmxcsr", ldmxcsr, "sse"),
    ("NP 0F AE /3 m", "stmxcsr", stmxcsr, "sse"),
    ("NP 0F AE /4 m", "xsave", xsave, "xsave"),
    ("NP 0F AE /5 m", "xrstor", xrstor, "xsave"),
    ("NP 0F AE /6 m", "xsaveopt", xsaveopt, "xsaveopt"),
    ("NP 0F C7 /4 m", "xsavec", xsavec, "xsavec"),
    ("NP 0F C7 /5 m", "xsaves", xsaves, "xsaves"),
    ("NP 0F C7 /3 m", "xrstors", xrstors, "xsaves"),
)
