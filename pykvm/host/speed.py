"""How fast this host's KVM runs a guest's ring 0: on the hardware, or interpreted."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.host.guest import ProbeGuest

HARDWARE, INTERPRETED, UNKNOWN = "hardware", "interpreted", "unknown"

# An interpreter does 1 to 4 million instructions a second; hardware does thousands, and hundreds where
# the hardware is itself emulated.
THRESHOLD = 30.0
SHORT = 100
ROUNDS = (4_000, 64_000, 1_000_000)
ENOUGH_NS = 2_000_000
"""A loop that runs for longer is measured well enough: an interpreter is spared the long ones."""
TRIES = 3
MORE_TRIES = 12
"""So often a loop is tried that looks like an interpreter's: the host may just have had other work to do."""


def loop(rounds: int) -> bytes:
    """``mov ecx, rounds; again: dec ecx; jnz again`` for long mode, the mode of a kernel."""
    return b"\xb9" + rounds.to_bytes(4, "little") + bytes.fromhex("ffc9 75fc")


def mips(guest: ProbeGuest) -> float:
    """Million instructions a second of a loop in ring 0; the cost of the exit cancels out."""
    rounds = spent = 1
    exit_ns = _best(guest, SHORT, TRIES)
    for rounds in ROUNDS:
        spent = max(_best(guest, rounds, TRIES) - exit_ns, 1)
        if spent >= ENOUGH_NS and kind(_mips(rounds, spent)) == INTERPRETED:
            spent = max(min(spent, _best(guest, rounds, MORE_TRIES) - exit_ns), 1)
        if spent >= ENOUGH_NS:
            break
    return _mips(rounds, spent)


def kind(measured: float) -> str:
    """What a speed means."""
    return HARDWARE if measured >= THRESHOLD else INTERPRETED


def _mips(rounds: int, spent_ns: int) -> float:
    return 2 * (rounds - SHORT) * 1000 / spent_ns


def _best(guest: ProbeGuest, rounds: int, tries: int) -> int:
    return min(guest.run("long", loop(rounds)).ns for _ in range(tries))
