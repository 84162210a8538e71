"""Integers in registers and memory: MOVBE, CRC32, ADCX, ADOX, CMPXCHG8B/16B, MOVNTI (Intel SDM vol. 2)."""

from __future__ import annotations

from pykvm.x86.exceptions import UD, Fault
from pykvm.x86.registers import RFLAGS_CF, RFLAGS_OF, RFLAGS_ZF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.x86.execute.step import Step

RAX, RCX, RDX, RBX = 0, 1, 2, 3


def movbe_load(step: Step) -> None:
    step.set_reg(_swapped(step.load(), step.size))


def movbe_store(step: Step) -> None:
    step.store(_swapped(step.reg(), step.size))


def _swapped(value: int, size: int) -> int:
    return int.from_bytes(value.to_bytes(size, "little"), "big")


def _crc_table() -> tuple[int, ...]:
    """The CRC of each byte by the polynomial 11EDC6F41H, its bits reversed."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_CRC = _crc_table()


def _crc32(step: Step, size: int) -> None:
    crc = step.reg(4)
    for byte in step.load(size).to_bytes(size, "little"):
        crc = _CRC[(crc ^ byte) & 0xFF] ^ crc >> 8
    step.set_reg(crc, 4)


def crc32_byte(step: Step) -> None:
    _crc32(step, 1)


def crc32(step: Step) -> None:
    _crc32(step, step.size)


def _add_with(step: Step, flag: int) -> None:
    size = 8 if step.size == 8 else 4  # 66 selects ADCX and is no operand size
    total = step.reg(size) + step.load(size) + bool(step.cpu.regs["rflags"] & flag)
    step.set_reg(total, size)
    step.cpu.set_flags(flag if total >> 8 * size else 0, flag)


def adcx(step: Step) -> None:
    _add_with(step, RFLAGS_CF)


def adox(step: Step) -> None:
    _add_with(step, RFLAGS_OF)


def _cmpxchg(step: Step, half: int) -> None:
    """Compare (R/E)DX:(R/E)AX with memory; the store happens either way, as on a CPU."""
    cpu, bits = step.cpu, 8 * half
    found = step.load_to_change(2 * half)
    equal = found == cpu.reg(RDX, half) << bits | cpu.reg(RAX, half)
    new = cpu.reg(RCX, half) << bits | cpu.reg(RBX, half)
    step.store_memory(new if equal else found, 2 * half)
    if not equal:
        cpu.set_reg(RAX, half, found)
        cpu.set_reg(RDX, half, found >> bits)
    cpu.set_flags(RFLAGS_ZF if equal else 0, RFLAGS_ZF)


def cmpxchg8b(step: Step) -> None:
    if step.size == 8:
        if not step.cpu.has("cx16"):
            raise Fault(UD)
        step.need_alignment(16)
    _cmpxchg(step, 8 if step.size == 8 else 4)


def movnti(step: Step) -> None:
    size = 8 if step.size == 8 else 4
    step.store_memory(step.reg(size), size)


INSTRUCTIONS = (
    ("0F 38 F0 /r m", "movbe", movbe_load, "movbe"),
    ("0F 38 F1 /r m", "movbe", movbe_store, "movbe"),
    ("F2 0F 38 F0 /r", "crc32", crc32_byte, "sse4_2"),
    ("F2 0F 38 F1 /r", "crc32", crc32, "sse4_2"),
    ("66 0F 38 F6 /r", "adcx", adcx, "adx"),
    ("F3 0F 38 F6 /r", "adox", adox, "adx"),
    ("0F C7 /1 m", "cmpxchg8b", cmpxchg8b, "cx8"),
    ("NP 0F C3 /r m", "movnti", movnti, "sse2"),
    ("NP 0F 38 F9 /r m", "movdiri", movnti, "movdiri"),
)
