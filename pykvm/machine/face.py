"""The narrow face by which the machine sees a vCPU, whatever runs it: KVM, or a translator."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from pykvm.machine.verdict import Cause

    class Cpu(Protocol):
        """A virtual CPU. Ports and device memory are reached through the buses it was built with.

        All methods but ``wake`` are called on the vCPU's own thread.
        """

        index: int
        exits: list[int]
        """How often the guest was left, by the back end's number of the reason."""

        def run(self) -> Cause | None:
            """Run the guest until it ends itself (a cause) or ``wake`` or a signal stops it (None)."""
            ...

        def wake(self) -> None:
            """Let the next ``run``, or the one that a signal then interrupts, return. Any thread."""
            ...

        def settle(self) -> None:
            """Finish what an exit left half done, so that all registers are true."""
            ...

        def state(self) -> dict[str, Any]:
            """The whole state as plain values; after ``settle``."""
            ...

        def load(self, state: dict[str, Any]) -> None:
            """Set registers from what ``state`` gave, or a part of it (an entry state)."""
            ...

        def halted_for_ever(self) -> bool:
            """Halted with interrupts off, or not started: only another CPU could bring it to life.

            May be called from another thread while this CPU's waits at the gate.
            """
            ...

        def raised(self) -> list[tuple[int, int | None, int | None, int]]:
            """The last exceptions that the guest was given, as far as the back end knows, the latest last.

            Of each the vector, error code, CR2 and RIP. After a triple fault the last is what began it.
            """
            ...

        def earlier(self) -> tuple[dict[str, Any], str] | None:
            """``state`` of an earlier moment, at least its regs and sregs, and when that was.

            For back ends whose host may lose the state by a triple fault.
            """
            ...

        def exit_names(self) -> dict[int, str]:
            """The names of the numbers in ``exits``, for the report."""
            ...

        def close(self) -> None:
            """Give up what the vCPU holds of the host."""
            ...
