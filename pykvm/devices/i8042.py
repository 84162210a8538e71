"""The keyboard controller of a PC: an i8042 with a keyboard and without a mouse.

It sits at ports 0x60 and 0x64, its offsets 0 and 4: it is attached twice. It is never busy, so
that no driver waits; what it is asked about the mouse it answers at once, as not there. The
source is IBM's PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device
Controller".
"""

from __future__ import annotations

from pykvm.devices.keyboard import Keyboard, SetOne

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.devices.device import Line, State

# offset, name, access, value after reset, source
REGISTERS = (
    (0, "OUTPUT", "R", 0x00, "port 0x60: a byte from the controller or the keyboard"),
    (0, "INPUT", "W", None, "port 0x60: to the keyboard, or the option of a command"),
    (4, "STATUS", "R", 0x14, "port 0x64"),
    (4, "COMMAND", "W", None, "port 0x64"),
)
DATA = 0
COMMAND = STATUS = 4

STATUS_OBF = 0x01  # there is a byte to read
STATUS_SYS = 0x04
STATUS_COMMAND = 0x08  # what was written last went to COMMAND
STATUS_UNLOCKED = 0x10
STATUS_AUX = 0x20  # the byte is the mouse's
STATUS_TIMEOUT = 0x40  # and says that it did not answer
STATUS_OUTPUT = STATUS_OBF | STATUS_AUX | STATUS_TIMEOUT

# command, name, what is read at DATA afterwards
COMMANDS = (
    (0x20, "READ_RAM", "byte 0 of the controller's RAM, the command byte; to 0x3F the other 31"),
    (0x60, "WRITE_RAM", "the option goes there; to 0x7F likewise"),
    (0xA4, "TEST_PASSWORD", "F1: there is none"),
    (0xA7, "DISABLE_AUX", ""),
    (0xA8, "ENABLE_AUX", ""),
    (0xA9, "TEST_AUX", "01: its clock line is stuck"),
    (0xAA, "SELF_TEST", "55: passed"),
    (0xAB, "TEST_KEYBOARD", "00: passed"),
    (0xAD, "DISABLE_KEYBOARD", ""),
    (0xAE, "ENABLE_KEYBOARD", ""),
    (0xC0, "READ_INPUT_PORT", "the input port"),
    (0xD0, "READ_OUTPUT_PORT", "the output port"),
    (0xD1, "WRITE_OUTPUT_PORT", "the option goes there"),
    (0xD2, "WRITE_KEYBOARD_OUTPUT", "the option, as if it came from the keyboard"),
    (0xD3, "WRITE_AUX_OUTPUT", "the option, but not as the mouse's: there is none"),
    (0xD4, "WRITE_AUX", "FE with a timeout: the mouse doesn't answer"),
    (0xDD, "DISABLE_A20", ""),
    (0xDF, "ENABLE_A20", ""),
    (0xF0, "PULSE", "to 0xFF: output port lines 3 to 0 go low where the bit is 0, line 0 resets"),
)
READ_RAM = 0x20
WRITE_RAM = 0x60
TEST_PASSWORD = 0xA4
DISABLE_AUX = 0xA7
ENABLE_AUX = 0xA8
TEST_AUX = 0xA9
SELF_TEST = 0xAA
TEST_KEYBOARD = 0xAB
DISABLE_KEYBOARD = 0xAD
ENABLE_KEYBOARD = 0xAE
READ_INPUT_PORT = 0xC0
READ_OUTPUT_PORT = 0xD0
WRITE_OUTPUT_PORT = 0xD1
WRITE_KEYBOARD_OUTPUT = 0xD2
WRITE_AUX_OUTPUT = 0xD3
WRITE_AUX = 0xD4
DISABLE_A20 = 0xDD
ENABLE_A20 = 0xDF
PULSE = 0xF0

# These give an answer and do nothing else. Linux takes 01 to 03 at TEST_AUX for "no mouse", 00, FA
# and FF for "try further", which costs it half a second.
ANSWERS = {TEST_PASSWORD: 0xF1, TEST_AUX: 0x01, TEST_KEYBOARD: 0x00, READ_INPUT_PORT: 0x80}
WITH_OPTION = frozenset((WRITE_OUTPUT_PORT, WRITE_KEYBOARD_OUTPUT, WRITE_AUX_OUTPUT, WRITE_AUX))
SELF_TEST_PASSED = 0x55
NO_ANSWER = 0xFE

# The command byte: byte 0 of the controller's RAM
CTR_KEYBOARD_INTERRUPT = 0x01
CTR_SYS = 0x04
CTR_KEYBOARD_DISABLED = 0x10
CTR_AUX_DISABLED = 0x20
CTR_TRANSLATE = 0x40  # the keyboard's set 2 to set 1
# As a BIOS leaves it, which kernels that start without one count on: Linux keeps what it finds.
CTR_RESET = CTR_KEYBOARD_INTERRUPT | CTR_SYS | CTR_AUX_DISABLED | CTR_TRANSLATE
RAM_SIZE = 32

OUTPUT_NO_RESET = 0x01
OUTPUT_A20 = 0x02
OUTPUT_OBF = 0x10
OUTPUT_AUX_OBF = 0x20
OUTPUT_LINES = 0xC0  # the keyboard's clock and data, idle


