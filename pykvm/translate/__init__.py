"""The back end without KVM: guest code becomes machine code of the host, block by block.

=============  =====================================================================================
context        the memory that emitted code works in: registers, tables, where each thing lies
encode         x86-64 machine code by name: what emitted code is made of
runtime        the routines that emitted code calls: the way in and out, page walks, string copies
decode         guest bytes to an instruction's parts, as fast as Python can
lookup         the check before each guest memory access
emit*          the host's instructions for one of the guest's
blocks         blocks, the pages they come from, their links and their end
mmu            the software TLB as Python sees it
breakpoints    those of the debug registers
state          the CPU's registers as the interpreter (x86/execute) takes them
msrs           model-specific registers
signals        faults of emitted code become the guest's
features       the CPUID of the translated CPU
cpu            the vCPU: its loop, its interrupts, its face to the machine
=============  =====================================================================================
"""

from __future__ import annotations

import platform


def usable() -> str | None:
    """Why this host can't run translated code; None where it can."""
    if platform.machine() != "x86_64":
        return f"the host's processor is {platform.machine()}, and translation makes code for x86-64 only"
    from pykvm.translate.memory import executable

    try:
        executable(4096).close()
    except OSError as error:
        return f"the host gives no memory that can be executed ({error.strerror})"
    return None
