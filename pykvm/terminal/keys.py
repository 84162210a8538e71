"""The keys at a terminal that are pykvm's own: Ctrl-A and one more."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    Events = list["bytes | str"]

PREFIX = b"\x01"  # Ctrl-A

STOP = "stop"
BREAK = "break"
HELP = "help"
SCREEN = "screen"
VIEW = "view"

COMMANDS = {
    b"x": (STOP, "stop the machine"),
    b"b": (BREAK, "send a break"),
    b"s": (SCREEN, "print the guest's screen"),
    b"v": (VIEW, "change between the serial port and the screen"),
    b"h": (HELP, "list these keys"),
}

GREETING = "Ctrl-A x stops the machine, Ctrl-A h lists the keys"

HELP_LINES = (
    *(f"Ctrl-A {key.decode()}       {meaning}" for key, (_, meaning) in COMMANDS.items()),
    "Ctrl-A Ctrl-A  send Ctrl-A",
)


class Keys:
    """Tells what is typed for the guest from what is typed for pykvm."""

    def __init__(self) -> None:
        self._after_prefix = False

    def feed(self, data: bytes) -> Events:
        """What ``data`` means, in order: bytes for the guest, and the names of commands.

        A key without a meaning after Ctrl-A goes to nobody and lists the keys: whoever pressed
        Ctrl-A for the guest learns how to send it.
        """
        events: Events = []
        while data:
            if self._after_prefix:
                self._after_prefix = False
                key, data = data[:1], data[1:]
                events.append(PREFIX if key == PREFIX else COMMANDS.get(key, COMMANDS[b"h"])[0])
            else:
                plain, prefix, data = data.partition(PREFIX)
                if plain:
                    events.append(plain)
                self._after_prefix = bool(prefix)
        return events
