"""Reads the runtime's routines and proves, on all ways through each, that they reach only what they may.

Of every place it keeps what is known on each way there (known.py, reckon.py), and asks before each access
whether that is enough (reach.py). It takes for granted what Python sees to: how large the tables behind the
context's pointers are, that RAM ends at whole pages, that logs hold what the routines would put there.
"""

from __future__ import annotations

import heapq
from dataclasses import replace

import capstone
from capstone import x86_const as x86
from known import M64, State, Value, constant, joined
from reach import Wall, check_slot, load, looked, reach, slot_value, table_load, table_store
from reckon import added, binary, holding, is_zero, negated, shifted, smaller, word

from pykvm.translate.context import ALIGNMENT, SLOT
from pykvm.translate.runtime import Runtime

_MD = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
_MD.detail = True
_NAMES = {at: name for name, at in SLOT.items()}
_LEGACY = {
    "ax": "rax",
    "bx": "rbx",
    "cx": "rcx",
    "dx": "rdx",
    "si": "rsi",
    "di": "rdi",
    "bp": "rbp",
    "sp": "rsp",
}
_WIDE = {f"r{n}{size}": f"r{n}" for n in range(8, 16) for size in ("", "d", "w", "b")}
_WIDE |= {f"{size}{name}": wide for name, wide in _LEGACY.items() for size in ("r", "e", "")}
_WIDE |= {f"{wide[1]}l": wide for wide in ("rax", "rbx", "rcx", "rdx")}
_LOST = ("rcx", "a", "b", *(SLOT[f"save_{name}"] for name in ("rax", "rdx", "rbx", "rsi", "rdi", "r8")))
_LOST += tuple(SLOT[name] for name in ("return", "size", "saved_flags", "walk_page", "argument", "reason"))
_OPPOSITE = {"je": "jne", "jne": "je", "jb": "jae", "jae": "jb", "ja": "jbe", "jbe": "ja"}
_RECKONED = frozenset(
    ("add", "sub", "and", "or", "xor", "shl", "shr", "sar", "rorx", "shrx", "neg", "not", "imul")
)
Next = list[tuple[int, State]]


