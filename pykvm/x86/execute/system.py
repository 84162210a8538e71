"""System instructions and hints: CLAC, STAC, XGETBV, XSETBV, SWAPGS, INVPCID, RDRAND, cache control, …

Each by its name in the Intel SDM vol. 2; CLZERO and RDPRU by the AMD APM vol. 3. Caches are the host's: what
empties one only makes its checks here.
"""

from __future__ import annotations

from pykvm.x86.exceptions import GP, MF, NM, UD, Fault
from pykvm.x86.execute.area import PKRU
from pykvm.x86.execute.cpu import Unsupported
from pykvm.x86.execute.flags import ARITHMETIC
from pykvm.x86.execute.integers import RAX, RCX, RDX
from pykvm.x86.execute.privileged import time_stamp
from pykvm.x86.msr import IA32_APERF, IA32_KERNEL_GS_BASE, IA32_MPERF, IA32_TSC_AUX
from pykvm.x86.paging import READ, canonical
from pykvm.x86.registers import (
    CR0_EM,
    CR0_MP,
    CR0_NE,
    CR0_TS,
    CR4_CET,
    CR4_FSGSBASE,
    CR4_OSXSAVE,
    CR4_PCIDE,
    CR4_PKE,
    CR4_TSD,
    RFLAGS_AC,
    RFLAGS_CF,
    XCR0_AVX,
    XCR0_BNDCSR,
    XCR0_BNDREGS,
    XCR0_HI16_ZMM,
    XCR0_OPMASK,
    XCR0_SSE,
    XCR0_TILECFG,
    XCR0_TILEDATA,
    XCR0_X87,
    XCR0_ZMM_HI256,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.x86.execute.step import Step

_FSW_ES = 1 << 7
_MASK32 = 0xFFFF_FFFF
_LINE = 64

# Components of XCR0 that are set together or not at all, and what they need besides.
_XCR0_RULES = (
    (XCR0_AVX, XCR0_SSE),
    (XCR0_BNDREGS | XCR0_BNDCSR, 0),
    (XCR0_OPMASK | XCR0_ZMM_HI256 | XCR0_HI16_ZMM, XCR0_AVX),
    (XCR0_TILECFG | XCR0_TILEDATA, 0),
)


def nop(step: Step) -> None:
    """Hints, and on one CPU without shared caches also fences and write-backs."""


def nop_without_cet(step: Step) -> None:
    """ENDBR and RDSSP are no-operations as long as CR4.CET is clear (SDM vol. 1 §17)."""
    if step.cpu.sregs["cr4"] & CR4_CET:
        raise Unsupported


def nop_without_mpx(step: Step) -> None:
    """What MPX's bytes mean to a CPU without it."""
    if step.cpu.features is not None and step.cpu.has("mpx"):
        raise Unsupported


def nop_of_memory(step: Step) -> None:
    """A cache line's instruction: it raises what a read of a byte of the line would."""
    step.load_memory(1)


def nop_of_cpl0(step: Step) -> None:
    step.need_cpl0()


def fwait(step: Step) -> None:
    cr0 = step.cpu.sregs["cr0"]
    if cr0 & CR0_MP and cr0 & CR0_TS:
        raise Fault(NM)
    if cr0 & CR0_NE and step.cpu.area.fsw & _FSW_ES:
        raise Fault(MF)


def fnstsw(step: Step) -> None:
    """To AX. Kernels look for an FPU so, and KVM's emulator knows only the form that stores to memory."""
    if step.cpu.sregs["cr0"] & (CR0_EM | CR0_TS):
        raise Fault(NM)
    step.cpu.set_reg(RAX, 2, step.cpu.area.fsw)


def clac(step: Step) -> None:
    _need_smap_rights(step)
    step.cpu.set_flags(0, RFLAGS_AC)


def stac(step: Step) -> None:
    _need_smap_rights(step)
    step.cpu.set_flags(RFLAGS_AC, RFLAGS_AC)


def _need_smap_rights(step: Step) -> None:
    if step.cpu.cpl != 0:
        raise Fault(UD)


def xgetbv(step: Step) -> None:
    cpu = step.cpu
    if not cpu.sregs["cr4"] & CR4_OSXSAVE:
        raise Fault(UD)
    which = cpu.reg(RCX, 4)
    if which == 0:
        _set_edx_eax(step, cpu.xcr0)
    elif which == 1 and cpu.has("xgetbv1"):
        _set_edx_eax(step, cpu.xcr0 & cpu.area.in_use)
    else:
        raise Fault(GP, 0)


def xsetbv(step: Step) -> None:
    cpu = step.cpu
    if not cpu.sregs["cr4"] & CR4_OSXSAVE:
        raise Fault(UD)
    step.need_cpl0()
    value = cpu.reg(RDX, 4) << 32 | cpu.reg(RAX, 4)
    offered = XCR0_X87 | XCR0_SSE | sum(1 << number for number in cpu.components)
    if cpu.reg(RCX, 4) != 0 or value & ~offered or not value & XCR0_X87:
        raise Fault(GP, 0)
    for together, needs in _XCR0_RULES:
        have = value & together
        if have and (have != together or value & needs != needs):
            raise Fault(GP, 0)
    cpu.xcr0 = value
    cpu.changed.add("xcr0")


def _need_pke(step: Step) -> None:
    if not step.cpu.sregs["cr4"] & CR4_PKE:
        raise Fault(UD)
    if step.cpu.reg(RCX, 4):
        raise Fault(GP, 0)
    if PKRU not in step.cpu.components:
        raise Unsupported


def rdpkru(step: Step) -> None:
    _need_pke(step)
    _set_edx_eax(step, step.cpu.area.pkru())


def wrpkru(step: Step) -> None:
    _need_pke(step)
    cpu = step.cpu
    if cpu.reg(RDX, 4):
        raise Fault(GP, 0)
    cpu.area.set_component(PKRU, cpu.reg(RAX, 4).to_bytes(8, "little"))
    cpu.changed.add("xsave")
    cpu.flush(None)


def swapgs(step: Step) -> None:
    cpu = step.cpu
    if cpu.bits != 64:
        raise Fault(UD)
    step.need_cpl0()
    gs = cpu.sregs["gs"]
    kernel_base = cpu.msr(IA32_KERNEL_GS_BASE)
    cpu.msrs[IA32_KERNEL_GS_BASE] = gs["base"]
    cpu.set_segment("gs", gs | {"base": kernel_base})


def _need_fsgsbase(step: Step) -> None:
    if step.cpu.bits != 64 or not step.cpu.sregs["cr4"] & CR4_FSGSBASE:
        raise Fault(UD)


def _read_base(step: Step, name: str) -> None:
    _need_fsgsbase(step)
    step.store(step.cpu.sregs[name]["base"])


def _write_base(step: Step, name: str) -> None:
    _need_fsgsbase(step)
    base = step.load()
    if not canonical(base, step.cpu.sregs["cr4"]):
        raise Fault(GP, 0)
    step.cpu.set_segment(name, step.cpu.sregs[name] | {"base": base})


def rdfsbase(step: Step) -> None:
    _read_base(step, "fs")


def rdgsbase(step: Step) -> None:
    _read_base(step, "gs")


def wrfsbase(step: Step) -> None:
    _write_base(step, "fs")


def wrgsbase(step: Step) -> None:
    _write_base(step, "gs")


def invpcid(step: Step) -> None:
    """The descriptor: PCID in bits 11:0, bits 63:12 reserved, then the linear address."""
    step.need_cpl0()
    kind = step.reg(8 if step.cpu.bits == 64 else 4)
    descriptor = step.load_memory(16)
    pcid, gva = descriptor & (1 << 64) - 1, descriptor >> 64
    cr4 = step.cpu.sregs["cr4"]
    if kind > 3 or pcid >> 12:
        raise Fault(GP, 0)
    if kind < 2 and pcid and not cr4 & CR4_PCIDE:
        raise Fault(GP, 0)
    if kind == 0 and step.cpu.bits == 64 and not canonical(gva, cr4):
        raise Fault(GP, 0)
    step.cpu.flush(gva if kind == 0 else None)


def rdrand(step: Step) -> None:
    step.store(int.from_bytes(step.cpu.random(step.size), "little"))
    step.cpu.set_flags(RFLAGS_CF, ARITHMETIC)


def rdpid(step: Step) -> None:
    step.store(step.cpu.msr(IA32_TSC_AUX), 8 if step.cpu.bits == 64 else 4)


def rdtscp(step: Step) -> None:
    cpu = step.cpu
    if cpu.cpl != 0 and cpu.sregs["cr4"] & CR4_TSD:
        raise Fault(GP, 0)
    _set_edx_eax(step, time_stamp(cpu))
    cpu.set_reg(RCX, 4, cpu.msr(IA32_TSC_AUX))


def rdpru(step: Step) -> None:
    cpu = step.cpu
    if cpu.cpl != 0 and cpu.sregs["cr4"] & CR4_TSD:
        raise Fault(UD)
    which = {0: IA32_MPERF, 1: IA32_APERF}.get(cpu.reg(RCX, 4))
    _set_edx_eax(step, 0 if which is None else cpu.msr(which))


def clzero(step: Step) -> None:
    """Sixteen zeros to the line that (E/R)AX is in."""
    size = step.instruction.address_size
    offset = step.cpu.reg(RAX, size) & ~(_LINE - 1)
    step.memory.write(step.instruction.segment or "ds", offset, bytes(_LINE))


def movdir64b(step: Step) -> None:
    """64 bytes from memory to the address in the reg operand, in ES, which must be on a multiple of 64."""
    data = step.memory.read(step.segment, step.offset(), _LINE)
    offset = step.reg(step.instruction.address_size)
    if step.memory.address("es", offset, _LINE, READ) % _LINE:
        raise Fault(GP, 0)
    step.memory.write("es", offset, data)


def _set_edx_eax(step: Step, value: int) -> None:
    step.cpu.set_reg(RAX, 4, value & _MASK32)
    step.cpu.set_reg(RDX, 4, value >> 32 & _MASK32)


INSTRUCTIONS = (
    ("9B", "fwait", fwait, ""),
    ("DF E0", "fnstsw", fnstsw, ""),
    ("NP 0F 01 CA", "clac", clac, "smap"),
    ("NP 0F 01 CB", "stac", stac, "smap"),
    ("NP 0F 01 D0", "xgetbv", xgetbv, "xsave"),
    ("NP 0F 01 D1", "xsetbv", xsetbv, "xsave"),
    ("NP 0F 01 E8", "serialize", nop, "serialize"),
    ("NP 0F 01 EE", "rdpkru", rdpkru, "pku"),
    ("NP 0F 01 EF", "wrpkru", wrpkru, "pku"),
    ("0F 01 F8", "swapgs", swapgs, "lm"),
    ("0F 01 F9", "rdtscp", rdtscp, "rdtscp"),
    ("0F 01 FC", "clzero", clzero, "clzero"),
    ("NP 0F 01 FD", "rdpru", rdpru, "rdpru"),
    ("F3 0F AE /0 reg", "rdfsbase", rdfsbase, "fsgsbase"),
    ("F3 0F AE /1 reg", "rdgsbase", rdgsbase, "fsgsbase"),
    ("F3 0F AE /2 reg", "wrfsbase", wrfsbase, "fsgsbase"),
    ("F3 0F AE /3 reg", "wrgsbase", wrgsbase, "fsgsbase"),
    ("66 0F 38 82 /r m", "invpcid", invpcid, "invpcid"),
    ("NP 0F C7 /6 reg", "rdrand", rdrand, "rdrand"),
    ("66 0F C7 /6 reg", "rdrand", rdrand, "rdrand"),
    ("NP 0F C7 /7 reg", "rdseed", rdrand, "rdseed"),
    ("66 0F C7 /7 reg", "rdseed", rdrand, "rdseed"),
    ("F3 0F C7 /7 reg", "rdpid", rdpid, "rdpid"),
    ("66 0F 38 F8 /r m", "movdir64b", movdir64b, "movdir64b"),
    ("0F 08", "invd", nop_of_cpl0, ""),
    ("0F 09", "wbinvd", nop_of_cpl0, ""),
    ("F3 0F 09", "wbnoinvd", nop_of_cpl0, "wbnoinvd"),
    ("NP 0F AE /7 m", "clflush", nop_of_memory, "clflush"),
    ("66 0F AE /7 m", "clflushopt", nop_of_memory, "clflushopt"),
    ("66 0F AE /6 m", "clwb", nop_of_memory, "clwb"),
    ("NP 0F AE /5 reg", "lfence", nop, "sse2"),
    ("NP 0F AE /6 reg", "mfence", nop, "sse2"),
    ("NP 0F AE /7 reg", "sfence", nop, "sse"),
    ("0F 0D /r m", "prefetchw", nop, ""),
    ("0F 18 /r", "prefetch", nop, ""),
    ("0F 19 /r", "nop", nop, ""),
    ("0F 1A /r", "nop", nop_without_mpx, ""),
    ("0F 1B /r", "nop", nop_without_mpx, ""),
    ("0F 1C /r", "nop", nop, ""),
    ("0F 1C /0 m", "cldemote", nop, ""),
    ("0F 1D /r", "nop", nop, ""),
    ("F3 0F 1E FA", "endbr64", nop_without_cet, ""),
    ("F3 0F 1E FB", "endbr32", nop_without_cet, ""),
    ("F3 0F 1E /1 reg", "rdssp", nop_without_cet, ""),
    ("F3 0F 1E /r", "nop", nop, ""),
    ("0F 1E /r", "nop", nop, ""),
    ("0F 1F /r", "nop", nop, ""),
)
