"""The keyboard at the end of the i8042's wire: IBM's Enhanced Keyboard, in scan code sets 1 and 2.

The source is IBM's PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device".
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.devices.device import State

# byte, name, what comes back after ACK, what it does
COMMANDS = (
    (0xED, "SET_LEDS", "", "the option byte that follows sets scroll, num and caps lock"),
    (0xEE, "ECHO", "EE, without ACK", ""),
    (0xF0, "SCAN_CODE_SET", "the set, for option 0", "the option byte selects set 1 or 2"),
    (0xF2, "IDENTIFY", "AB 83", ""),
    (0xF3, "TYPEMATIC", "", "the option byte sets rate and delay"),
    (0xF4, "ENABLE", "", "clears the keys, reports from now on"),
    (0xF5, "DEFAULT_DISABLE", "", "defaults, clears the keys, reports no more"),
    (0xF6, "DEFAULTS", "", "defaults, clears the keys"),
    (0xFE, "RESEND", "the byte sent last, without ACK", ""),
    (0xFF, "RESET", "AA", "defaults, clears the keys, reports from now on"),
)
SET_LEDS = 0xED
ECHO = 0xEE
SCAN_CODE_SET = 0xF0
IDENTIFY = 0xF2
TYPEMATIC = 0xF3
ENABLE = 0xF4
DEFAULT_DISABLE = 0xF5
DEFAULTS = 0xF6
RESEND = 0xFE
RESET = 0xFF
FIRST_COMMAND = SET_LEDS  # what is below can only be an option

ACK = 0xFA
TEST_PASSED = 0xAA
IDENTITY = (0xAB, 0x83)
BREAK_PREFIX = 0xF0  # in set 2, before the code of a key that is let go

QUEUE = 16  # bytes of key codes, and of answers

# The code in set 1 for each in set 2, by index; both are IBM's.
SET_1 = bytes.fromhex(
    "ff 43 41 3f 3d 3b 3c 58  64 44 42 40 3e 0f 29 59"
    "65 38 2a 70 1d 10 02 5a  66 71 2c 1f 1e 11 03 5b"
    "67 2e 2d 20 12 05 04 5c  68 39 2f 21 14 13 06 5d"
    "69 31 30 23 22 15 07 5e  6a 72 32 24 16 08 09 5f"
    "6b 33 25 17 18 0b 0a 60  6c 34 35 26 27 19 0c 61"
    "6d 73 28 74 1a 0d 62 6e  3a 36 1c 1b 75 2b 63 76"
    "55 56 77 78 79 7a 0e 7b  7c 4f 7d 4b 47 7e 7f 6f"
    "52 53 50 4c 4d 48 01 45  57 4e 51 4a 37 49 46 54"
    "80 81 82 41 54"
)


class SetOne:
    """Turns codes of set 2 into those of set 1, byte by byte; what is no key's code goes through."""

    def __init__(self) -> None:
        self.released = False  # a break prefix has been; in set 1 that is the top bit

    def translate(self, byte: int) -> int | None:
        """The byte of set 1, or None after a prefix that set 1 doesn't have."""
        if byte == BREAK_PREFIX:
            self.released = True
            return None
        code = SET_1[byte] if byte < len(SET_1) else byte
        if self.released:
            self.released = False
            code |= 0x80
        return code


class Keyboard:
    """What is typed and what is answered; the controller takes a byte when it has room."""

    def __init__(self) -> None:
        self._keys = bytearray()
        self._answers = bytearray()
        self._option_of = 0  # the command whose option byte comes next
        self._last = 0
        self._set_one = SetOne()
        self._defaults()
        self._enabled = True

    def _defaults(self) -> None:
        self._keys.clear()
        self._set = 2

    def key(self, codes: bytes) -> bool:
        """Press or let go of keys, in codes of set 2.

        False where they don't all fit: none is taken then, so that no code is torn. While the
        guest has the keyboard disabled, what is typed is lost.
        """
        if not self._enabled:
            return True
        if len(self._keys) + len(codes) > QUEUE:
            return False
        for byte in codes:
            code = byte if self._set == 2 else self._set_one.translate(byte)
            if code is not None:
                self._keys.append(code)
        return True

    def take(self) -> int | None:
        """The next byte on the wire to the controller, answers before keys."""
        queue = self._answers or self._keys
        if not queue:
            return None
        self._last = queue.pop(0)
        return self._last

    def write(self, byte: int) -> None:
        """A byte from the controller: a command or its option."""
        command, self._option_of = self._option_of, 0
        if command and byte < FIRST_COMMAND:
            self._take_option(command, byte)
        elif byte == ECHO:
            self._answer(ECHO)
        elif byte == RESEND:
            self._answer(self._last)
        elif byte in (SET_LEDS, SCAN_CODE_SET, TYPEMATIC):
            self._option_of = byte
            self._answer(ACK)
        elif byte == IDENTIFY:
            self._answer(ACK, *IDENTITY)
        elif byte == ENABLE:
            self._keys.clear()
            self._enabled = True
            self._answer(ACK)
        elif byte in (DEFAULTS, DEFAULT_DISABLE):
            self._defaults()
            self._enabled = self._enabled and byte == DEFAULTS
            self._answer(ACK)
        elif byte == RESET:
            self._defaults()
            self._enabled = True
            self._answer(ACK, TEST_PASSED)
        else:
            self._answer(RESEND)

    def _take_option(self, command: int, option: int) -> None:
        if command in (
            SET_LEDS,
            TYPEMATIC,
        ):  # nobody sees these lamps, and a host's keys repeat by themselves
            self._answer(ACK)
        elif option == 0:
            self._answer(ACK, self._set)
        elif option in (1, 2):
            self._set = option
            self._keys.clear()
            self._answer(ACK)
        else:
            self._answer(RESEND)

    def _answer(self, *answer: int) -> None:
        # Who sends commands without end and reads no answer gets no more of them.
        if len(self._answers) + len(answer) <= QUEUE:
            self._answers += bytes(answer)

    def save(self) -> State:
        return {
            "keys": bytes(self._keys),
            "answers": bytes(self._answers),
            "option_of": self._option_of,
            "last": self._last,
            "released": self._set_one.released,
            "enabled": self._enabled,
            "set": self._set,
        }

    def load(self, state: State) -> None:
        self._keys[:] = state["keys"]
        self._answers[:] = state["answers"]
        self._option_of = state["option_of"]
        self._last = state["last"]
        self._set_one.released = state["released"]
        self._enabled = state["enabled"]
        self._set = state["set"]
