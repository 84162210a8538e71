"""Single instructions carried out on plain values, each by the manual's pseudo-code.

Every integer, string, control-transfer and system instruction in every mode, and some of SSE. For what a
host's KVM gives up (KVM_EXIT_INTERNAL_ERROR), for what a translator leaves, and to see what one does::

    cpu = Cpu(vcpu.regs(), vcpu.sregs())
    outcome = execute(cpu, memory, bytes.fromhex("f3 0f b8 c1"))

changes ``cpu``, and memory, and says what came of it; ``step(cpu, memory)`` fetches the bytes itself. One CPU
at a time: a LOCK prefix is honoured only as far as the caller keeps other CPUs still.
"""

from __future__ import annotations

from pykvm.x86.exceptions import Fault
from pykvm.x86.execute.cpu import Cpu
from pykvm.x86.execute.decode import DecodeError, TooLong, Undefined
from pykvm.x86.execute.engine import Outcome, carry_out, known, too_long, undefined
from pykvm.x86.execute.fetch import step
from pykvm.x86.execute.linear import Linear

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.x86.execute.linear import Memory

__all__ = ["Cpu", "Fault", "Outcome", "execute", "step"]


def execute(cpu: Cpu, memory: Memory | Linear, code: bytes) -> Outcome | None:
    """Carry out the instruction at the start of ``code``, which are the bytes at CS:RIP.

    None, with nothing changed, where it is not an instruction that is known here.
    """
    linear = memory if isinstance(memory, Linear) else Linear(cpu, memory)
    try:
        found = known(code, cpu.bits, cpu.features)
    except TooLong:
        return too_long(cpu)
    except Undefined:
        return undefined()
    except DecodeError:
        return None
    return None if found is None else carry_out(found, cpu, linear)
