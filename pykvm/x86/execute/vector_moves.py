"""SSE and SSE2 moves between XMM registers, general registers and memory (Intel SDM vol. 2)."""

from __future__ import annotations

from pykvm.x86.execute.vectors import join, lanes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.x86.execute.step import Step
    from pykvm.x86.execute.table import Action

_LOW64 = (1 << 64) - 1


def _load(size: int = 16, *, aligned: bool = True) -> Action:
    """To the reg operand from r/m; what the operand is short of 16 bytes becomes 0."""

    def action(step: Step) -> None:
        step.need_sse()
        step.set_xmm(step.load_xmm(size, aligned=aligned))

    return action


def _store(size: int = 16, *, aligned: bool = True) -> Action:
    """To r/m from the reg operand."""

    def action(step: Step) -> None:
        step.need_sse()
        value = step.xmm() & (1 << 8 * size) - 1
        if not step.instruction.is_memory:
            step.cpu.set_xmm(step.instruction.rm, value)
            return
        if aligned and size == 16:
            step.need_alignment(16)
        step.store_memory(value, size)

    return action


def _merge(size: int) -> Action:
    """MOVSS, MOVSD between registers: the low ``size`` bytes change."""

    def load(step: Step) -> None:
        step.need_sse()
        mask = (1 << 8 * size) - 1
        step.set_xmm(step.xmm() & ~mask | step.load_xmm(size))

    return load


def _merge_back(size: int) -> Action:
    def store(step: Step) -> None:
        step.need_sse()
        mask = (1 << 8 * size) - 1
        number = step.instruction.rm
        step.cpu.set_xmm(number, step.cpu.area.xmm(number) & ~mask | step.xmm() & mask)

    return store


def _load_low(step: Step) -> None:
    step.need_sse()
    step.set_xmm(step.xmm() & ~_LOW64 | step.load_memory(8))


def _load_high(step: Step) -> None:
    step.need_sse()
    step.set_xmm(step.load_memory(8) << 64 | step.xmm() & _LOW64)


def _store_high(step: Step) -> None:
    step.need_sse()
    step.store_memory(step.xmm() >> 64, 8)


def movhlps(step: Step) -> None:
    step.need_sse()
    step.set_xmm(step.xmm() & ~_LOW64 | step.load_xmm() >> 64)


def movlhps(step: Step) -> None:
    step.need_sse()
    step.set_xmm((step.load_xmm() & _LOW64) << 64 | step.xmm() & _LOW64)


def _general_size(step: Step) -> int:
    """MOVD, or MOVQ with REX.W."""
    return 8 if step.size == 8 else 4


def movd_load(step: Step) -> None:
    step.need_sse()
    step.set_xmm(step.load(_general_size(step)))


def movd_store(step: Step) -> None:
    step.need_sse()
    size = _general_size(step)
    step.store(step.xmm() & (1 << 8 * size) - 1, size)


def _mask(bits: int) -> Action:
    """PMOVMSKB, MOVMSKPS, MOVMSKPD: the lanes' top bits."""

    def action(step: Step) -> None:
        step.need_sse()
        tops = [lane >> bits - 1 for lane in lanes(step.load_xmm(), bits)]
        step.set_reg(sum(top << at for at, top in enumerate(tops)), 4)

    return action


def pinsrw(step: Step) -> None:
    step.need_sse()
    words = lanes(step.xmm(), 16)
    size = 2 if step.instruction.is_memory else 4
    words[step.instruction.immediate & 7] = step.load(size)
    step.set_xmm(join(words, 16))


def pextrw(step: Step) -> None:
    step.need_sse()
    step.set_reg(lanes(step.load_xmm(), 16)[step.instruction.immediate & 7], 4)


INSTRUCTIONS = (
    ("NP 0F 10 /r", "movups", _load(aligned=False), "sse"),
    ("NP 0F 11 /r", "movups", _store(aligned=False), "sse"),
    ("66 0F 10 /r", "movupd", _load(aligned=False), "sse2"),
    ("66 0F 11 /r", "movupd", _store(aligned=False), "sse2"),
    ("F3 0F 10 /r m", "movss", _load(4), "sse"),
    ("F3 0F 10 /r reg", "movss", _merge(4), "sse"),
    ("F3 0F 11 /r m", "movss", _store(4), "sse"),
    ("F3 0F 11 /r reg", "movss", _merge_back(4), "sse"),
    ("F2 0F 10 /r m", "movsd", _load(8), "sse2"),
    ("F2 0F 10 /r reg", "movsd", _merge(8), "sse2"),
    ("F2 0F 11 /r m", "movsd", _store(8), "sse2"),
    ("F2 0F 11 /r reg", "movsd", _merge_back(8), "sse2"),
    ("NP 0F 12 /r m", "movlps", _load_low, "sse"),
    ("NP 0F 12 /r reg", "movhlps", movhlps, "sse"),
    ("NP 0F 13 /r m", "movlps", _store(8), "sse"),
    ("NP 0F 16 /r m", "movhps", _load_high, "sse"),
    ("NP 0F 16 /r reg", "movlhps", movlhps, "sse"),
    ("NP 0F 17 /r m", "movhps", _store_high, "sse"),
    ("66 0F 12 /r m", "movlpd", _load_low, "sse2"),
    ("66 0F 13 /r m", "movlpd", _store(8), "sse2"),
    ("66 0F 16 /r m", "movhpd", _load_high, "sse2"),
    ("66 0F 17 /r m", "movhpd", _store_high, "sse2"),
    ("NP 0F 28 /r", "movaps", _load(), "sse"),
    ("NP 0F 29 /r", "movaps", _store(), "sse"),
    ("66 0F 28 /r", "movapd", _load(), "sse2"),
    ("66 0F 29 /r", "movapd", _store(), "sse2"),
    ("NP 0F 2B /r m", "movntps", _store(), "sse"),
    ("66 0F 2B /r m", "movntpd", _store(), "sse2"),
    ("66 0F 6F /r", "movdqa", _load(), "sse2"),
    ("66 0F 7F /r", "movdqa", _store(), "sse2"),
    ("F3 0F 6F /r", "movdqu", _load(aligned=False), "sse2"),
    ("F3 0F 7F /r", "movdqu", _store(aligned=False), "sse2"),
    ("F2 0F F0 /r m", "lddqu", _load(aligned=False), "pni"),
    ("66 0F 38 2A /r m", "movntdqa", _load(), "sse4_1"),
    ("66 0F E7 /r m", "movntdq", _store(), "sse2"),
    ("66 0F 6E /r", "movd", movd_load, "sse2"),
    ("66 0F 7E /r", "movd", movd_store, "sse2"),
    ("F3 0F 7E /r", "movq", _load(8), "sse2"),
    ("66 0F D6 /r", "movq", _store(8), "sse2"),
    ("66 0F D7 /r reg", "pmovmskb", _mask(8), "sse2"),
    ("NP 0F 50 /r reg", "movmskps", _mask(32), "sse"),
    ("66 0F 50 /r reg", "movmskpd", _mask(64), "sse2"),
    ("66 0F C4 /r ib", "pinsrw", pinsrw, "sse2"),
    ("66 0F C5 /r ib reg", "pextrw", pextrw, "sse2"),
)