class I8042:
    """The controller, with the keyboard's line ``irq`` (a PC's IRQ 1).

    ``on_reset`` is called when the guest resets the machine by it. The A20 gate is a bit that reads
    back and does nothing: with KVM address line 20 is always there.
    """

    def __init__(self, irq: Line, on_reset: Callable[[], None]) -> None:
        self._irq = irq
        self._on_reset = on_reset
        self._keyboard = Keyboard()
        self._set_one = SetOne()
        self._ram = bytearray(RAM_SIZE)
        self._ram[0] = CTR_RESET
        self._status = STATUS_UNLOCKED
        self._data = 0
        self._option_of = 0  # the command whose option byte comes next at DATA
        self._a20 = OUTPUT_A20
        self._level = False
        self.on_room: Callable[[], None] | None = None
        """Called when the guest has read a byte after ``key`` had refused some."""
        self._refused = False

    def key(self, codes: bytes) -> bool:
        """Press or let go of keys, in codes of set 2; False where there is no room for all of them."""
        taken = self._keyboard.key(codes)
        self._refused = not taken
        self._fetch()
        return taken

    # The guest's side

    def read(self, offset: int, size: int) -> int:
        """DATA, and by that the next byte may come; or STATUS."""
        if offset == STATUS:
            return self._status | self._ram[0] & CTR_SYS
        data = self._data
        if self._status & STATUS_OBF:
            self._status &= ~STATUS_OUTPUT
            self._update()
            self._fetch()
            if self._refused and self.on_room is not None:
                self._refused = False
                self.on_room()
        return data

    def write(self, offset: int, size: int, value: int) -> None:
        """A command, its option, or a byte for the keyboard."""
        if offset == COMMAND:
            self._status |= STATUS_COMMAND
            self._option_of = 0
            self._command(value)
        else:
            self._status &= ~STATUS_COMMAND
            command, self._option_of = self._option_of, 0
            if command:
                self._take_option(command, value)
            else:
                # What is for the keyboard goes there even where it had been disabled.
                self._ram[0] &= ~CTR_KEYBOARD_DISABLED
                self._keyboard.write(value)
        self._fetch()
        self._update()

    def _command(self, command: int) -> None:
        if READ_RAM <= command < READ_RAM + RAM_SIZE:
            self._output(self._ram[command - READ_RAM])
        elif WRITE_RAM <= command < WRITE_RAM + RAM_SIZE or command in WITH_OPTION:
            self._option_of = command
        elif command in ANSWERS:
            self._output(ANSWERS[command])
        elif command == SELF_TEST:
            self._ram[0] |= CTR_SYS
            self._output(SELF_TEST_PASSED)
        elif command == DISABLE_AUX:
            self._ram[0] |= CTR_AUX_DISABLED
        elif command == ENABLE_AUX:
            self._ram[0] &= ~CTR_AUX_DISABLED
        elif command == DISABLE_KEYBOARD:
            self._ram[0] |= CTR_KEYBOARD_DISABLED
        elif command == ENABLE_KEYBOARD:
            self._ram[0] &= ~CTR_KEYBOARD_DISABLED
        elif command == READ_OUTPUT_PORT:
            self._output(self._output_port())
        elif command in (DISABLE_A20, ENABLE_A20):
            self._a20 = OUTPUT_A20 if command == ENABLE_A20 else 0
        elif command >= PULSE and not command & OUTPUT_NO_RESET:
            self._on_reset()

    def _take_option(self, command: int, option: int) -> None:
        if command == WRITE_OUTPUT_PORT:
            self._a20 = option & OUTPUT_A20
            if not option & OUTPUT_NO_RESET:
                self._on_reset()
        elif command in (WRITE_KEYBOARD_OUTPUT, WRITE_AUX_OUTPUT):
            self._output(option)
        elif command == WRITE_AUX:
            self._output(NO_ANSWER, STATUS_AUX | STATUS_TIMEOUT)
        else:
            self._ram[command - WRITE_RAM] = option

    def _output_port(self) -> int:
        port = OUTPUT_LINES | OUTPUT_NO_RESET | self._a20
        if self._status & STATUS_OBF:
            port |= OUTPUT_AUX_OBF if self._status & STATUS_AUX else OUTPUT_OBF
        return port

    # The output buffer

    def _output(self, byte: int, flags: int = 0) -> None:
        """A byte for DATA. One that was not read is lost: drivers disable the keyboard before they ask."""
        self._status &= ~STATUS_OUTPUT
        self._update()
        self._data = byte
        self._status |= STATUS_OBF | flags
        self._update()

    def _fetch(self) -> None:
        """Take the keyboard's next byte, if there is room for it and it may send."""
        while not (self._status & STATUS_OBF or self._ram[0] & CTR_KEYBOARD_DISABLED):
            byte = self._keyboard.take()
            if byte is None:
                break
            code = self._set_one.translate(byte) if self._ram[0] & CTR_TRANSLATE else byte
            if code is not None:
                self._output(code)

    def _update(self) -> None:
        """The line is up while the buffer holds a byte that is not the mouse's, if the guest wants it."""
        full = self._status & (STATUS_OBF | STATUS_AUX) == STATUS_OBF
        level = full and bool(self._ram[0] & CTR_KEYBOARD_INTERRUPT)
        if level != self._level:
            self._level = level
            self._irq.set(level)

    # State

    def save(self) -> State:
        return {
            "version": 1,
            "keyboard": self._keyboard.save(),
            "released": self._set_one.released,
            "ram": bytes(self._ram),
            "status": self._status,
            "data": self._data,
            "option_of": self._option_of,
            "a20": self._a20,
        }

    def load(self, state: State) -> None:
        self._keyboard.load(state["keyboard"])
        self._set_one.released = state["released"]
        self._ram[:] = state["ram"]
        self._status = state["status"]
        self._data = state["data"]
        self._option_of = state["option_of"]
        self._a20 = state["a20"]
        self._update()
        self._irq.set(self._level)
