"""System instructions that are done without Python, ports, and strings."""

from __future__ import annotations

from struct import pack

from pykvm.translate import emit_vector
from pykvm.translate.context import HOST_REGISTER, SLOT
from pykvm.translate.decode import ADDRESS, F2, F3, FS, GS, LOCK, OPERAND, OTHER, REPEAT
from pykvm.translate.emit import (
    HOST_ADDRESS,
    POPPED_4,
    POPPED_8,
    PUSHED_4,
    PUSHED_8,
    STACK_BELOW_4,
    STACK_BELOW_8,
    STACK_TOP,
    Emitter,
    NotTranslated,
    Parts,
)
from pykvm.translate.encode import (
    call_slot,
    load_slot,
    register_register,
    store_byte,
    store_number,
    store_slot,
)
from pykvm.translate.operands import READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.translate.emit import Action

M64 = (1 << 64) - 1


def _here(p: Parts) -> bytes:
    """Tell ``rip``."""
    return store_number(SLOT["rip"], p.after - len(p.code) & M64)


def _ring0(e: Emitter, p: Parts) -> None:
    if e.user or p.prefixes & LOCK:
        raise NotTranslated


def _ring0_64(e: Emitter, p: Parts) -> None:
    _ring0(e, p)
    if not e.wide:
        raise NotTranslated


def cli(e: Emitter, p: Parts) -> bytes:
    _ring0(e, p)
    return store_byte(SLOT["interrupt_flag"], 0)


def sti(e: Emitter, p: Parts) -> bytes:
    """What waits is taken after the next instruction: the translator sees to that."""
    _ring0(e, p)
    return store_byte(SLOT["interrupt_flag"], 1)


def leave_if_pending(rip: int, slot: str) -> bytes:
    """With an interrupt that waits, go by ``slot``; ``rip`` is the instruction that hasn't begun."""
    leave = store_number(SLOT["rip"], rip & M64) + call_slot(SLOT[slot])
    return load_slot(1, SLOT["pending"]) + b"\xe3" + bytes((len(leave),)) + leave


def pushf(e: Emitter, p: Parts) -> bytes:
    if p.prefixes & (LOCK | OPERAND):
        raise NotTranslated
    size = 8 if e.wide else 4
    return (
        call_slot(SLOT["do_pushf"]) + (STACK_BELOW_8 if e.wide else STACK_BELOW_4)
        + e.access(size, WRITE) + HOST_ADDRESS + load_slot(1, SLOT["temporary"])
        + (b"\x49" if e.wide else b"\x41") + b"\x89\x09"  # mov [r9], rcx or ecx
        + (PUSHED_8 if e.wide else PUSHED_4)
    )  # fmt: skip


def popf(e: Emitter, p: Parts) -> bytes:
    _ring0(e, p)
    if p.prefixes & OPERAND:
        raise NotTranslated
    leave = store_number(SLOT["rip"], p.after & M64) + call_slot(SLOT["leave_for_attention_at"])
    return (
        STACK_TOP + e.access(8 if e.wide else 4, READ)
        + (b"\x4e" if e.wide else b"\x46") + b"\x8b\x0c\x09"  # mov r9 or r9d, [rcx + r9]
        + _here(p) + call_slot(SLOT["do_popf"]) + (POPPED_8 if e.wide else POPPED_4)
        + load_slot(1, SLOT["temporary"]) + b"\xe3" + bytes((len(leave),)) + leave
    )  # fmt: skip


def port(e: Emitter, p: Parts) -> bytes:
    """IN and OUT, by a routine (ports.py): RCX says size and port, ``rip`` is the next instruction."""
    if p.prefixes & LOCK:
        raise NotTranslated
    size = 1 if not p.opcode & 1 else 2 if p.prefixes & OPERAND else 4
    if p.opcode & 8:
        number = b"\x0f\xb7\xca\x8d\x89" + pack("<i", size << 16)  # movzx ecx, dx; lea ecx, [rcx + ...]
    else:
        number = b"\xb9" + pack("<i", size << 16 | p.code[p.immediate])
    told = b"\x48\xc7\x84\x24" + pack("<ii", SLOT["length"], len(p.code))
    routine = f"do_port_{'out' if p.opcode & 2 else 'in'}_{e.user}"
    return store_number(SLOT["rip"], p.after & M64) + told + number + call_slot(SLOT[routine])


