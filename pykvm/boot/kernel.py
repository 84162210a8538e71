"""What the loader of a format tells about the kernel that it has put into memory."""

from __future__ import annotations

from pykvm.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.boot.header import SetupHeader


@frozen
class Kernel:
    """Where and in which mode ("real", "protected", "long") it is entered.

    ``header`` is Linux's setup header, None for a kernel that gets no boot_params; ``code32_start`` is
    the header's field: where the kernel's code lies. ``version`` is what it calls itself, or empty.
    """

    format: str
    mode: str
    address: int
    header: SetupHeader | None
    code32_start: int = 0
    version: str = ""

    @property
    def linux(self) -> bool:
        """Whether it is Linux: by its note, or because nothing else comes as a bzImage."""
        return self.format == "bzimage" or "Linux" in self.version
