"""The XSAVE area of a CPU: x87, SSE and the further state components as bytes (Intel SDM vol. 1 §13.4).

Offset, bytes and content of the legacy region::

    0   2  FCW     2  2  FSW     4  1  FTW (abridged)     6  2  FOP     8  8  FIP     16  8  FDP
    24  4  MXCSR   28 4  MXCSR_MASK                       32 128 ST0–ST7              160 256 XMM0–XMM15
    512 8  XSTATE_BV                                      520 8  XCOMP_BV

A component whose bit in XSTATE_BV is 0 has its initial values, whatever its bytes say.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    Components = Mapping[int, tuple[int, int, bool]]

LEGACY_SIZE = 512
HEADER_END = 576

X87 = 0
SSE = 1
PKRU = 9

MXCSR_DEFAULT = 0x1F80
_FCW_DEFAULT = (0x37F).to_bytes(2, "little")
_DEFAULT_MASK = 0xFFFF

AVX_ONLY: Components = {2: (576, 256, False)}
"""The one component beyond SSE whose place is the same on every CPU: offset, size, whether it is aligned."""


class XsaveArea:
    """The state in the standard (not compacted) form, as KVM_GET_XSAVE gives it."""

    def __init__(self, data: bytes | bytearray, components: Components = AVX_ONLY) -> None:
        self.data = bytearray(data)
        self.components = components

    @classmethod
    def initial(cls, components: Components = AVX_ONLY) -> XsaveArea:
        """The state after FNINIT and with everything else at its initial values."""
        size = max([HEADER_END, *(offset + size for offset, size, _ in components.values())])
        area = cls(bytes(size), components)
        area.data[:2] = _FCW_DEFAULT
        area.mxcsr = MXCSR_DEFAULT
        return area

    def image(self) -> bytes:
        """The area for KVM_SET_XSAVE, which takes MXCSR only where SSE is in use."""
        whole = XsaveArea(self.data, self.components)
        if self.mxcsr != MXCSR_DEFAULT:
            whole.set_component(SSE, self.component(SSE))
        return bytes(whole.data)

    @property
    def in_use(self) -> int:
        """XSTATE_BV: the components that are not in their initial state."""
        return int.from_bytes(self.data[512:520], "little")

    @in_use.setter
    def in_use(self, mask: int) -> None:
        self.data[512:520] = mask.to_bytes(8, "little")

    @property
    def mxcsr(self) -> int:
        return int.from_bytes(self.data[24:28], "little")

    @mxcsr.setter
    def mxcsr(self, value: int) -> None:
        self.data[24:28] = value.to_bytes(4, "little")

    @property
    def mxcsr_mask(self) -> int:
        """The bits of MXCSR that may be set."""
        return int.from_bytes(self.data[28:32], "little") or _DEFAULT_MASK

    @property
    def fsw(self) -> int:
        """The x87 status word."""
        return int.from_bytes(self.component(X87)[2:4], "little")

    def xmm(self, number: int) -> int:
        """The low 128 bits of vector register ``number``."""
        return int.from_bytes(self.component(SSE)[16 * number : 16 * number + 16], "little")

    def set_xmm(self, number: int, value: int) -> None:
        """Set the low 128 bits; those above stay, as with instructions that have no VEX prefix."""
        registers = bytearray(self.component(SSE))
        registers[16 * number : 16 * number + 16] = value.to_bytes(16, "little")
        self.set_component(SSE, bytes(registers))

    def pkru(self) -> int:
        """The rights of protection keys (SDM vol. 3 §4.6.2)."""
        return int.from_bytes(self.component(PKRU), "little") if PKRU in self.components else 0

    def size(self, number: int) -> int:
        """How many bytes component ``number`` has; x87 has two pieces (24 and 128) that count as one."""
        if number == X87:
            return 24 + 128
        return 256 if number == SSE else self.components[number][1]

    def component(self, number: int) -> bytes:
        """The bytes of component ``number``, its initial ones where it isn't in use."""
        if not self.in_use >> number & 1:
            return (_FCW_DEFAULT if number == X87 else b"").ljust(self.size(number), b"\0")
        if number == X87:
            return bytes(self.data[:24] + self.data[32:160])
        offset = 160 if number == SSE else self.components[number][0]
        return bytes(self.data[offset : offset + self.size(number)])

    def set_component(self, number: int, content: bytes) -> None:
        """Set a component and mark it as in use."""
        self._place(number, content)
        self.in_use |= 1 << number

    def reset_component(self, number: int) -> None:
        """Give a component its initial values."""
        self.in_use &= ~(1 << number)
        self._place(number, self.component(number))

    def _place(self, number: int, content: bytes) -> None:
        if number == X87:
            self.data[:24], self.data[32:160] = content[:24], content[24:]
        else:
            offset = 160 if number == SSE else self.components[number][0]
            self.data[offset : offset + len(content)] = content
