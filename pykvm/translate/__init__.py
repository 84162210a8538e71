"""The back end without KVM: guest code becomes machine code of the host, block by block.

=====================  =============================================================================
context, memory        the memory that emitted code works in: registers, tables, where each thing lies
encode, routines       x86-64 machine code by name: what emitted code is made with
runtime                the routines that emitted code calls: the way in and out; then walks (page walks),
                       flushes (of the TLB), copies (of strings), ports, transitions (between rings)
decode, operands       guest bytes to an instruction's parts, as fast as Python can
lookup                 the check before each access to guest memory, and before each indirect jump
emit, emit_*           the host's instructions for one of the guest's; control for jumps; emit_segmented
                       and control_segmented for code whose segments aren't flat
translator             from a block's bytes to its code
codepage, blocks       blocks, the pages they come from, their links and their end
saved, store           translations kept on disk
mmu, physical          the software TLB as Python sees it; RAM and devices as the interpreter does
state, msrs, features  the CPU's registers, model-specific registers, CPUID
modes, breakpoints     what decides whether code is translated or interpreted
delivery, signals      exceptions and interrupts; faults of emitted code become the guest's
crossings              an instruction's operand across two pages, by emitted code
bounce                 one instruction with its operand in a buffer, where emitted code can't reach it
deviceaccess           loads and stores of devices, which are known by their place from the second time on
keptbytes              bytes for a serial port, while a guest prints without pause
lateedge               its interrupt while the CPU takes none
shared                 what several CPUs have in common, and how one has the others stand still
core, finder, exits    the CPU without its thread: its parts, where code is, what it returns for
cpu                    the vCPU: its loop, its interrupts, its face to the machine
=====================  =============================================================================

A guest instruction's way: ``cpu`` finds the block at RIP (``finder``), which ``translator`` makes where there
is none: each instruction is taken apart (``decode``) and emitted (``emit``), its memory operand behind a
``lookup``. Emitted code runs until it needs Python (``exits``); what isn't translated is interpreted by
x86/execute, one instruction at a time, on the same registers (``state``).
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