def read_time_stamp(e: Emitter, p: Parts) -> bytes:
    """0F 31: the host's, and an offset."""
    if not e.may_read_time or p.prefixes & LOCK:
        raise NotTranslated
    return (
        b"\x0f\x31"
        + b"\xc4\xe3\xfb\xf0\xd2\x20"  # rorx rdx, rdx, 32
        + b"\x48\x8d\x04\x10"  # lea rax, [rax + rdx]
        + load_slot(1, SLOT["tsc_offset"])
        + b"\x48\x8d\x04\x08"  # lea rax, [rax + rcx]
        + b"\xc4\xe3\xfb\xf0\xd0\x20"  # rorx rdx, rax, 32
        + b"\x89\xd2\x89\xc0"  # mov edx, edx; mov eax, eax
    )  # fmt: skip


def group_0f01(e: Emitter, p: Parts) -> bytes:
    if p.prefixes & (LOCK | REPEAT | OPERAND):
        raise NotTranslated
    if p.value == 0xF8:  # swapgs
        _ring0_64(e, p)
        gs, kernel = SLOT["gs_base"], SLOT["kernel_gs_base"]
        return load_slot(9, gs) + load_slot(1, kernel) + store_slot(1, gs) + store_slot(9, kernel)
    if p.value == 0xF9:  # rdtscp
        return read_time_stamp(e, p) + b"\x44\x8b\x94\x24" + pack("<i", SLOT["tsc_aux"])  # mov r10d, [...]
    if p.value == 0xCB:  # stac
        _ring0(e, p)
        return store_byte(SLOT["access_flag"], 1)
    if p.value == 0xCA:  # clac
        _ring0(e, p)
        return call_slot(SLOT["do_clac"])
    raise NotTranslated


def base_register(e: Emitter, p: Parts) -> bytes:
    """F3 0F AE /0 to /3: RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE."""
    if not e.wide or p.prefixes & (LOCK | OPERAND | F2) or p.value < 0xC0:
        raise NotTranslated
    leave = _here(p) + call_slot(SLOT["interpret"])
    out = load_slot(1, SLOT["bases_forbidden"]) + b"\xe3" + bytes((len(leave),)) + leave
    slot = SLOT["gs_base" if p.digit & 1 else "fs_base"]
    host = HOST_REGISTER[p.rm]
    if p.digit < 2:
        out += load_slot(9, slot) + (b"" if p.rex & 8 else b"\x45\x89\xc9")  # mov r9d, r9d
        return out + (
            store_slot(9, SLOT[f"r{p.rm}"]) if host is None else register_register(0x8B, 8, host, 9)
        )
    out += load_slot(9, SLOT[f"r{p.rm}"]) if host is None else register_register(0x8B, 8, 9, host)
    if not p.rex & 8:
        return out + b"\x45\x89\xc9" + store_slot(9, slot)
    # pushfq; mov rcx, r9; shl rcx, 16; sar rcx, 16; sub rcx, r9; popfq; jrcxz: canonical, else #GP
    out += bytes.fromhex("9c 4c89c9 48c1e110 48c1f910 4c29c9 9d e3") + bytes((len(leave),)) + leave
    return out + store_slot(9, slot)


def fpu_state(e: Emitter, p: Parts) -> bytes:
    """0F AE: with F3 the bases of FS and GS, else the state of x87 and SSE."""
    if p.prefixes & F3 and p.digit < 4:
        return base_register(e, p)
    if not e.fpu:
        raise NotTranslated
    return emit_vector.state(e, p)


def read_control(e: Emitter, p: Parts) -> bytes:
    """MOV r64, CR2; of the others the interpreter knows more."""
    _ring0_64(e, p)
    if p.digit != 2 or p.rex & 4 or p.value < 0xC0:  # a memory form, which the decoder takes for longer
        raise NotTranslated
    host = HOST_REGISTER[p.rm]
    if host is None:
        return load_slot(9, SLOT["cr2"]) + store_slot(9, SLOT[f"r{p.rm}"])
    return load_slot(host, SLOT["cr2"])


