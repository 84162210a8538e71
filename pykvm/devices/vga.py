"""A VGA in text mode: its registers, and the picture that they and the memory at 0xB8000 make.

The memory is the guest's own RAM, which a guest writes without an exit; ``picture`` reads it. There is no
graphics: a guest that turns it on shows nothing. The CRTC is at the colour addresses only; at 0x3B4 there
is nothing, as on a PC with a colour display. The source is IBM's PS/2 Hardware Interface Technical
Reference, "Video Subsystem"; the values after reset are those of mode 3 there.
"""

from __future__ import annotations

from pykvm.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.devices.device import Clock, State
    from pykvm.memory import GuestMemory

PORT = 0x3C0

# offset from PORT, name, access
REGISTERS = (
    (0x0, "ATTRIBUTE", "RW", "index and data by turns; a read gives the index"),
    (0x1, "ATTRIBUTE_DATA", "R", "what the index selects"),
    (0x2, "MISCELLANEOUS", "W", "read: input status 0"),
    (0x3, "ENABLE", "RW", "bit 0: the subsystem is on"),
    (0x4, "SEQUENCER_INDEX", "RW", ""),
    (0x5, "SEQUENCER_DATA", "RW", ""),
    (0x6, "DAC_MASK", "RW", ""),
    (0x7, "DAC_STATE", "R", "3 in a read, 0 in a write; written: the index to read"),
    (0x8, "DAC_INDEX", "RW", "the index to write"),
    (0x9, "DAC_DATA", "RW", "red, green, blue by turns, 6 bits each"),
    (0xA, "FEATURE", "R", ""),
    (0xC, "MISCELLANEOUS_READ", "R", ""),
    (0xE, "GRAPHICS_INDEX", "RW", ""),
    (0xF, "GRAPHICS_DATA", "RW", ""),
    (0x14, "CRTC_INDEX", "RW", "port 0x3D4"),
    (0x15, "CRTC_DATA", "RW", "port 0x3D5"),
    (0x1A, "STATUS", "R", "port 0x3DA: input status 1; written: FEATURE"),
)
ATTRIBUTE, ATTRIBUTE_DATA, MISCELLANEOUS, ENABLE = 0x0, 0x1, 0x2, 0x3
SEQUENCER_INDEX, SEQUENCER_DATA = 0x4, 0x5
DAC_MASK, DAC_STATE, DAC_INDEX, DAC_DATA = 0x6, 0x7, 0x8, 0x9
FEATURE, MISCELLANEOUS_READ = 0xA, 0xC
GRAPHICS_INDEX, GRAPHICS_DATA = 0xE, 0xF
CRTC_INDEX, CRTC_DATA, STATUS = 0x14, 0x15, 0x1A

PLACES = ((0x3C0, 16), (0x3D4, 2), (0x3DA, 1))
"""Port and count of each run of them; the offset is the port less PORT."""

CRTC_RESET = bytes.fromhex("5f4f50825581bf1f004f0d0e000000009c8e8f281f96b9a3ff")
SEQUENCER_RESET = bytes.fromhex("0300030002")
GRAPHICS_RESET = bytes.fromhex("0000000000100e00ff")
ATTRIBUTE_RESET = bytes.fromhex("00010203040514073839 3a3b3c3d3e3f0c000f0800")
MISCELLANEOUS_RESET = 0x67

# Registers of the CRTC
HORIZONTAL_END = 0x01  # the last column
OVERFLOW = 0x07
MAXIMUM_SCAN_LINE = 0x09  # of a character
CURSOR_START, CURSOR_END = 0x0A, 0x0B
START_HIGH, START_LOW, CURSOR_HIGH, CURSOR_LOW = 0x0C, 0x0D, 0x0E, 0x0F
RETRACE_END = 0x11
VERTICAL_END = 0x12  # the last scan line, bits 0 to 7
OFFSET = 0x13  # half the characters from one row to the next

PROTECT = 0x80  # in RETRACE_END: registers 0 to 7 take no writes but for LINE_COMPARE_8
LINE_COMPARE_8 = 0x10  # in OVERFLOW
CURSOR_OFF = 0x20
DOUBLE_SCAN = 0x80

GRAPHICS_MODE = 6  # of the graphics registers: bit 0 graphics, bits 2 and 3 the memory's place
WINDOWS = {2: 0xB0000, 3: 0xB8000}
WINDOW_SIZE = 0x8000
MODE_CONTROL = 0x10  # of the attribute registers
BLINK = 0x08

STATUS_DISABLED = 0x01  # nothing is displayed just now
STATUS_RETRACE = 0x08  # vertical
FRAME_NS = 14_268_000  # 70.086 Hz
LINE_NS = 31_778
LINES_SHOWN_NS = 400 * LINE_NS
RETRACE_AT, RETRACE_NS = 412 * LINE_NS, 2 * LINE_NS
COLUMNS_SHOWN_NS = LINE_NS * 8 // 10

