"""An encoder of AML, the byte code of ACPI's namespace: each function gives the bytes of one term.

A term is written as ASL writes it::

    device("COM1", name("_HID", eisa_id("PNP0501")), name("_UID", 1))

Where a value is wanted, an int is an integer, a str a string, and bytes are a term already encoded.

Source: ACPI 6.5 §20.2 (AML grammar) and §6.4 (resource descriptors).
"""

from __future__ import annotations

from pykvm.errors import InternalError

ZERO_OP = 0x00
ONE_OP = 0x01
NAME_OP = 0x08
BYTE_PREFIX = 0x0A
WORD_PREFIX = 0x0B
DWORD_PREFIX = 0x0C
STRING_PREFIX = 0x0D
QWORD_PREFIX = 0x0E
SCOPE_OP = 0x10
BUFFER_OP = 0x11
PACKAGE_OP = 0x12
DUAL_NAME_PREFIX = 0x2E
MULTI_NAME_PREFIX = 0x2F
EXT_OP_PREFIX = 0x5B
DEVICE_OP = 0x82  # after EXT_OP_PREFIX

_NUMBERS = ((BYTE_PREFIX, 1), (WORD_PREFIX, 2), (DWORD_PREFIX, 4), (QWORD_PREFIX, 8))

# Resource descriptors: small ones have the length in bits 2–0.
IRQ_DESCRIPTOR = 0x22
IO_DESCRIPTOR = 0x47
END_TAG = 0x79
MEMORY_32_FIXED = 0x86
WORD_ADDRESS_SPACE = 0x88
DWORD_ADDRESS_SPACE = 0x87
QWORD_ADDRESS_SPACE = 0x8A

_ADDRESS_SPACES = {2: WORD_ADDRESS_SPACE, 4: DWORD_ADDRESS_SPACE, 8: QWORD_ADDRESS_SPACE}

IO_DECODE_16 = 0x01
MEMORY_WRITABLE = 0x01
RANGE_MEMORY = 0
RANGE_IO = 1
RANGE_BUS = 2
RANGE_FIXED = 0x0C  # MinFixed and MaxFixed; bit 0 clear: a bridge hands the range on
IO_ENTIRE_RANGE = 0x03
MEMORY_READ_WRITE = 0x01  # and not cacheable


def _sized(body: bytes) -> bytes:
    """``body`` behind its PkgLength (§20.2.4), which counts its own one to four bytes.

    One byte holds 6 bits; else its low 4 bits and the bytes that follow hold 12, 20 or 28.
    """
    size = len(body) + 1
    if size < 1 << 6:
        return bytes((size,)) + body
    for more in (1, 2, 3):
        size += 1
        if size < 1 << 4 + 8 * more:
            return bytes((more << 6 | size & 0xF,)) + (size >> 4).to_bytes(more, "little") + body
    raise InternalError(f"a term of {size} bytes is too long", where="aml")


def path(text: str) -> bytes:
    r"""A name string (§20.2.2): ``_HID``, ``COM1``, ``\_SB.PCI0``; short segments are filled with _."""
    root = text.startswith("\\")
    segments = text[root:].split(".")
    if not all(0 < len(segment) <= 4 for segment in segments):
        raise InternalError(f"{text!r} is no name", where="aml")
    encoded = b"".join(segment.ljust(4, "_").encode("ascii") for segment in segments)
    if len(segments) == 2:
        encoded = bytes((DUAL_NAME_PREFIX,)) + encoded
    elif len(segments) > 2:
        encoded = bytes((MULTI_NAME_PREFIX, len(segments))) + encoded
    return b"\\" + encoded if root else encoded


def value(of: int | str | bytes) -> bytes:
    """A constant (§20.2.3) in its shortest form; bytes stay as they are."""
    if isinstance(of, bytes):
        return of
    if isinstance(of, str):
        return bytes((STRING_PREFIX,)) + of.encode("ascii") + b"\0"
    if of in (0, 1):
        return bytes((ONE_OP if of else ZERO_OP,))
    for prefix, size in _NUMBERS:
        if of < 1 << 8 * size:
            return bytes((prefix,)) + of.to_bytes(size, "little")
    raise InternalError(f"{of:#x} has more than 64 bits", where="aml")


