"""What a probe guest tries: instructions that an operating system needs in ring 0, and kinds of paging.

Each begins with RSI at 4 KiB of zeros (DATA) and the other registers 0; in real mode all vectors lead to an
IRET. ``expect`` is what the registers hold afterwards, where that can be told beforehand.
"""

from __future__ import annotations

from pykvm.frozen import frozen
from pykvm.host.guest import CODE, DATA, TABLES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


@frozen
class Program:
    """``needs`` is a CPUID feature: who doesn't see it isn't asked for the instruction."""

    name: str
    mode: str
    code: bytes
    needs: str = ""
    expect: Mapping[str, int]


def _instruction(name: str, mode: str, code: str, needs: str = "", **expect: int) -> Program:
    return Program(name=name, mode=mode, code=bytes.fromhex(code), needs=needs, expect=expect)


def _dword(value: int) -> str:
    return value.to_bytes(4, "little").hex()


INSTRUCTIONS = (
    # Interrupts and returns. The protected and the long iret return to the END behind them.
    _instruction("int3", "real", "cc"),
    _instruction("int n", "real", "cd40"),
    _instruction("iret (real mode)", "real", "9c 0e e80000 58 83c007 50 cf 90"),
    _instruction("iret (protected mode)", "protected", f"9c 0e 68{_dword(CODE + 8)} cf"),
    _instruction("iretq", "long", f"4889e0 8cd1 51 50 9c 8cc9 51 68{_dword(CODE + 18)} 48cf"),
    _instruction("vmcall", "long", "0f01c1"),
    # System registers and caches.
    _instruction("cpuid", "long", "0fa2"),
    _instruction("rdmsr, wrmsr", "long", "b9800000c0 0f32 0f30"),
    _instruction("mov dr7", "long", "b800040000 0f23f8"),
    _instruction("invlpg", "long", "0f013e"),
    _instruction("invpcid", "long", "660f38820e", "invpcid"),
    _instruction("swapgs", "long", "0f01f8"),
    _instruction("clac", "long", "0f01ca", "smap"),
    _instruction("stac", "long", "0f01cb", "smap"),
    _instruction("rdtscp", "long", "0f01f9", "rdtscp"),
    _instruction("rdpid", "long", "f30fc7f8", "rdpid"),
    _instruction("rdpru", "long", "0f01fd", "rdpru"),
    _instruction("rdsspq", "long", "f3480f1ec8"),
    _instruction("wbinvd", "long", "0f09"),
    _instruction("clflush", "long", "0fae3e", "clflush"),
    _instruction("clflushopt", "long", "660fae3e", "clflushopt"),
    _instruction("clwb", "long", "660fae36", "clwb"),
    # Whole numbers.
    _instruction("popcnt", "long", "b90f000000 f30fb8c1", "popcnt", rax=4),
    _instruction("lzcnt", "long", "b901000000 f30fbdc1", "abm", rax=31),
    _instruction("tzcnt", "long", "f30fbcc1", "bmi1", rax=32),
    _instruction("andn", "long", "b901000000 ba03000000 c4e270f2c2", "bmi1", rax=2),
    _instruction("shlx", "long", "b903000000 c4e2f1f7c1", "bmi2", rax=24),
    _instruction("mulx", "long", "b903000000 ba02000000 c4e2e3f6c1", "bmi2", rbx=6, rax=0),
    _instruction("adcx", "long", "b905000000 660f38f6c1", "adx", rax=5),
    _instruction("crc32", "long", "b901000000 f20f38f1c1", "sse4_2", rax=0xDD45_AAB8),
    _instruction("movbe", "long", "c60601 0f38f006", "movbe", rax=0x0100_0000),
    _instruction("cmpxchg16b", "long", "bb07000000 f0480fc70e 488b06", "cx16", rax=7),
    _instruction("rep movsb", "long", "fc c60601 488d7e10 b910000000 f3a4 8a06", rax=1),
    _instruction("rdrand", "long", "0fc7f0", "rdrand"),
    # x87, SSE, AVX and their state.
    _instruction("fninit", "long", "dbe3"),
    _instruction("fwait", "long", "9b"),
    _instruction("fxsave", "long", "0fae06", "fxsr"),
    _instruction("ldmxcsr", "long", "c706801f0000 0fae16", "sse"),
    _instruction("pxor", "long", "660fefc0", "sse2"),
    _instruction("movdqu", "long", "f30f6f06", "sse2"),
    _instruction("xgetbv", "long", "0f01d0", "xsave"),
    # The value that is there already: an emulated AMD-V that doesn't intercept it would leave KVM's host
    # with the guest's.
    _instruction("xsetbv", "long", "b807000000 0f01d1", "avx"),
    _instruction("xsave", "long", "b801000000 0fae26", "xsave"),
    _instruction("vpxor", "long", "c5f9efc0", "avx"),
)

_CR4_PAE, _CR4_PSE = "0f20e0 83c820 0f22e0", "0f20e0 83c810 0f22e0"
_EFER_LME = "b9800000c0 0f32 0d00010000 0f30"
_CR3_RSI = "0f22de"
_CR0_PG = "0f20c0 0d00000080 0f22c0 90"

# Each maps the first megabytes to themselves with one large page, switches paging on, and goes on there.
PAGING = (
    _instruction("32-bit", "protected", f"c706{_dword(0x83)} {_CR4_PSE} {_CR3_RSI} {_CR0_PG}", "pse"),
    _instruction(
        "PAE",
        "protected",
        f"c706{_dword(DATA + 0x1001)} c786{_dword(0x1000)}{_dword(0x83)} {_CR4_PAE} {_CR3_RSI} {_CR0_PG}",
        "pae",
    ),
    _instruction(
        "4-level", "protected", f"be{_dword(TABLES)} {_CR4_PAE} {_CR3_RSI} {_EFER_LME} {_CR0_PG}", "lm"
    ),
)
