"""The context: the memory that emitted code works in, at fixed distances from the host's RSP.

While guest code runs the host's RSP points here, 16 above a multiple of 64: so RSP serves as a shift
count of 16 (``shrx`` takes the low six bits), which a lookup needs and no register has to hold. Below lies
a stack, for the runtime's pushes and the frames of host signals.

Where the guest's general registers are while its code runs: most in the host's of the same name. RCX and R9
are the emitted code's own, so the guest's RCX is in R10 and its RSP in R11; the guest's R9 to R11, which
compilers use least, are in the context. Flags are the host's flags; those that are none of arithmetic's
(IF, AC and the rest) are in the context.
"""

from __future__ import annotations

from pykvm.x86.registers import GPRS

STACK_SIZE = 0x10000
ALIGNMENT = 16  # the context's address modulo 64

# The host register that holds a guest's, by number; None: in the context.
HOST_REGISTER = (0, 10, 2, 3, 11, 5, 6, 7, 8, None, None, None, 12, 13, 14, 15)
SCRATCH = 9  # holds a guest-virtual address, or a jump's target
SCRATCH2 = 1

_at = 0


def _slots(*names: str, size: int = 8) -> dict[str, int]:
    """Give each name ``size`` bytes, one after the other."""
    global _at
    found = {}
    for name in names:
        found[name] = _at
        _at += size
    return found


# Those within 127 bytes are reached by short instructions: what is hottest comes first.
SLOT = _slots(
    *("r9", "r10", "r11"),
    "gs_base",
    "fs_base",
    "attention",  # not 0: leave at the next check
    "pending",  # not 0: an interrupt waits for IF
    "interrupt_flag",  # RFLAGS.IF, 0 or 1
    "chain",  # addresses of the runtime's routines, called through the context
    "jump_miss",
    "leave_for_attention",
    "page_check",
    "stale",
    "interpret",
    "sti",
    "tsc_offset",
)
SLOT |= _slots(
    *(name for name in GPRS if name not in ("r9", "r10", "r11")),
    "flags",  # the host's flags as the guest left them
    "scratch",  # SCRATCH at an exit: an address or a target
    "host_sp",
    "resume",  # where to enter
    "return",  # the address in emitted code to which an exit or routine returns
    "block_return",  # the same in the block, while a routine has calls of its own
    "reason",
    "argument",
    "size",  # of the access that missed, less 1
    "rip",  # where emitted code says it: the instruction's address
    "signal",  # its number, when a host signal ended emitted code
    "signal_rip",
    "signal_vector",  # which exception of the host's processor it was
    "access_flag",  # RFLAGS.AC
    "system_flags",  # the flags of RFLAGS that are neither arithmetic's nor in a slot of their own
    "kernel_gs_base",
    "tsc_aux",
    "cr3",  # masked: the address of the root table
    "reserved_bits",  # those that make a page-table entry invalid
    "guest_low",  # host addresses of RAM below 4 GiB and above
    "low_end",
    "guest_high",
    "high_size",
    "page_flags",  # host address of a byte for each page of RAM: not 0 where writes must be seen
    "page_writers",  # host address of 4 bytes for each page of RAM: see runtime.py, _note_writer
    "walk_page",
    "code_gpas",  # host address of 8 bytes for each code page: see blocks.py
    "walk_in_code",  # what the runtime's walker knows. 1: 4-level paging with CR0.WP; 2: 32-bit, 2 levels
    "smap",  # CR4.SMAP
    "temporary",
    "temporary2",
    *("string_rsi", "string_rdi"),
    "element",  # the logarithm of a string operation's element size
    *(f"save_{name}" for name in ("rax", "rdx", "rbx", "rsi", "rdi", "r8")),
    "saved_flags",
    "global_mask",  # PTE_G where CR4.PGE is set
    "low_pages",
    "mode",  # see blocks.py
    "cs",  # selectors, which SYSCALL, SYSRET and IRET change without Python
    "ss",
    *("es", "ds", "fs", "gs", "cr2"),  # copies, for code that reads them
    *("star", "lstar", "syscall_mask"),
    "fast_system",  # 1: SYSCALL, SYSRET and IRET to user code may take the short way
    "jump_key",  # what the jump cache's tags have above RIP: the mode, where it is a segmented one
    *(f"{name}_base" for name in ("es", "cs", "ss", "ds")),  # for code whose segments aren't flat
    *(f"{name}_{use}" for name in ("es", "cs", "ss", "ds", "fs", "gs") for use in ("read", "write")),
    *("fs_closed", "gs_closed"),  # not 0: 32-bit code may not reach all by them, see modes.py
    "bases_forbidden",  # not 0: RDFSBASE and its like are #UD
    "fast_iret",  # 1: IRET within ring 0 may
    *("kernel_cs", "kernel_ss", "user_cs", "user_ss"),
    *("local_log", "global_log", "user_log", "check_log"),  # how many entries each log has
    "host_mxcsr",
    *("crossing", "crossing_at", "crossing_end"),  # see crossings.py
    *("tr_base", "tr_limit"),  # of a TSS that may have a bitmap of ports; else the limit is 0
    *("port", "length", "late"),  # see ports.py
    *("kept_port", "kept_room", "kept_first", "kept_last"),
    *(f"answer_{register}" for register in (5, 2, 6)),  # of a serial port: LSR, IIR, MSR
    "pauses",  # PAUSE instructions until the host is asked to run another thread
    *("mask_31", "mask_63"),  # constants, for those instructions that take them from memory only
    *(f"{name}_{register}" for register in range(16) for name in ("held", "unheld")),  # see emit_chase.py
)
MISS_SIZES = (1, 2, 4, 8, 10, 14, 16, 28, 94, 108, 512)
SLOT |= _slots("leave_for_attention_at", "beyond")
for _user in (0, 1):
    for _write in (0, 1):
        SLOT |= _slots(*(f"miss_{_user}{_write}_{size}" for size in MISS_SIZES))
        SLOT |= _slots(*(f"lookup_{_user}{_write}_{size}" for size in MISS_SIZES))