def eisa_id(text: str) -> bytes:
    """``PNP0501`` as EISAID() packs it (§19.3.4): three letters of 5 bits, four digits, big-endian."""
    number = 0
    for letter in text[:3]:
        number = number << 5 | ord(letter) - ord("@")
    packed = number << 16 | int(text[3:], 16)
    return value(int.from_bytes(packed.to_bytes(4, "big"), "little"))


def name(text: str, of: int | str | bytes) -> bytes:
    """Name (text, of)"""
    return bytes((NAME_OP,)) + path(text) + value(of)


def scope(text: str, *terms: bytes) -> bytes:
    """Scope (text) { terms }"""
    return bytes((SCOPE_OP,)) + _sized(path(text) + b"".join(terms))


def device(text: str, *terms: bytes) -> bytes:
    """Device (text) { terms }"""
    return bytes((EXT_OP_PREFIX, DEVICE_OP)) + _sized(path(text) + b"".join(terms))


def package(*elements: int | str | bytes) -> bytes:
    """Package () { elements }, 255 at most."""
    body = b"".join(value(element) for element in elements)
    return bytes((PACKAGE_OP,)) + _sized(bytes((len(elements),)) + body)


def buffer(data: bytes) -> bytes:
    """Buffer () { data }"""
    return bytes((BUFFER_OP,)) + _sized(value(len(data)) + data)


def resource_template(*descriptors: bytes) -> bytes:
    """ResourceTemplate () { descriptors }; a checksum of 0 in the end tag means "not checked"."""
    return buffer(b"".join(descriptors) + bytes((END_TAG, 0)))


def io(port: int, count: int) -> bytes:
    """IO (Decode16, port, port, 1, count): ports of this device (§6.4.2.5)."""
    base = port.to_bytes(2, "little")
    return bytes((IO_DESCRIPTOR, IO_DECODE_16)) + base + base + bytes((1, count))


def memory_fixed(address: int, size: int) -> bytes:
    """Memory32Fixed (ReadWrite, address, size): registers of this device (§6.4.3.4)."""
    body = bytes((MEMORY_WRITABLE,)) + address.to_bytes(4, "little") + size.to_bytes(4, "little")
    return bytes((MEMORY_32_FIXED,)) + len(body).to_bytes(2, "little") + body


def irq(number: int) -> bytes:
    """IRQNoFlags () { number }: an ISA interrupt, rising edge, not shared (§6.4.2.1)."""
    return bytes((IRQ_DESCRIPTOR,)) + (1 << number).to_bytes(2, "little")


def _address_space(width: int, kind: int, flags: int, first: int, last: int) -> bytes:
    """A range that a bridge hands on (§6.4.3.5); numbers in it have ``width`` bytes."""
    # granularity, minimum, maximum, translation, length
    numbers = b"".join(n.to_bytes(width, "little") for n in (0, first, last, 0, last - first + 1))
    body = bytes((kind, RANGE_FIXED, flags)) + numbers
    return bytes((_ADDRESS_SPACES[width],)) + len(body).to_bytes(2, "little") + body


def bus_numbers(first: int, last: int) -> bytes:
    """WordBusNumber (ResourceProducer, …)"""
    return _address_space(2, RANGE_BUS, 0, first, last)


def io_window(first: int, last: int) -> bytes:
    """WordIO (ResourceProducer, …)"""
    return _address_space(2, RANGE_IO, IO_ENTIRE_RANGE, first, last)


def memory_window(first: int, last: int) -> bytes:
    """DWordMemory (ResourceProducer, …) below 4 GiB, QWordMemory above; not cacheable, writable."""
    width = 4 if last < 1 << 32 else 8
    return _address_space(width, RANGE_MEMORY, MEMORY_READ_WRITE, first, last)
