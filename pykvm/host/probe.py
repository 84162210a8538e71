"""What this host's KVM can and can't, tried with guests of a few instructions where it can't be asked."""

from __future__ import annotations

from pykvm.errors import PykvmError
from pykvm.host.backend import ring0_mips
from pykvm.host.cpuid import offered_cpuid
from pykvm.host.guest import CODE, DATA, DONE, ProbeGuest
from pykvm.host.speed import kind
from pykvm.kvm.capabilities import CAPABILITIES
from pykvm.x86 import cpuid
from pykvm.x86.registers import GPRS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pykvm.host.guest import Ending
    from pykvm.kvm.system import Kvm

AFTER_IRET = (CODE + 8).to_bytes(4, "little").hex()
AFTER_IRETQ = (CODE + 18).to_bytes(4, "little").hex()

# name, mode, bytes, the CPUID feature that it needs. RSI points to 4 KiB of zeros, the rest is 0; the
# vectors of real mode all lead to an IRET.
INSTRUCTIONS = (
    ("int3", "real", "cc", ""),
    ("int n", "real", "cd40", ""),
    ("iret (real mode)", "real", "9c0e e80000 58 83c007 50 cf 90", ""),
    ("iret (protected mode)", "protected", f"9c 0e 68{AFTER_IRET} cf", ""),
    ("iretq", "long", f"4889e0 8cd1 51 50 9c 8cc9 51 68{AFTER_IRETQ} 48cf", ""),
    ("fwait", "long", "9b", ""),
    ("fninit", "long", "dbe3", ""),
    ("clac", "long", "0f01ca", "smap"),
    ("stac", "long", "0f01cb", "smap"),
    ("popcnt", "long", "f30fb8c1", "popcnt"),
    ("lzcnt", "long", "f30fbdc1", "abm"),
    ("tzcnt", "long", "f30fbcc1", "bmi1"),
    ("andn", "long", "c4e270f2c1", "bmi1"),
    ("shlx", "long", "c4e2f1f7c1", "bmi2"),
    ("mulx", "long", "c4e2fbf6c1", "bmi2"),
    ("adcx", "long", "660f38f6c1", "adx"),
    ("cmpxchg16b", "long", "f0480fc70e", "cx16"),
    ("movbe", "long", "0f38f006", "movbe"),
    ("crc32", "long", "f20f38f1c1", "sse4_2"),
    ("xgetbv", "long", "31c9 0f01d0", "xsave"),
    ("xsetbv", "long", "31c9 31d2 b801000000 0f01d1", "xsave"),
    ("xsave", "long", "31d2 b801000000 0fae26", "xsave"),
    ("fxsave", "long", "0fae06", "fxsr"),
    ("ldmxcsr", "long", "c706801f0000 0fae16", "xmm"),
    ("pxor", "long", "660fefc0", "sse2"),
    ("movdqu", "long", "f30f6f06", "sse2"),
    ("vpxor", "long", "c5f9efc0", "avx"),
    ("rdrand", "long", "0fc7f0", "rdrand"),
    ("rdtscp", "long", "0f01f9", "rdtscp"),
    ("rdpid", "long", "f30fc7f8", "rdpid"),
    ("rdpru", "long", "31c9 0f01fd", "rdpru"),
    ("rdsspq", "long", "f3480f1ec8", ""),
    ("invpcid", "long", "31c9 660f38820e", "invpcid"),
    ("clflushopt", "long", "660fae3e", "clflushopt"),
    ("clwb", "long", "660fae36", "clwb"),
    ("clflush", "long", "0fae3e", "clflush"),
    ("swapgs", "long", "0f01f8", ""),
    ("wbinvd", "long", "0f09", ""),
    ("cpuid", "long", "0fa2", ""),
    ("rep movsb", "long", "fc 4889f7 b910000000 f3a4", ""),
)

# 32-bit paging: page directory at RSI, one 4 MiB page that maps the first 4 MiB to themselves.
PAGING_32 = "c70683000000 0f22de 0f20e0 83c810 0f22e0 0f20c0 0d00000080 0f22c0 90"


ALL_ZERO = dict.fromkeys((*GPRS, "rip"), 0)


def probe(kvm: Kvm, *, fresh: bool = False) -> dict[str, Any]:
    """Everything, as plain data: speed, instructions, paging, CPUID, capabilities. Main thread only."""
    offered = offered_cpuid(kvm)
    measured = ring0_mips(kvm, fresh=fresh)
    guest = ProbeGuest(kvm, offered)
    try:
        seen = guest.cpuid()
        lacking = instructions(guest, cpuid.names(seen))
        paging = guest.run("protected", bytes.fromhex(PAGING_32), rsi=DATA).how
    finally:
        guest.close()
    return {
        "ring0": {"kind": kind(measured), "mips": round(measured, 1)},
        "instructions": lacking,
        "paging_32": paging,
        "cpuid": {"features": sorted(cpuid.names(seen)), "put_back": cpuid.difference(offered, seen)},
        "capabilities": {name: kvm.capability(name) for name in CAPABILITIES},
    }


def instructions(guest: ProbeGuest, features: frozenset[str]) -> list[dict[str, Any]]:
    """What doesn't work in this KVM's ring 0: how each ends, and whether pykvm finishes it."""
    found = []
    for name, mode, text, feature in INSTRUCTIONS:
        if feature and feature not in features:
            continue
        ending = guest.run(mode, bytes.fromhex(text), rsi=DATA)
        if ending.how != DONE:
            found.append({"name": name, "ends": ending.how, "finished": _finished(ending, mode)})
    return found


def _finished(ending: Ending, mode: str) -> bool:
    """Whether pykvm carries out what KVM gave up."""
    if not ending.code:
        return False
    from pykvm.memory import GuestMemory
    from pykvm.x86 import entry
    from pykvm.x86.execute import Cpu, execute

    memory = GuestMemory.pc(1 << 20)
    try:
        if mode == "real":
            state = entry.real(CODE, stack=DATA)
        elif mode == "protected":
            state = entry.protected(CODE, stack=DATA, gdt=0x1000)
        else:
            state = entry.long(CODE, stack=DATA, gdt=0x1000, page_tables=0x2000)
            memory.write(0x2000, entry.identity_map(0x2000))
        state["sregs"]["cr4"] |= 0x600
        state["regs"].setdefault("rflags", 2)
        cpu = Cpu({**ALL_ZERO, **state["regs"]}, state["sregs"])
        memory.write(CODE, ending.code)
        return execute(cpu, memory, ending.code) is not None
    except PykvmError:
        return False
    finally:
        memory.close()