SLOT |= _slots("addend_0", "addend_1")
CROSSING_SIZES = (2, 4, 8, 10, 14, 16)
for _user in (0, 1):
    SLOT |= _slots(*(f"bring_{_user}{_write}_{size}" for _write in (0, 1) for size in CROSSING_SIZES))
    SLOT |= _slots(*(f"carry_back_{_user}_{size}" for size in CROSSING_SIZES))
ROUTINES = (
    *("rep_movs_0", "rep_movs_1", "rep_stos_0", "rep_stos_1", "pushf", "popf", "syscall", "sysret", "iret"),
    *("cr3_write", "invlpg", "clac", "pause", "port_out_0", "port_out_1", "port_in_0", "port_in_1", "bounce"),
)
SLOT |= _slots(*(f"do_{name}" for name in ROUTINES))

_at = (_at + 63) & ~63
SLOT |= _slots("fpu", size=512)  # FXSAVE's image of the guest's; the context is 16 modulo 64, as FXSAVE needs
SLOT |= _slots("bounce", size=1024)

REGISTER_SLOT = tuple(SLOT[name] for name in GPRS)

# The tables. A TLB has an entry for each value of address bits 12 to 27; a read tag, a write tag, and what
# to add to a guest-virtual address to get the host's. The jump cache has one for the low 16 bits of RIP.
ENTRIES = 0x10000
TABLE = 8 * ENTRIES
_at = (_at + 0xFFF) & ~0xFFF
TLB_READ = (_at, _at + 3 * TABLE)  # supervisor's, user's
TLB_WRITE = tuple(start + TABLE for start in TLB_READ)
TLB_ADDEND = tuple(start + 2 * TABLE for start in TLB_READ)
_at += 6 * TABLE
JUMP_TAG = (_at, _at + 2 * TABLE)
JUMP_HOST = tuple(start + TABLE for start in JUMP_TAG)
_at += 4 * TABLE
PAGE_CHECKS = _at  # for each value of address bits 12 to 27 the id (4 bytes) of the code page seen last
_at += 4 * ENTRIES
LOG_ENTRIES = 0x2000
LOCAL_LOG = _at  # indexes of TLB entries that a write to CR3 drops
_at += 4 * LOG_ENTRIES
GLOBAL_LOG = _at
_at += 4 * LOG_ENTRIES
CHECK_LOG = _at  # indexes of page checks that a write to CR3 drops
_at += 4 * LOG_ENTRIES
USER_LOG = _at  # of the supervisor's entries for user pages, which SMAP hides when AC is cleared
_at += 4 * LOG_ENTRIES
LARGE = _at  # a byte for each value of address bits 21 to 36: a large page is in the TLB
_at += ENTRIES
LATCHES = _at  # a byte for each port: the sizes of writes that only the last counts of
_at += 0x10000
KEPT_SIZE = 1024
KEPT = _at  # a ring of bytes for the port whose writes are kept
_at += KEPT_SIZE
CROSSING_PLACES = 128
CROSSINGS = _at  # by the low bits of where a block missed: there, and in a second table the code to go to
_at += 2 * 8 * CROSSING_PLACES
CONTEXT_SIZE = _at

# Tags. A valid one is 0xF000 less the page's address: added to an address and the access's size less 1 it
# gives a sum below 0x10000 if and only if the whole access lies in the page. 0 is no valid tag, except for
# the lowest 16 pages and, where the sum wraps, the last: the entries of those never hold 0.
TAG_BIAS = 0xF000
EDGE_ENTRIES = (*range(16), ENTRIES - 1)
EDGE_INVALID = 1 << 27  # matches entry 0x8000 only

# Who waits for another CPU says PAUSE. After so many its thread lets others run, for one may be that CPU's.
PAUSES = 64
NEVER = 1 << 63

# Reasons for which emitted code returns to Python.
REASONS = (
    "miss",  # the TLB has no entry and the runtime's walker found none
    "interpret",  # an instruction that is not translated
    "chain",  # a direct jump to code that isn't linked yet
    "jump",  # an indirect jump that the jump cache doesn't know
    "attention",  # something waits
    "page-check",  # a code page may have been mapped elsewhere
    "stale",  # a block whose source was overwritten
    "sti",  # interrupts were turned on while one waits
    "signal",  # the host's processor refused an instruction
    "port-out",
    "port-in",
    "event",  # a routine asks Python to finish its work
    "bounce",  # one instruction was done on the bounce buffer
    "edge",  # an element of a repeated string instruction lies across two pages
    "limit",  # a segment's limit or type forbids an access, or a jump
)
MISS, INTERPRET, CHAIN, JUMP, ATTENTION, PAGE_CHECK, STALE = range(7)
STI, SIGNAL, PORT_OUT, PORT_IN, EVENT, BOUNCE, EDGE, LIMIT = range(7, 15)
