"""Numbers as people write them: ``512M``, ``60s``, ``0xf4``."""

from __future__ import annotations

from pykvm.errors import InputError

SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
DURATION_UNITS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9}

BASES = {"0x": 16, "0o": 8, "0b": 2}
DIGITS = {2: "01", 8: "01234567", 10: "0123456789", 16: "0123456789abcdef"}
LONGEST = 40  # characters of a number: int() takes quadratic time, and refuses 4300 with an error of its own


def parse_size(text: str) -> int:
    """Bytes in a size such as ``4096``, ``0x1000``, ``512M`` or ``1.5G`` (units are powers of 1024)."""
    size = _whole(text)
    if size is None:
        size = _scaled(text, SIZE_UNITS)
    if size is None:
        raise InputError(f"{shown(text)} is not a size", remedy="write 512M or 1G")
    return size


def parse_duration(text: str) -> int:
    """Nanoseconds in a duration such as ``500ms``, ``60s`` or ``1.5m``."""
    duration = _scaled(text, DURATION_UNITS)
    if duration is None:
        raise InputError(f"{shown(text)} is not a duration", remedy="write 60s, 500ms or 2m")
    return duration


def parse_whole(text: str) -> int:
    """The number in ``244``, ``0xf4``, ``0o364`` or ``0b11110100``.

    ``0123`` is refused: it is 83 to YAML 1.1 and C, and 123 to YAML 1.2 and most people.
    """
    number = _whole(text)
    if number is not None:
        return number
    digits = text.lstrip("0")
    if digits and len(digits) < len(text) <= LONGEST and _only(digits, 10):
        remedy = f"write {digits}, or 0o{digits}" if _only(digits, 8) else f"write {digits}"
        raise InputError(f"{shown(text)} may be octal or decimal", remedy=remedy)
    raise InputError(f"{shown(text)} is not a whole number", remedy="write digits, such as 244 or 0xf4")


def show_size(size: int) -> str:
    """The shortest text that ``parse_size`` reads as ``size``."""
    for unit in "TGMK":
        if size and size % SIZE_UNITS[unit] == 0:
            return f"{size // SIZE_UNITS[unit]}{unit}"
    return str(size)


def shown(text: str) -> str:
    """``text`` in quotes for a message: on one line, without control characters, and not long."""
    return repr(text if len(text) <= LONGEST else text[: LONGEST - 1] + "…")


def _whole(text: str) -> int | None:
    if not 0 < len(text) <= LONGEST:
        return None
    lower = text.lower()
    base = BASES.get(lower[:2])
    if base is None:
        return int(lower) if _decimal(lower) else None
    return int(lower[2:], base) if _only(lower[2:], base) else None


def _scaled(text: str, units: dict[str, int]) -> int | None:
    """A decimal number times its unit, if that is a whole number."""
    number = text.rstrip("KMGTms")
    whole, dot, fraction = number.partition(".")
    unit = units.get(text[len(number) :])
    if unit is None or not _decimal(whole) or (dot and not _only(fraction, 10)) or len(text) > LONGEST:
        return None
    product, rest = divmod(int(whole + fraction) * unit, 10 ** len(fraction))
    return None if rest else product


def _decimal(digits: str) -> bool:
    return _only(digits, 10) and (digits[0] != "0" or digits == "0")


def _only(digits: str, base: int) -> bool:
    """Whether ``digits`` is nothing but digits: int() would take ``1_000``, `` 1`` and ``١`` too."""
    return bool(digits) and not digits.strip(DIGITS[base])