def string(e: Emitter, p: Parts) -> bytes:
    """MOVS, STOS, LODS, CMPS, SCAS: once by the host's own, or repeated by a routine or a loop."""
    if p.prefixes & (LOCK | FS | GS | ADDRESS) or (p.prefixes & OTHER and not e.wide):
        raise NotTranslated
    kind = p.opcode & ~1
    log = 0 if not p.opcode & 1 else 3 if p.rex & 8 else 1 if p.prefixes & OPERAND else 2
    size = 1 << log
    narrow = b"" if e.wide else b"\x89\xff\x89\xf6\x45\x89\xd2"  # mov edi, edi; mov esi, esi; mov r10d, r10d
    if p.prefixes & REPEAT and kind in (0xA4, 0xAA):
        routine = f"do_rep_{'movs' if kind == 0xA4 else 'stos'}_{e.user}"
        told = b"\x48\xc7\x84\x24" + pack("<ii", SLOT["element"], log)
        return _here(p) + told + call_slot(SLOT[routine]) + narrow
    host = (b"\x66" if log == 1 else b"") + (b"\x48" if log == 3 else b"") + bytes((p.opcode,))
    once = _once(e, kind, size, host)
    if not e.wide:
        once += b"\x89\xff\x89\xf6"
    if not p.prefixes & REPEAT:
        return once
    # Leave where RCX is 0; do it once; RCX less 1; again unless the flags say otherwise.
    count = b"\x4d\x8d\x52\xff" if e.wide else b"\x45\x8d\x52\xff"  # lea r10, [r10 - 1]
    check = load_slot(1, SLOT["attention"])
    leave = _here(p) + call_slot(SLOT["leave_for_attention_at"])
    body = once + count
    if kind in (0xA6, 0xAE):
        repne = not p.prefixes & 4
        stop = bytes((0x0F, 0x84 if repne else 0x85))
    else:
        stop = b""
    head = b"\x4c\x89\xd1" + b"\xe3\x02\xeb\x05\xe9\0\0\0\0"  # mov rcx, r10; jrcxz 1f; jmp 2f; 1: jmp end; 2:
    tail = check + b"\xe3" + bytes((len(leave),)) + leave
    length = len(head) + len(body) + (6 if stop else 0) + len(tail) + 5
    head = head[:-4] + pack("<i", length - len(head))
    out = head + body
    if stop:
        out += stop + pack("<i", length - len(out) - 6)
    out += tail
    return out + b"\xe9" + pack("<i", -length)


def _once(e: Emitter, kind: int, size: int, host: bytes) -> bytes:
    """With RSI and RDI the host's for the time of one instruction, whatever DF says."""
    to_rsi = b"\x49\x89\xf1" + e.access(size, READ)  # mov r9, rsi
    to_rdi = b"\x49\x89\xf9" + e.access(size, WRITE if kind in (0xA4, 0xAA) else READ)  # mov r9, rdi
    keep, again = store_slot(1, SLOT["temporary"]), load_slot(1, SLOT["temporary"])
    add_rsi, add_rdi = b"\x48\x8d\x34\x31", b"\x48\x8d\x3c\x39"  # lea rsi, [rcx + rsi]; lea rdi, [rcx + rdi]
    # x - rcx is ~(~x + rcx)
    sub_rsi = b"\x48\xf7\xd6\x48\x8d\x34\x31\x48\xf7\xd6"
    sub_rdi = b"\x48\xf7\xd7\x48\x8d\x3c\x39\x48\xf7\xd7"
    if kind in (0xAA, 0xAE):
        return to_rdi + add_rdi + host + sub_rdi
    if kind == 0xAC:
        return to_rsi + add_rsi + host + sub_rsi
    second = store_slot(1, SLOT["temporary2"])
    return (
        to_rsi + keep + to_rdi + second
        + add_rdi + again + add_rsi + host + sub_rsi + load_slot(1, SLOT["temporary2"]) + sub_rdi
    )  # fmt: skip


def _actions() -> dict[int, Action]:
    table: dict[int, Action] = {0xFA: cli, 0xFB: sti, 0x9C: pushf, 0x9D: popf, 0x131: read_time_stamp}
    table |= {0x101: group_0f01, 0x1AE: fpu_state, 0x120: read_control}
    table |= dict.fromkeys((0xE4, 0xE5, 0xE6, 0xE7, 0xEC, 0xED, 0xEE, 0xEF), port)
    table |= dict.fromkeys((0xA4, 0xA5, 0xA6, 0xA7, 0xAA, 0xAB, 0xAC, 0xAD, 0xAE, 0xAF), string)
    return table


ACTIONS = _actions()
