"""Disassembly by capstone, which is imported when it is first asked for: that takes 60 ms."""

from __future__ import annotations

from pykvm.errors import HostError, InternalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_engines: dict[int, Any] = {}


def disassemble(code: bytes, address: int, mode_bits: int, count: int = 0) -> list[str]:
    """Up to ``count`` instructions (0: all) from the start of ``code``, a line each.

    ``address`` is that of the first byte, ``mode_bits`` 16, 32 or 64. A line is address, bytes, text. Where
    bytes are no instruction the last line says ``(bad)``.
    """
    lines = []
    done = 0
    for at, size, mnemonic, operands in _engine(mode_bits).disasm_lite(code, address, count):
        done += size
        lines.append(_line(at, code[done - size : done], f"{mnemonic} {operands}".rstrip()))
    if done < len(code) and (not count or len(lines) < count):
        lines.append(_line(address + done, code[done : done + 15], "(bad)"))
    return lines


def parts(code: bytes, mode_bits: int) -> tuple[str, str]:
    """Mnemonic and operands of the instruction at the start of ``code``; ``(bad)`` where it is none."""
    for _, _, mnemonic, operands in _engine(mode_bits).disasm_lite(code, 0, 1):
        return mnemonic, operands
    return "(bad)", ""


def starts(code: bytes, mode_bits: int) -> list[int]:
    """Offsets of the instructions of ``code``, and its end where the last one ends there."""
    found, end = [], 0
    for at, size, _, _ in _engine(mode_bits).disasm_lite(code, 0):
        found.append(at)
        end = at + size
    return [*found, end] if end == len(code) else found


def _line(address: int, code: bytes, text: str) -> str:
    return f"{address:#x}: {code.hex(' '):<30} {text}"


def _engine(mode_bits: int) -> Any:
    if mode_bits not in _engines:
        try:
            import capstone
        except ImportError as error:
            raise HostError(
                "the Python package capstone cannot be imported",
                where="disassembly",
                remedy="install it in the same environment: pip install capstone",
            ) from error
        modes = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}
        if mode_bits not in modes:
            raise InternalError(f"there is no {mode_bits}-bit code")
        _engines[mode_bits] = capstone.Cs(capstone.CS_ARCH_X86, modes[mode_bits])
    return _engines[mode_bits]
