"""An interrupt that waits when STI comes is taken behind the next instruction (Intel SDM vol. 2, STI)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from guest import Guest
from places import CODE, DATA, NOWHERE, PAGE

from pykvm.translate.context import SLOT
from pykvm.x86.exceptions import PF, UD

PENDING = SLOT["pending"] // 8
RSP = 4
STACK = DATA + 0x800
HOLE = NOWHERE + 0x100_0000


class Apic:
    """One interrupt waits."""

    page = None
    waiting = False

    def __init__(self) -> None:
        self.waits = True

    def has_interrupt(self) -> bool:
        return self.waits

    def acknowledge(self) -> int:
        self.waits = False
        return 0x30


class Machine:
    def __init__(self, cpl: int) -> None:
        self.guest = Guest(cpl=cpl)
        self.placed = "", 0
        self.guest.cpu.core.interrupt = self._take  # type: ignore[method-assign]

    def _take(self, vector: int) -> None:
        self.taken.append(self.guest.rip - CODE)

    def run(self, code: str, at: int = 0, *, waits: bool = True) -> int:
        """Run ``code`` with IF clear, until its #UD or #PF; ``taken`` says where the interrupt came."""
        guest = self.guest
        guest.reset()
        if self.placed != (code, at):  # the same code stays translated
            self.placed = code, at
            guest.put(CODE + at, bytes.fromhex(code) + b"\x06" * 32)
        regs = [0] * 16
        regs[RSP] = STACK
        guest.regs, guest.flags = regs, 2
        guest.put(STACK, (CODE + 0x200).to_bytes(8, "little"))  # where RET goes
        guest.put(CODE + 0x200, b"\x90\x06")
        self.taken: list[int] = []
        apic = self.apic = Apic()
        apic.waits = waits
        guest.cpu.core.apic = apic  # type: ignore[assignment]
        guest.cpu.core.words[PENDING] = int(waits)
        self.fault = guest.run(CODE + at)
        return self.fault.vector


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    made = Machine(0)
    yield made
    made.guest.close()


@pytest.mark.parametrize(
    "code, taken",
    [
        ("fb 90 90", 2),
        ("fb 488b3c24 90", 5),  # mov rdi, [rsp]
        ("90 fb b801000000 90", 7),  # mov eax, 1
        ("fb c3", 0x200),
        ("fb c20800", 0x200),
        ("fb eb02 9090 90", 5),  # jmp
        ("fb 31c0 7401 90 90", 3),  # xor eax, eax; je: only the first is in the shadow
        ("fb 7401 90 90", 3),  # je, not taken
        ("39c0 fb 7401 90 90", 6),  # cmp eax, eax: taken
        ("fb e800000000 90", 6),  # call
        ("fb f4 90", 2),  # hlt: it ends at once
        ("fb fb 90 90", 3),  # not behind the second STI only
        ("fb 0fa2 90", 3),  # cpuid, which is interpreted
        ("fb 9c 90", 2),  # pushf
        ("fb e4a0 90", 3),  # in
    ],
)
def test_the_next_instruction_is_done_first(machine, code, taken):
    for _ in range(2):
        assert machine.run(code) == UD
        if code == "fb fb 90 90":
            assert machine.taken in ([2], [3])  # IF was set already: no shadow is promised
        else:
            assert machine.taken == [taken]


def test_a_store_to_a_device_is_done_first(machine):
    machine.guest.map(HOLE, 0xFEB0_0000)
    for _ in range(3):  # the second time its place is known
        assert machine.run("fb 890425" + HOLE.to_bytes(4, "little").hex() + "90 90") == UD
        assert machine.taken == [8]


class Raises:
    """A device whose every register raises the interrupt when it is written."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        self._machine.apic.waits = True
        self._machine.guest.cpu.changed()

    def save(self) -> dict[str, object]:
        return {}

    def load(self, state: dict[str, object]) -> None: ...


def test_what_a_device_raises_is_taken_behind_the_access_or_as_soon_as_it_may(machine):
    guest = machine.guest
    device = Raises(machine)
    guest.ports.attach(device, 0x90, 1)
    guest.mmio.attach(device, 0xFEB1_0000, PAGE)
    guest.map(HOLE + PAGE, 0xFEB1_0000)
    store = "890425" + (HOLE + PAGE).to_bytes(4, "little").hex()
    for code, taken in (
        ("fb 90 e690 90 90", 4),
        (f"fb 90 {store} 90 90", 9),
        (f"{store} e690 90 fb 90 90", 12),
    ):
        for _ in range(3):
            assert machine.run(code, waits=False) == UD
            assert machine.taken == [taken]


def test_a_cli_there_leaves_nothing_to_be_taken(machine):
    assert machine.run("fb fa 90 90") == UD
    assert machine.taken == []
    assert machine.run("fb fa 90 fb 90 90") == UD
    assert machine.taken == [5]


def test_with_nothing_that_waits_code_goes_on(machine):
    assert machine.run("fb c3", waits=False) == UD
    assert machine.taken == [] and machine.guest.rip == CODE + 0x201
    assert machine.run("fb 7400 b805000000", waits=False) == UD
    assert machine.taken == [] and machine.guest.regs[0] == 5


def test_at_the_end_of_a_page(machine):
    assert machine.run("fb 90 90", PAGE - 1) == UD
    assert machine.taken == [PAGE + 1]
    assert machine.run("fb 90 90", PAGE - 2) == UD
    assert machine.taken == [PAGE]


def test_a_fault_of_the_next_instruction_comes_before_the_interrupt(machine):
    # mov eax, [NOWHERE]
    assert machine.run("fb 8b0425" + NOWHERE.to_bytes(4, "little").hex()) == PF
    assert machine.taken == [] and machine.guest.rip == CODE + 1


@pytest.mark.parametrize("code, more", [("fb c3", 8), ("fb c20800", 16)])
def test_a_return_there_takes_its_address_off_the_stack(machine, code, more):
    assert machine.run(code) == UD
    assert machine.guest.regs[RSP] == STACK + more and machine.guest.rip == CODE + 0x201


def test_a_return_to_nowhere_faults_as_ever(machine):
    # mov rsp, DATA - 8, which isn't mapped; sti; ret
    assert machine.run("48c7c4" + (DATA - 8).to_bytes(4, "little").hex() + "fb c3") == PF
    assert machine.fault.cr2 == DATA - 8 and machine.guest.rip == CODE + 8


def test_popf_has_no_shadow(machine):
    # push 0x202; popf; nop
    assert machine.run("6802020000 9d 90 90") == UD
    assert machine.taken == [6]


def test_the_shadow_holds_while_another_thread_asks_for_attention(machine):
    """The instruction behind STI reaches no RAM just then, where what waits else comes first."""
    guest = machine.guest
    guest.map(HOLE, 0xFEB0_0000)
    find = guest.cpu.core.finder.rip_of

    def ask(at: int) -> int:
        guest.cpu.core.words[SLOT["attention"] // 8] = 1
        return find(at)

    guest.cpu.core.finder.rip_of = ask  # type: ignore[method-assign]
    try:
        assert machine.run("fb 8b3c25" + HOLE.to_bytes(4, "little").hex() + "90 90") == UD
    finally:
        guest.cpu.core.finder.rip_of = find  # type: ignore[method-assign]
    assert machine.taken == [8]