class RoutineWalls:
    """One routine's reading: from ``start``, entered by a call through the context's slot ``name``."""

    def __init__(self, runtime: Runtime, origin: int, name: str, limit: int = 0) -> None:
        self.code, self.origin, self.name = runtime.code, origin, name
        self.problems: set[str] = set()
        self.accesses: set[int] = set()
        self.bytes_read: set[int] = set()
        self._after_signal: Next = []  # where the signal handler lets the context's code go on
        self._instructions: dict[int, capstone.CsInsn] = {}
        values: dict[str | int, Value] = {reg: Value(id=("at entry", reg)) for reg in set(_WIDE.values())}
        values["r9"] = values["r9"]._replace(shape=("given",))
        facts, stack = frozenset(), ("back",)
        if name in ("enter", "signal_handler"):
            self.start, stack = getattr(runtime, name), ("C",)
            facts = frozenset(((("emitted", origin, limit), ()),))
            values["rdi"] = values["rdi"]._replace(shape=("context",) if name == "enter" else ())
            values["rdx"] = values["rdx"]._replace(shape=() if name == "enter" else ("ucontext",))
        else:
            self.start = runtime.entries[name]
        self._first = State(values, facts, "", stack)

    def read(self) -> list[str]:
        known = {(self.start, self._first.stack): self._first}
        work = [(self.start, self._first.stack)]
        while work:
            key = heapq.heappop(work)
            for address, state in (*self._step(key[0], known[key]), *self._after_signal):
                after = (address, state.stack)
                old = known.get(after)
                new = state if old is None else joined(old, state, address)
                if old is None or new != old:
                    known[after] = new
                    if after not in work:
                        heapq.heappush(work, after)
        return sorted(self.problems)

    def _step(self, address: int, state: State) -> Next:
        i = self._instructions.get(address)
        if i is None:
            at = address - self.origin
            found = list(_MD.disasm(self.code[at : at + 16], address, 1)) if 0 <= at < len(self.code) else []
            if not found:
                self.problems.add(f"{address - self.origin:#x}: no instruction of the runtime's")
                return []
            i = self._instructions[address] = found[0]
        self.bytes_read.update(range(address, address + i.size))
        try:
            return self._do(i, i.mnemonic, i.address + i.size, state)
        except Wall as wall:
            self.problems.add(f"{address - self.origin:#x} {i.mnemonic} {i.op_str}: {wall}")
            return []

    # Operands

    def _place(self, mem: capstone.x86.X86OpMem, state: State) -> int:
        """Where in the context an operand by RSP lies, without its index."""
        if "C" in state.stack:
            raise Wall("is on C's stack")
        return int(mem.disp) - 8 * len(state.stack)

    def _registers(
        self, i: capstone.CsInsn, mem: capstone.x86.X86OpMem, state: State
    ) -> tuple[Value, Value | None]:
        base = state.get(_WIDE[i.reg_name(mem.base)]) if mem.base else constant(0)
        return base, state.get(_WIDE[i.reg_name(mem.index)]) if mem.index else None

    def _load(self, i: capstone.CsInsn, op: capstone.x86.X86Op, state: State) -> tuple[Value, State]:
        mem = op.mem
        self._note(i)
        base, index = self._registers(i, mem, state)
        if mem.base != x86.X86_REG_RSP:
            value = load(base, index, mem.scale, mem.disp, op.size, state)
        elif index is not None:
            value = table_load(self._place(mem, state), index, mem.scale, op.size)
        else:
            at = self._place(mem, state)
            check_slot(at, op.size, False, None)
            held = state.values.get(at)
            if op.size == 8 and held is None:
                state = state.forgetting(i.address)
                held = slot_value(at)._replace(id=i.address)
                return held, state.having(at, held)
            if held is not None and held.high < 1 << 8 * op.size:
                return held, state
            value = Value(0, (1 << 8 * op.size) - 1)
        state = state.forgetting(i.address)
        return value._replace(id=i.address), state

    def _store(self, i: capstone.CsInsn, op: capstone.x86.X86Op, value: Value, state: State) -> State:
        mem = op.mem
        self._note(i)
        base, index = self._registers(i, mem, state)
        if mem.base != x86.X86_REG_RSP:
            reach(base, index, mem.scale, mem.disp, op.size, True, state)
            if base.shape == ("ucontext",):
                if value.number is None:
                    raise Wall("goes on after a signal at any address")
                self._after_signal = [(value.number, State({}))]
            return state
        at = self._place(mem, state)
        if index is not None:
            return state.knowing(*table_store(at, index, mem.scale, op.size, value, state))
        check_slot(at, op.size, True, value)
        state = state.without(*range(at - 7, at + op.size))
        return state.having(at, value) if op.size == 8 else state

    def _note(self, i: capstone.CsInsn) -> None:
        self.accesses.add(i.address)
        if i.prefix[1] in (0x64, 0x65) or i.addr_size != 8:
            raise Wall("is by a segment of the host's, or has an address of 32 bits")

    def _get(self, i: capstone.CsInsn, op: capstone.x86.X86Op, state: State) -> tuple[Value, State]:
        if op.type == x86.X86_OP_MEM:
            return self._load(i, op, state)
        if op.type == x86.X86_OP_IMM:
            return constant(op.imm & (1 << 8 * op.size) - 1 if op.size < 8 else op.imm), state
        return state.get(_WIDE[i.reg_name(op.reg)]), state

    def _put(self, i: capstone.CsInsn, op: capstone.x86.X86Op, value: Value, state: State) -> State:
        if op.type == x86.X86_OP_MEM:
            return self._store(i, op, value, state)
        name = _WIDE[i.reg_name(op.reg)]
        if name == "rsp" and "C" not in state.stack:
            raise Wall("changes RSP")
        if op.size < 8 and value.high >= 1 << 32:
            value = Value(0, (1 << 32) - 1)
        if op.size < 4:
            value = Value()
        if value.id is None:
            state = state.forgetting(i.address)
            value = value._replace(id=i.address)
        return state.having(name, value)

    # Instructions

    def _do(self, i: capstone.CsInsn, name: str, after: int, state: State) -> Next:
        ops = i.operands
        if name[0] == "j":
            return self._jump(i, name, after, state)
        if name in ("push", "pop", "pushfq", "popfq", "call", "ret"):
            return self._stack(i, name, after, state)
        if name.startswith("rep "):
            return [(after, self._copy(i, name.split()[1], state))]
        if name in ("mov", "movabs", "movzx") and _WIDE.get(i.reg_name(ops[0].reg) or "") == "rsp":
            return [(after, self._new_stack(i, state))]
        if name in ("mov", "movabs", "movzx"):
            value, state = self._get(i, ops[1], state)
            if ops[1].type == x86.X86_OP_REG and ops[1].size == 2:
                value = word(value)
            elif ops[1].type == x86.X86_OP_REG and value.high >= 1 << 8 * ops[1].size:
                value = Value(0, (1 << 8 * ops[1].size) - 1)
            if ops[0].type == x86.X86_OP_MEM and ops[1].type == x86.X86_OP_IMM and ops[0].size == 8:
                value = constant(ops[1].imm)
            return [(after, self._put(i, ops[0], value, state))]
        if name == "lea":
            base, index = self._registers(i, ops[1].mem, state)
            value = base
            if index is not None:
                count = ops[1].mem.scale.bit_length() - 1
                value = added(base, shifted("shl", index, constant(count)) if count else index)
            if ops[1].mem.disp or index is None:
                value = added(value, constant(ops[1].mem.disp))
            return [(after, self._put(i, ops[0], value._replace(id=None), state))]
        if name == "xchg":
            one, state = self._get(i, ops[0], state)
            other, state = self._get(i, ops[1], state)
            return [(after, self._put(i, ops[1], one, self._put(i, ops[0], other, state)))]
        if name in ("cmp", "test"):
            one, state = self._get(i, ops[0], state)
            other, state = self._get(i, ops[1], state)
            narrow = min(op.size for op in ops) < 8 and max(one.high, other.high) >= 1 << 32
            if name == "test" or narrow:
                return [(after, replace(state, flags=""))]
            return [(after, replace(state.having("a", one).having("b", other), flags="compared"))]
        if name == "cmovb":
            return [(after, self._minimum(i, state))]
        if name in ("cld", "fninit"):
            return [(after, state)]
        if name in ("fxsave64", "fxrstor64", "ldmxcsr"):
            self._note(i)
            size = 4 if name == "ldmxcsr" else 512
            check_slot(self._place(ops[0].mem, state), size, name == "fxsave64", None)
            return [(after, state)]
        if name == "lock cmpxchg":
            _, state = self._get(i, ops[0], state)
            value, state = self._get(i, ops[1], state)
            state = self._put(i, ops[0], value, state).having("rax", Value())
            return [(after, replace(state, flags=""))]
        if name == "syscall" and self.name in ("signal_handler", "do_pause"):
            return [(after, state.having("rax", Value()).having("rcx", Value()).having("r11", Value()))]
        return [(after, self._reckoned(i, name.removeprefix("lock "), state))]

    def _reckoned(self, i: capstone.CsInsn, name: str, state: State) -> State:
        ops = i.operands
        if name not in _RECKONED:
            raise Wall("is an instruction that this reader doesn't know")
        if ops[0].type == x86.X86_OP_REG and _WIDE[i.reg_name(ops[0].reg)] == "rsp":
            if "C" not in state.stack:
                raise Wall("changes RSP")
            return state
        one, state = self._get(i, ops[0], state)
        other, state = self._get(i, ops[1], state) if len(ops) > 1 else (Value(), state)
        if ops[0].size < 8 and name not in ("and", "imul"):
            one, other = (
                value if value.high < 1 << 32 else Value(0, (1 << 32) - 1) for value in (one, other)
            )
        if name in ("add", "sub", "and", "or", "xor"):
            if ops[0].size < 8 and name == "add" and one.high + other.high >= 1 << 32:
                value = Value(0, (1 << 32) - 1)
            else:
                value = binary(name, one, other)
        elif name in ("shl", "shr", "sar"):
            if len(ops) > 1 and ops[1].type == x86.X86_OP_REG:
                other = state.get("rcx")
            value = shifted(name, one, other)
        elif name == "rorx" and ops[2].imm == 12:
            value = shifted("shr", other, constant(12))._replace(low=0, high=M64)
        elif name == "shrx" and i.reg_name(ops[2].reg) == "rsp" and not state.stack:
            value = shifted("shr", other, constant(ALIGNMENT))
        elif name == "neg":
            value = negated(one)
        else:
            value = Value()
        state = self._put(i, ops[0], value, state)
        if name in ("rorx", "shrx", "not"):
            return state
        if ops[0].type == x86.X86_OP_MEM:
            return replace(state, flags="")
        return replace(state.having("a", state.get(_WIDE[i.reg_name(ops[0].reg)])), flags="result")

    def _minimum(self, i: capstone.CsInsn, state: State) -> State:
        to, source = (state.get(_WIDE[i.reg_name(op.reg)]) for op in i.operands)
        a, b = state.get("a"), state.get("b")
        value = Value()
        if state.flags == "compared" and None not in (a.id, b.id) and (a.id, b.id) == (source.id, to.id):
            value = smaller(to, source)
        return self._put(i, i.operands[0], value, state)

    def _copy(self, i: capstone.CsInsn, name: str, state: State) -> State:
        """REP MOVS and REP STOS: to no more than the ends of the pages that were looked up."""
        self._note(i)
        log = "bwdq".index(name[-1])
        element, count = state.get(SLOT["element"]), state.get("rcx")
        if element.number != log or count.shape != ("elements",) or count.of[-1:] != (element.id,):
            raise Wall("copies a count that may be anything")
        for reg, write in (("rdi", True), *((("rsi", False),) if name.startswith("movs") else ())):
            at = state.get(reg)
            if at.shape != ("host", int(self.name[-1])):
                raise Wall(f"is not behind a lookup of {reg}")
            if at.of[0] not in count.of[:-1]:
                raise Wall(f"copies more than the page of {reg} may have left")
            looked(at.of[0], int(self.name[-1]), 0, 1, write, state)
        state = state.forgetting(i.address)
        for reg in ("rdi", "rsi", "rcx"):
            state = state.having(reg, Value())
        return state

    def _new_stack(self, i: capstone.CsInsn, state: State) -> State:
        source = i.operands[1]
        if source.type == x86.X86_OP_REG and state.get(_WIDE[i.reg_name(source.reg)]).shape == ("context",):
            return replace(state, stack=())
        if source.type == x86.X86_OP_MEM and self._place(source.mem, state) == SLOT["host_sp"]:
            return replace(state, stack=("C",))
        raise Wall("changes RSP")

    def _stack(self, i: capstone.CsInsn, name: str, after: int, state: State) -> Next:
        stack = state.stack
        if name == "call" and i.operands[0].type == x86.X86_OP_MEM:
            return [(after, self._call(_NAMES.get(self._place(i.operands[0].mem, state), ""), state))]
        if name == "call":
            return [(i.operands[0].imm, replace(state, stack=(*stack, after)))]
        if name == "ret":
            if stack[:1] == ("C",):
                return []
            if not stack or not isinstance(stack[-1], int):
                raise Wall("returns to nothing that called it")
            return [(stack[-1], replace(state, stack=stack[:-1]))]
        if name in ("push", "pushfq"):
            if name == "push" and i.operands[0].type == x86.X86_OP_MEM:
                value, state = self._load(i, i.operands[0], state)
                return [(after, replace(state, stack=(*stack, value.shape)))]
            return [(after, replace(state, stack=(*stack, name)))]
        if "C" in stack:
            return [(after, state if name == "popfq" else self._put(i, i.operands[0], Value(), state))]
        if not stack or isinstance(stack[-1], int):
            raise Wall("takes off the stack what it didn't put there")
        state = replace(state, stack=stack[:-1], flags="" if name == "popfq" else state.flags)
        if name == "popfq":
            return [(after, state)]
        back = stack[-1] in ("back", ("return",))
        value = Value(shape=("return",) if back else (), id=i.address)
        return [(after, self._put(i, i.operands[0], value, state.forgetting(i.address)))]

    def _call(self, name: str, state: State) -> State:
        """What is known when a routine that is called through the context has come back."""
        kind, _, rest = name.partition("_")
        if state.stack:
            raise Wall("calls a routine from below the context")
        address = state.get("r9").id
        if kind in ("miss", "lookup"):
            user, write, size = int(rest[0]), rest[1] == "1", int(rest[3:])
            return replace(
                state.without(*_LOST).knowing((("looked", write, user, size), (address,))), flags=""
            )
        if kind == "addend":
            value = Value(shape=("addend", int(rest)), of=(address,))
            return replace(state.without(*_LOST).having("rcx", value), flags="")
        if name not in ("jump_miss", "leave_for_attention"):
            raise Wall("calls what isn't known to come back")
        return replace(state, values={"r9": state.get("r9")}, flags="")

    # Jumps

    def _jump(self, i: capstone.CsInsn, name: str, after: int, state: State) -> Next:
        op = i.operands[0]
        if op.type == x86.X86_OP_MEM:
            if state.stack:
                raise Wall("leaves with something on the stack")
            _, state = self._load(i, op, state)
            if op.mem.index:
                return []
            self._contract(_NAMES.get(op.mem.disp, ""), state)
            return []
        if name == "jmp":
            return [(op.imm, state)]
        if name == "jrcxz":
            value = state.get("rcx")
            return [(op.imm, is_zero(value, state)), (after, state)]
        taken, not_taken = holding(name, state), holding(_OPPOSITE.get(name, ""), state)
        return [(op.imm, taken), (after, not_taken)]

    def _contract(self, by: str, state: State) -> None:
        """What callers rely on when a routine that finds addresses comes back."""
        kind, _, rest = self.name.partition("_")
        if by == "crossing" and kind in ("miss", "lookup"):  # the instruction from its beginning
            if state.get(SLOT["crossing"]).shape != ("crossing",):
                raise Wall("goes to what is no code for a crossing")
            return
        if by not in ("return", "block_return", "resume"):
            raise Wall("goes to what is no return")
        if kind not in ("miss", "lookup", "addend"):
            return
        address = state.get("r9")
        if address.shape != ("given",):
            raise Wall("comes back with another address")
        user = int(rest[0])
        found = state.get("rcx") if kind != "miss" else Value()
        returns = found.shape == ("addend", user) and found.of == (address.id,)
        if kind == "addend":
            if not returns:
                raise Wall("comes back with no addend")
            return
        write, size = rest[1] == "1", int(rest[3:])
        if kind == "lookup" and returns and state.get(SLOT["return"]).shape == ("plus", 7):
            looked(address.id, user, 0, size, write, state)
            return
        if not state.knows(("same page", size - 1), address.id):
            raise Wall("comes back for an access that may cross a page")
        filled = [
            of for name, of in state.facts if name == ("filled", "addend", user) and of[0] == address.id
        ]
        if not any(state.knows(("filled", write, user), *of) for of in filled):
            raise Wall("comes back without an entry in the TLB")
