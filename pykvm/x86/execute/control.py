"""MOV to and from control and debug registers, LMSW, CLTS, LGDT, LIDT, INVLPG (Intel SDM vol. 2, by name).

What control registers allow is by vol. 3 §2.5, the way in and out of IA-32e mode by §10.8.5.
"""

from __future__ import annotations

from pykvm.x86.exceptions import DB, GP, UD, Fault
from pykvm.x86.execute.cpu import Unsupported
from pykvm.x86.execute.step import MASKS
from pykvm.x86.paging import PTE_P, canonical
from pykvm.x86.registers import (
    CR0_AM,
    CR0_CD,
    CR0_EM,
    CR0_ET,
    CR0_MP,
    CR0_NE,
    CR0_NW,
    CR0_PE,
    CR0_PG,
    CR0_TS,
    CR0_WP,
    CR4_CET,
    CR4_DE,
    CR4_FSGSBASE,
    CR4_LA57,
    CR4_MCE,
    CR4_OSFXSR,
    CR4_OSXMMEXCPT,
    CR4_OSXSAVE,
    CR4_PAE,
    CR4_PCE,
    CR4_PCIDE,
    CR4_PGE,
    CR4_PKE,
    CR4_PKS,
    CR4_PSE,
    CR4_PVI,
    CR4_SMAP,
    CR4_SMEP,
    CR4_SMXE,
    CR4_TSD,
    CR4_UMIP,
    CR4_VME,
    CR4_VMXE,
    EFER_LMA,
    EFER_LME,
)
from pykvm.x86.segments import TSS16_AVAILABLE, TSS16_BUSY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.x86.execute.cpu import Cpu
    from pykvm.x86.execute.step import Step
    from pykvm.x86.execute.table import Action, Rows

_CR0_BITS = CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG
_LMSW = CR0_PE | CR0_MP | CR0_EM | CR0_TS

# The features, any of which brings a bit of CR4.
_CR4_FEATURES = {
    CR4_VME: ("vme",),
    CR4_PVI: ("vme",),
    CR4_TSD: ("tsc",),
    CR4_DE: ("de",),
    CR4_PSE: ("pse",),
    CR4_PAE: ("pae",),
    CR4_MCE: ("mce",),
    CR4_PGE: ("pge",),
    CR4_OSFXSR: ("fxsr",),
    CR4_OSXMMEXCPT: ("sse",),
    CR4_UMIP: ("umip",),
    CR4_LA57: ("la57",),
    CR4_VMXE: ("vmx",),
    CR4_SMXE: ("smx",),
    CR4_FSGSBASE: ("fsgsbase",),
    CR4_PCIDE: ("pcid",),
    CR4_OSXSAVE: ("xsave",),
    CR4_SMEP: ("smep",),
    CR4_SMAP: ("smap",),
    CR4_PKE: ("pku",),
    CR4_CET: ("shstk", "ibt"),
    CR4_PKS: ("pks",),
}
_LOADS_PDPTES = CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP
_PDPTE_RESERVED = 0x1E6
_CR3_KEEP_TLB = 1 << 63  # with CR4.PCIDE: what the new PCID has in the TLB stays good

_DR6_BD = 1 << 13
_DR6_FIXED, _DR6_FREE = 0xFFFF_0FF0, 0xE00F
_DR7_GD = 1 << 13
_DR7_FIXED, _DR7_FREE = 0x400, 0xFFFF_23FF


def _width(step: Step) -> int:
    """These moves have 64 bits in 64-bit mode and 32 elsewhere."""
    return 8 if step.instruction.bits == 64 else 4


def _need(allowed: bool) -> None:
    if not allowed:
        raise Fault(GP, 0)


def mov_from_control(step: Step) -> None:
    cpu, number = step.cpu, step.instruction.reg
    if number not in _SETTERS:
        raise Fault(UD)
    step.need_cpl0()
    value = cpu.cr8 if number == 8 else cpu.sregs[f"cr{number}"]
    cpu.set_reg(step.instruction.rm, _width(step), value)