MOST_COLUMNS, MOST_ROWS = 132, 60
DAC_SIZE = 256 * 3


@frozen
class Picture:
    """``rows`` times ``columns`` characters and attributes, two bytes each, as the guest's memory has them.

    ``cursor`` is row and column, or None where none is shown. With ``blink`` the highest bit of an
    attribute is that, else the background's brightness.
    """

    columns: int
    rows: int
    cells: bytes
    cursor: tuple[int, int] | None
    blink: bool


class Indexed:
    """Registers behind an index; those that don't exist read as 0."""

    def __init__(self, values: bytes) -> None:
        self.index = 0
        self.values = bytearray(values)

    def read(self) -> int:
        return self.values[self.index] if self.index < len(self.values) else 0

    def write(self, value: int) -> None:
        if self.index < len(self.values):
            self.values[self.index] = value


class Vga:
    """The registers at PLACES, and the picture of text in ``memory``."""

    def __init__(self, clock: Clock, memory: GuestMemory) -> None:
        self._clock = clock
        self._memory = memory
        self._crtc = Indexed(CRTC_RESET)
        self._sequencer = Indexed(SEQUENCER_RESET)
        self._graphics = Indexed(GRAPHICS_RESET)
        self._attribute = Indexed(ATTRIBUTE_RESET)
        self._attribute_byte = 0x20  # the index as written: bit 5 lets the picture through
        self._data_next = False  # at ATTRIBUTE
        self._miscellaneous = MISCELLANEOUS_RESET
        self._enable = 1
        self._feature = 0
        self._dac = _dac_at_reset()
        self._dac_mask = 0xFF
        self._dac_at = 0  # in bytes
        self._dac_reads = False

    def read(self, offset: int, size: int) -> int:
        if offset == STATUS:
            self._data_next = False
            return self._status()
        if offset == CRTC_DATA:
            return self._crtc.read()
        if offset == CRTC_INDEX:
            return self._crtc.index
        if offset == DAC_DATA:
            return self._next_dac()
        return self._read_rest(offset)

    def _read_rest(self, offset: int) -> int:
        if offset == ATTRIBUTE:
            return self._attribute_byte
        if offset == ATTRIBUTE_DATA:
            return self._attribute.read()
        if offset in (SEQUENCER_INDEX, GRAPHICS_INDEX):
            return (self._sequencer if offset == SEQUENCER_INDEX else self._graphics).index
        if offset in (SEQUENCER_DATA, GRAPHICS_DATA):
            return (self._sequencer if offset == SEQUENCER_DATA else self._graphics).read()
        return {
            MISCELLANEOUS: 0x10,  # the sense of a colour display
            ENABLE: self._enable,
            DAC_MASK: self._dac_mask,
            DAC_STATE: 3 if self._dac_reads else 0,
            DAC_INDEX: self._dac_at // 3,
            FEATURE: self._feature,
            MISCELLANEOUS_READ: self._miscellaneous,
        }.get(offset, 0xFF)

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == CRTC_INDEX:
            self._crtc.index = value
        elif offset == CRTC_DATA:
            self._write_crtc(value)
        elif offset == ATTRIBUTE:
            self._write_attribute(value)
        elif offset == DAC_DATA:
            self._dac[self._dac_at] = value & 0x3F
            self._dac_at = (self._dac_at + 1) % DAC_SIZE
        else:
            self._write_rest(offset, value)

    def _write_rest(self, offset: int, value: int) -> None:
        if offset == MISCELLANEOUS:
            self._miscellaneous = value
        elif offset == ENABLE:
            self._enable = value & 1
        elif offset == SEQUENCER_INDEX:
            self._sequencer.index = value
        elif offset == SEQUENCER_DATA:
            self._sequencer.write(value)
        elif offset == GRAPHICS_INDEX:
            self._graphics.index = value
        elif offset == GRAPHICS_DATA:
            self._graphics.write(value)
        elif offset == DAC_MASK:
            self._dac_mask = value
        elif offset in (DAC_STATE, DAC_INDEX):
            self._dac_at = value * 3
            self._dac_reads = offset == DAC_STATE
        elif offset == STATUS:
            self._feature = value

    def _write_crtc(self, value: int) -> None:
        crtc = self._crtc
        if crtc.index <= OVERFLOW and crtc.values[RETRACE_END] & PROTECT:
            if crtc.index != OVERFLOW:
                return
            value = crtc.values[OVERFLOW] & ~LINE_COMPARE_8 | value & LINE_COMPARE_8
        crtc.write(value)

    def _write_attribute(self, value: int) -> None:
        if self._data_next:
            self._attribute.write(value)
        else:
            self._attribute_byte = value & 0x3F
            self._attribute.index = value & 0x1F
        self._data_next = not self._data_next

    def _next_dac(self) -> int:
        value = self._dac[self._dac_at]
        self._dac_at = (self._dac_at + 1) % DAC_SIZE
        return value

    def _status(self) -> int:
        """Where the beam of a display of 70 Hz is."""
        at = self._clock.now() % FRAME_NS
        if RETRACE_AT <= at < RETRACE_AT + RETRACE_NS:
            return STATUS_DISABLED | STATUS_RETRACE
        shown = at < LINES_SHOWN_NS and at % LINE_NS < COLUMNS_SHOWN_NS
        return 0 if shown else STATUS_DISABLED

    # The picture

    def picture(self) -> Picture | None:
        """What is on the screen; None in a graphics mode, and where the registers make no picture."""
        crtc = self._crtc.values
        mode = self._graphics.values[GRAPHICS_MODE]
        window = WINDOWS.get(mode >> 2 & 3)
        overflow = crtc[OVERFLOW]
        lines = 1 + (crtc[VERTICAL_END] | (overflow & 0x02) << 7 | (overflow & 0x40) << 3)
        height = (crtc[MAXIMUM_SCAN_LINE] & 0x1F) + 1
        if crtc[MAXIMUM_SCAN_LINE] & DOUBLE_SCAN:
            lines //= 2
        columns, rows = crtc[HORIZONTAL_END] + 1, lines // height
        if mode & 1 or window is None or columns > MOST_COLUMNS or not 0 < rows <= MOST_ROWS:
            return None
        start = crtc[START_HIGH] << 8 | crtc[START_LOW]
        return Picture(
            columns=columns,
            rows=rows,
            cells=self._cells(window, start, columns, rows),
            cursor=self._cursor(start, columns, rows, height),
            blink=bool(self._attribute.values[MODE_CONTROL] & BLINK),
        )

    def _cells(self, window: int, start: int, columns: int, rows: int) -> bytes:
        pitch, first = 4 * self._crtc.values[OFFSET], 2 * start % WINDOW_SIZE
        if pitch == 2 * columns and first + pitch * rows <= WINDOW_SIZE:
            return self._memory.read(window + first, pitch * rows)
        shown = self._memory.read(window, WINDOW_SIZE) * 2  # the addresses wrap
        places = ((first + row * pitch) % WINDOW_SIZE for row in range(rows))
        return b"".join(shown[place : place + 2 * columns] for place in places)

    def _cursor(self, start: int, columns: int, rows: int, height: int) -> tuple[int, int] | None:
        crtc = self._crtc.values
        first, last = crtc[CURSOR_START] & 0x1F, crtc[CURSOR_END] & 0x1F
        if crtc[CURSOR_START] & CURSOR_OFF or first > last or first >= height:
            return None
        at = (crtc[CURSOR_HIGH] << 8 | crtc[CURSOR_LOW]) - start
        row, column = divmod(at, 2 * crtc[OFFSET] or columns)
        return (row, column) if 0 <= row < rows and column < columns else None

    # State; the memory is saved as the guest's

    def save(self) -> State:
        files = {"crtc": self._crtc, "sequencer": self._sequencer}
        files |= {"graphics": self._graphics, "attribute": self._attribute}
        return {
            "version": 1,
            "indices": {name: file.index for name, file in files.items()},
            "values": {name: bytes(file.values) for name, file in files.items()},
            "attribute_byte": self._attribute_byte,
            "data_next": self._data_next,
            "miscellaneous": self._miscellaneous,
            "enable": self._enable,
            "feature": self._feature,
            "dac": bytes(self._dac),
            "dac_mask": self._dac_mask,
            "dac_at": self._dac_at,
            "dac_reads": self._dac_reads,
        }

    def load(self, state: State) -> None:
        files = {"crtc": self._crtc, "sequencer": self._sequencer}
        files |= {"graphics": self._graphics, "attribute": self._attribute}
        for name, file in files.items():
            file.index = state["indices"][name]
            file.values[:] = state["values"][name]
        self._attribute_byte = state["attribute_byte"]
        self._data_next = state["data_next"]
        self._miscellaneous = state["miscellaneous"]
        self._enable = state["enable"]
        self._feature = state["feature"]
        self._dac[:] = state["dac"]
        self._dac_mask = state["dac_mask"]
        self._dac_at = state["dac_at"]
        self._dac_reads = state["dac_reads"]


def _dac_at_reset() -> bytearray:
    """The 64 colours of an EGA: bits 5 to 3 a third, bits 2 to 0 two thirds of red, green and blue."""
    dac = bytearray(DAC_SIZE)
    for colour in range(64):
        for part in range(3):
            low, high = colour >> 5 - part & 1, colour >> 2 - part & 1
            dac[3 * colour + part] = 0x15 * low + 0x2A * high
    return dac
