"""Every number that pykvm shares with the kernel, compiled against the installed headers.

A row of a table becomes a _Static_assert on a line of its own; ``cc -fsyntax-only`` names the lines that
don't hold (20 ms for all of a table).
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Iterator

import pytest

from pykvm.boot import header, params
from pykvm.kvm import abi, structs
from pykvm.kvm.capabilities import CAPABILITIES
from pykvm.libc import calls, timerfd
from pykvm.x86 import registers

Rows = dict[str, str]
"""What a row says, by its name: a constant expression in C."""

# Rows that Debian 12's headers (Linux 6.1) don't have, and why they are right all the same.
NOT_IN_HEADERS = {"X86_CR4_PKS": "no kernel uses it; Intel SDM vol. 3 §2.5: bit 24"}


def compile_rows(includes: str, rows: Rows) -> tuple[set[str], set[str]]:
    """The names of the rows that the headers contradict, and of those that they don't know."""
    lines = [f"#include <{name}>" for name in includes.split()]
    names = dict(enumerate(rows, start=len(lines) + 1))
    lines += [f'_Static_assert({condition}, "");' for condition in rows.values()]
    command = ["cc", "-fsyntax-only", "-fmax-errors=0", "-fno-diagnostics-show-caret", "-x", "c", "-"]
    run = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True)
    wrong, unknown = set(), set()
    for line, error in re.findall(r"^<stdin>:(\d+):\d+: error: (.*)", run.stderr, re.MULTILINE):
        (wrong if error.startswith("static assertion failed") else unknown).add(names[int(line)])
    assert (run.returncode == 0) == (not wrong and not unknown), run.stderr
    return wrong, unknown


def constants(table: dict[str, int]) -> Rows:
    return {name: f"(unsigned long)({name}) == {value:#x}ul" for name, value in table.items()}


def constants_of(module: object, *prefixes: str) -> Rows:
    names = [name for name in vars(module) if name.startswith(prefixes) and name.isupper()]
    assert names
    return constants({name: getattr(module, name) for name in names})


def bits(register: str, name_in_c: str) -> Rows:
    table: dict[str, int] = getattr(registers, register)
    return constants({f"{name_in_c}_{bit}": mask for bit, mask in table.items()})


def member(struct: str, path: str, offset: int, size: int) -> str:
    place = f"__builtin_offsetof(struct {struct}, {path}) == {offset}"
    return f"{place} && sizeof(((struct {struct} *)0)->{path}) == {size}"


def layout(name: str, made: type[ctypes.Structure]) -> Rows:
    """Size of a structure; offset, size and sign of each member, also of those in structures inside it."""
    rows = {f"struct {name}": f"sizeof(struct {name}) == {ctypes.sizeof(made)}"}
    for path, offset, ctype in _members(made):
        condition = member(name, path, offset, ctypes.sizeof(ctype))
        if issubclass(ctype, ctypes._SimpleCData):
            negative = int(ctype(-1).value < 0)
            condition += f" && ((__typeof__(((struct {name} *)0)->{path}))-1 < 0) == {negative}"
        rows[f"{name}.{path}"] = condition
    return rows


def _members(made: type, path: str = "", start: int = 0) -> Iterator[tuple[str, int, type]]:
    for name, ctype in made._fields_:
        offset = start + getattr(made, name).offset
        yield path + name, offset, ctype
        inner, index = ctype, ""
        if issubclass(ctype, ctypes.Array):
            inner, index = ctype._type_, "[0]"
        if issubclass(inner, ctypes.Structure | ctypes.Union):
            yield from _members(inner, f"{path}{name}{index}.", offset)


def structures() -> Rows:
    rows: Rows = {}
    for name, made in structs.STRUCTS.items():
        rows |= layout(name, made)
    lists = (structs.msrs, structs.msr_list, structs.cpuid2, structs.irq_routing, structs.coalesced_mmio_ring)
    for make in lists:
        one = type(make(1))
        # The array at the end has one item here and any number there: sizeof() counts none.
        array, ctype = one._fields_[-1]
        head = getattr(one, array).offset
        rows |= {row: text for row, text in layout(one.__name__, one).items() if row.count(".") == 1}
        rows[f"struct {one.__name__}"] = f"sizeof(struct {one.__name__}) == {head}"
        rows[f"{one.__name__}.{array}"] = member(one.__name__, f"{array}[0]", head, ctypes.sizeof(ctype))
    return rows


ACTIVITY = [name for name in vars(registers) if name.startswith("MP_STATE_")]

TABLES: dict[str, tuple[str, Rows]] = {
    "ioctls": ("linux/kvm.h", constants(abi.IOCTLS)),
    "exits": ("linux/kvm.h", constants(abi.EXITS)),
    "constants": ("linux/kvm.h", constants(abi.CONSTANTS)),
    "capabilities": ("linux/kvm.h", constants({name: row[0] for name, row in CAPABILITIES.items()})),
    "structures": ("linux/kvm.h", structures()),
    "run page": (
        "linux/kvm.h",
        {
            path: f"__builtin_offsetof(struct kvm_run, {path}) == {offset}"
            for path, offset in abi.RUN_PAGE.items()
        },
    ),
    "flags": ("asm/processor-flags.h", bits("RFLAGS", "X86_EFLAGS")),
    "control registers": ("asm/processor-flags.h", bits("CR0", "X86_CR0") | bits("CR4", "X86_CR4")),
    "boot_params": (
        "asm/bootparam.h",
        {name: member("boot_params", name, offset, size) for offset, size, name in params.FIELDS},
    ),
    "setup header": (
        "asm/bootparam.h",
        {
            name: member("setup_header", name, offset - header.START, size)
            for offset, size, _, name in header.FIELDS
        }
        | constants_of(header, "LOADED_HIGH", "KASLR_FLAG", "CAN_USE_HEAP", "XLF_"),
    ),
    "memory": ("sys/mman.h", constants_of(calls, "PROT_", "MAP_", "MADV_")),
    "activity states": (
        "linux/kvm.h",
        constants({f"KVM_{name}": getattr(registers, name) for name in ACTIVITY}),
    ),
    "timers": ("sys/timerfd.h", constants_of(timerfd, "TFD_")),
}


@pytest.mark.parametrize("table", TABLES)
def test_the_headers_say_the_same(table):
    wrong, unknown = compile_rows(*TABLES[table])
    assert wrong == set()
    assert unknown <= set(NOT_IN_HEADERS)


def test_a_wrong_row_is_found():
    rows = {
        "right": "KVM_RUN == 0xae80",
        "wrong": "KVM_RUN == 0xae81",
        "no constant": "KVM_WALK == 1",
        "no structure": "sizeof(struct kvm_walk) == 4",
        "no member": member("kvm_regs", "eax", 0, 8),
        "right too": member("kvm_regs", "rbx", 8, 8),
    }
    assert compile_rows("linux/kvm.h", rows) == ({"wrong"}, {"no constant", "no structure", "no member"})


def test_a_wrong_structure_is_found():
    class kvm_dtable(ctypes.Structure):
        _fields_ = [("limit", ctypes.c_int16), ("base", ctypes.c_uint64), ("padding", ctypes.c_uint16 * 3)]

    wrong, unknown = compile_rows("linux/kvm.h", layout("kvm_dtable", kvm_dtable))
    assert wrong == {"struct kvm_dtable", "kvm_dtable.limit", "kvm_dtable.base", "kvm_dtable.padding"}
    assert unknown == set()