def mov_to_control(step: Step) -> None:
    number = step.instruction.reg
    if number not in _SETTERS:
        raise Fault(UD)
    step.need_cpl0()
    value = step.cpu.reg(step.instruction.rm, _width(step))
    _SETTERS[number](step, value)


def _set_cr0(step: Step, value: int) -> None:
    cpu = step.cpu
    sregs = cpu.sregs
    old, cr4, efer = sregs["cr0"], sregs["cr4"], sregs["efer"]
    _need(not value >> 32)
    value = value & _CR0_BITS | CR0_ET
    _need(bool(value & CR0_PE) or not value & CR0_PG)
    _need(bool(value & CR0_CD) or not value & CR0_NW)
    _need(bool(value & CR0_WP) or not cr4 & CR4_CET)
    if value & CR0_PG and not old & CR0_PG:
        if efer & EFER_LME:
            tss16 = sregs["tr"]["type"] in (TSS16_AVAILABLE, TSS16_BUSY)
            _need(bool(cr4 & CR4_PAE) and not sregs["cs"]["l"] and not tss16)
            efer |= EFER_LMA
        elif cr4 & CR4_PAE:
            _check_pdptes(step, sregs["cr3"])
    elif old & CR0_PG and not value & CR0_PG:
        _need(cpu.bits != 64 and not cr4 & CR4_PCIDE)
        efer &= ~EFER_LMA
    sregs["cr0"], sregs["efer"] = value, efer
    cpu.changed.add("sregs")
    if value != old:
        cpu.flush(None)


def _set_cr2(step: Step, value: int) -> None:
    step.cpu.sregs["cr2"] = value
    step.cpu.changed.add("sregs")


def _set_cr3(step: Step, value: int) -> None:
    cpu = step.cpu
    cr4 = cpu.sregs["cr4"]
    if cr4 & CR4_PCIDE:
        value &= ~_CR3_KEEP_TLB
    if cpu.long:
        _need(not value >> cpu.physical_bits)
    elif cr4 & CR4_PAE and cpu.sregs["cr0"] & CR0_PG:
        _check_pdptes(step, value)
    cpu.sregs["cr3"] = value
    cpu.changed.add("sregs")
    cpu.flush_non_global()


def _check_pdptes(step: Step, cr3: int) -> None:
    """PAE paging loads its four PDPTEs with CR3: #GP(0) for reserved bits in a present one (§4.4.1)."""
    reserved = _PDPTE_RESERVED | MASKS[8] & ~((1 << step.cpu.physical_bits) - 1)
    table = step.memory.load(cr3 & 0xFFFF_FFE0, 32)
    for at in range(0, 32, 8):
        entry = int.from_bytes(table[at : at + 8], "little")
        _need(not entry & PTE_P or not entry & reserved)


def cr4_bits(cpu: Cpu) -> int:
    """The bits of CR4 that may be set."""
    offered = CR4_PCE
    for bit, features in _CR4_FEATURES.items():
        if any(cpu.has(feature) for feature in features):
            offered |= bit
    return offered


def _set_cr4(step: Step, value: int) -> None:
    cpu = step.cpu
    sregs = cpu.sregs
    old = sregs["cr4"]
    _need(not value & ~cr4_bits(cpu))
    _need(bool(sregs["cr0"] & CR0_WP) or not value & CR4_CET)
    if cpu.long:
        _need(bool(value & CR4_PAE) and not (value ^ old) & CR4_LA57)
    if value & CR4_PCIDE and not old & CR4_PCIDE:
        _need(cpu.long and not sregs["cr3"] & 0xFFF)
    pae_paging = value & CR4_PAE and sregs["cr0"] & CR0_PG and not cpu.long
    if pae_paging and (value ^ old) & _LOADS_PDPTES:
        _check_pdptes(step, sregs["cr3"])
    sregs["cr4"] = value
    cpu.changed.add("sregs")
    if value != old:
        cpu.flush(None)


def _set_cr8(step: Step, value: int) -> None:
    _need(not value >> 4)
    step.cpu.cr8 = value


