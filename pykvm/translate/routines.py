"""What the runtime's routines are made with: an assembler that knows the context."""

from __future__ import annotations

from pykvm.translate import context
from pykvm.translate.context import SLOT
from pykvm.translate.encode import ADD, CMP, R8, RAX, RBX, RDI, RDX, RSI, RSP, SHL, XOR, Code, Mem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.translate.lookup import Lookup

ARITHMETIC = 0xCD5  # CF PF AF ZF SF DF OF: those that live in the host's flags
SYSTEM = 0x207000  # IOPL NT ID and what else lives in the context's system_flags
FLUSH_LOCAL, FLUSH_ALL = 1, 2  # arguments of EVENT
SAVED = {"rax": RAX, "rdx": RDX, "rbx": RBX, "rsi": RSI, "rdi": RDI, "r8": R8}


def slot(name: str) -> Mem:
    return Mem(RSP, SLOT[name])


class Routines(Code):
    """Assembles routines at ``origin``; ``entries`` are the addresses that the context's slots hold."""

    def __init__(self, origin: int, lookup: Lookup) -> None:
        super().__init__(origin)
        self.lookup = lookup
        self.entries: dict[str, int] = {}
        self._names = 0

    def fresh(self, name: str) -> str:
        self._names += 1
        return f"{name}.{self._names}"

    def save(self, *names: str) -> None:
        for name in names:
            self.mov(slot(f"save_{name}"), SAVED[name])

    def restore(self, *names: str) -> None:
        for name in names:
            self.mov(SAVED[name], slot(f"save_{name}"))

    def save_flags(self) -> None:
        self.raw("9c")
        self.pop_to(slot("saved_flags"))

    def restore_flags(self) -> None:
        self.push_from(slot("saved_flags"))
        self.raw("9d")

    def event(self, argument: int) -> None:
        self.set(slot("argument"), argument)
        self.jump("then-event")

    def invalid(self, reg: int) -> None:
        """``reg`` = a tag that no access through the entry RAX can match."""
        self.mov(reg, RAX, wide=False)
        self.alu_number(XOR, reg, 0x8000, wide=False)
        self.shift(SHL, reg, 12)
        self.op(0xF7, 3, reg)  # neg

    def log(self, count: str, log: int) -> None:
        """Append EAX to a log; a full one stays full, and then everything is dropped."""
        full = self.fresh("full")
        self.mov(RDI, slot(count))
        self.alu_number(CMP, RDI, context.LOG_ENTRIES)
        self.jump_if("ae", full)
        self.mov(Mem(RSP, log, RDI, 4), RAX, wide=False)
        self.alu_number(ADD, RDI, 1)
        self.mov(slot(count), RDI)
        self.label(full)
