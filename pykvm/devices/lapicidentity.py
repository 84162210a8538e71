"""Who a local APIC is: its mode and page (IA32_APIC_BASE), its id, and the destinations it answers to.

A message names its destination by an APIC's id (physical) or by a set (logical), which each APIC
compares with its LDR: a mask (flat), a group and a mask in it (cluster), and in x2APIC mode always the
latter, made from the id.

Source: Intel SDM vol. 3A §10.4.3–10.4.6 (base, mode, id), §10.6.2 (destinations), §10.12 (x2APIC).
"""

from __future__ import annotations

from pykvm.devices.apicbus import BROADCAST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.devices.device import State

# IA32_APIC_BASE; the page's address is in bits 12 and up
BASE_BSP = 1 << 8
BASE_EXTD = 1 << 10
BASE_EN = 1 << 11
BASE_ADDRESS = 0xFEE0_0000

# Bits 11–10: the mode, and which may follow which (§10.12.5, figure 10-27); all else is #GP
MODE = BASE_EN | BASE_EXTD
DISABLED, XAPIC, X2APIC = 0, BASE_EN, BASE_EN | BASE_EXTD
TRANSITIONS = frozenset(
    (
        *((DISABLED, DISABLED), (DISABLED, XAPIC)),
        *((XAPIC, XAPIC), (XAPIC, X2APIC), (XAPIC, DISABLED)),
        *((X2APIC, X2APIC), (X2APIC, DISABLED)),
    )
)

LDR_SHIFT = 24  # in the page ID, LDR and ICR's destination are the upper eight bits
DFR_RESET = 0xFFFF_FFFF
DFR_MODEL_SHIFT = 28
DFR_FLAT = 0xF
DFR_CLUSTER = 0x0


class Identity:
    """The APIC with ``apic_id``; the other arguments are as `LocalApic` has them."""

    def __init__(self, apic_id: int, *, bootstrap: bool, x2apic: bool, physical_bits: int) -> None:
        self.id = apic_id
        self._after_reset = BASE_ADDRESS | BASE_EN | (BASE_BSP if bootstrap else 0)
        self._address_bits = (1 << physical_bits) - 0x1000
        self._base_bits = self._address_bits | BASE_BSP | (X2APIC if x2apic else XAPIC)
        self.reset()

    def reset(self) -> None:
        """Power-up."""
        self.base = self._after_reset
        self.clear()

    def clear(self) -> None:
        """INIT, which leaves base, id and mode."""
        self.ldr = self._x2apic_ldr if self.is_x2apic else 0
        self.dfr = DFR_RESET

    @property
    def is_bootstrap(self) -> bool:
        return bool(self.base & BASE_BSP)

    @property
    def is_on(self) -> bool:
        return bool(self.base & BASE_EN)

    @property
    def is_x2apic(self) -> bool:
        return self.base & MODE == X2APIC

    @property
    def page(self) -> int | None:
        return self.base & self._address_bits if self.base & MODE == XAPIC else None

    def set_base(self, value: int) -> bool:
        """Write IA32_APIC_BASE: move the page, turn the APIC off or on, go to x2APIC mode. False is #GP."""
        before, after = self.base & MODE, value & MODE
        if value & ~self._base_bits or (before, after) not in TRANSITIONS:
            return False
        self.base = value
        if before != after == X2APIC:
            self.ldr = self._x2apic_ldr
        return True

    @property
    def register(self) -> int:
        """The ID register."""
        return self.id if self.is_x2apic else self.id << LDR_SHIFT & 0xFF00_0000

    @property
    def _x2apic_ldr(self) -> int:
        """16 clusters of 16, by the id (§10.12.10.2)."""
        return self.id >> 4 << 16 | 1 << (self.id & 0xF)

    def matches(self, destination: int, logical: bool) -> bool:
        """Whether a message for ``destination``, 32 bits, is for this APIC."""
        if not self.is_on:
            return False
        if destination == BROADCAST:
            return True
        if not logical:
            return destination == self.id
        if self.is_x2apic:
            return destination >> 16 == self.ldr >> 16 and bool(destination & self.ldr & 0xFFFF)
        mine, model = self.ldr >> LDR_SHIFT, self.dfr >> DFR_MODEL_SHIFT
        if model == DFR_CLUSTER:
            return destination >> 4 == mine >> 4 and bool(destination & mine & 0xF)
        return model == DFR_FLAT and bool(destination & mine)

    def save(self) -> State:
        return {"base": self.base, "ldr": self.ldr, "dfr": self.dfr}

    def load(self, state: State) -> None:
        self.base, self.ldr, self.dfr = state["base"], state["ldr"], state["dfr"]
