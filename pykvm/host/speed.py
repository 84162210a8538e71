"""How fast this host's KVM runs a guest's ring 0: on the hardware, or interpreted."""

from __future__ import annotations

from pykvm.host.guest import ProbeGuest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.host.guest import Ending

HARDWARE, INTERPRETED, UNKNOWN = "hardware", "interpreted", "unknown"

# An interpreter does 1 to 4 million instructions a second; hardware does thousands, and hundreds where
# the hardware is itself emulated.
THRESHOLD = 30.0
SHORT, LONG = 1_000, 21_000  # rounds: the difference costs an interpreter 10 to 20 ms
TRIES = 3


def loop(rounds: int) -> bytes:
    """``mov ecx, rounds; again: dec ecx; jnz again`` for real mode."""
    return b"\x66\xb9" + rounds.to_bytes(4, "little") + bytes.fromhex("6649 75fc")


def mips(guest: ProbeGuest) -> float:
    """Million instructions a second of a loop in ring 0; the cost of the exit cancels out."""

    def best(rounds: int) -> int:
        runs: list[Ending] = [guest.run("real", loop(rounds)) for _ in range(TRIES)]
        return min(run.ns for run in runs)

    return 2 * (LONG - SHORT) * 1000 / max(best(LONG) - best(SHORT), 1)


def kind(measured: float) -> str:
    """What a speed means."""
    return HARDWARE if measured >= THRESHOLD else INTERPRETED