_SETTERS: dict[int, Callable[[Step, int], None]] = {
    0: _set_cr0,
    2: _set_cr2,
    3: _set_cr3,
    4: _set_cr4,
    8: _set_cr8,
}


def lmsw(step: Step) -> None:
    """The low four bits of CR0; PE can be set and not cleared."""
    step.need_cpl0()
    old = step.cpu.sregs["cr0"]
    _set_cr0(step, old & ~_LMSW | step.load(2) & _LMSW | old & CR0_PE)


def clts(step: Step) -> None:
    step.need_cpl0()
    cpu = step.cpu
    if cpu.sregs["cr0"] & CR0_TS:
        cpu.sregs["cr0"] &= ~CR0_TS
        cpu.changed.add("sregs")
        cpu.flush(None)


# Debug registers


def _debug_register(step: Step) -> int:
    """The number of the register, after the checks that reading and writing share (SDM vol. 3 §17.2)."""
    cpu, number = step.cpu, step.instruction.reg
    if number > 7 or (number in (4, 5) and cpu.sregs["cr4"] & CR4_DE):
        raise Fault(UD)
    step.need_cpl0()
    if cpu.debug is None:
        raise Unsupported
    if cpu.debug[7] & _DR7_GD:
        cpu.debug[6] |= _DR6_BD
        cpu.debug[7] &= ~_DR7_GD
        cpu.changed.add("debug")
        raise Fault(DB)
    return number + 2 if number in (4, 5) else number


def mov_from_debug(step: Step) -> None:
    number = _debug_register(step)
    assert step.cpu.debug is not None
    step.cpu.set_reg(step.instruction.rm, _width(step), step.cpu.debug[number])


def mov_to_debug(step: Step) -> None:
    number = _debug_register(step)
    cpu, value = step.cpu, step.cpu.reg(step.instruction.rm, _width(step))
    assert cpu.debug is not None
    if number > 3:
        _need(not value >> 32)
        free, fixed = (_DR6_FREE, _DR6_FIXED) if number == 6 else (_DR7_FREE, _DR7_FIXED)
        value = value & free | fixed
    cpu.debug[number] = value
    cpu.changed.add("debug")


# Descriptor tables, translations


def _load_table(name: str) -> Action:
    """The limit and the base: 24 bits of it with 16-bit operands, 64 in 64-bit mode."""

    def action(step: Step) -> None:
        step.need_cpl0()
        wide = step.instruction.bits == 64
        data = step.load_memory(10 if wide else 6)
        base = data >> 16
        if wide:
            _need(canonical(base, step.cpu.sregs["cr4"]))
        elif step.size == 2:
            base &= 0xFF_FFFF
        step.cpu.sregs[name] = {"base": base, "limit": data & 0xFFFF}
        step.cpu.changed.add("sregs")

    return action


def invlpg(step: Step) -> None:
    """The segment's base counts, its limit doesn't; of an address that is not canonical nothing is kept."""
    step.need_cpl0()
    cpu, name = step.cpu, step.segment
    wide = step.instruction.bits == 64
    base = cpu.sregs[name]["base"] if not wide or name in ("fs", "gs") else 0
    gva = base + step.offset() & MASKS[8 if wide else 4]
    if not wide or canonical(gva, cpu.sregs["cr4"]):
        cpu.flush(gva)


INSTRUCTIONS: Rows = (
    ("0F 20 /r", "mov", mov_from_control, ""),
    ("0F 22 /r", "mov", mov_to_control, ""),
    ("0F 21 /r", "mov", mov_from_debug, ""),
    ("0F 23 /r", "mov", mov_to_debug, ""),
    ("0F 01 /6", "lmsw", lmsw, ""),
    ("0F 06", "clts", clts, ""),
    ("0F 01 /2 m", "lgdt", _load_table("gdt"), ""),
    ("0F 01 /3 m", "lidt", _load_table("idt"), ""),
    ("0F 01 /7 m", "invlpg", invlpg, ""),
)
