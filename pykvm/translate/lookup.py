"""The check before each access to guest memory: machine code that finds the host's address of a guest's.

In: the guest-virtual address in R9. Out: RCX, which added to R9 is the host's address. Flags stay as they
are, so that it fits between any two instructions of the guest: the table is indexed by ``rorx`` and
``movzx``, the tag is compared by ``lea``, ``shrx`` and ``jrcxz`` (context.py says why that is right). Where
the TLB has no entry the routine ``miss_*`` is called, which finds one and comes back, or leaves.

A host without BMI2 has neither ``rorx`` nor ``shrx``: there it is a routine that keeps the flags, and a
second that only a miss comes back to.
"""

from __future__ import annotations

from struct import pack

from pykvm.translate.context import JUMP_HOST, JUMP_TAG, SLOT, TLB_ADDEND, TLB_READ, TLB_WRITE
from pykvm.translate.encode import call_slot, store_slot

_INDEX = bytes.fromhex("c4c3fbf0c90c 0fb7c9")  # rorx rcx, r9, 12; movzx ecx, cx
_LOAD = b"\x48\x8b\x8c\xcc"  # mov rcx, [rsp + rcx*8 + ...]
_SHIFT = bytes.fromhex("c4e2dbf7c9")  # shrx rcx, rcx, rsp: by 16
# rorx rcx, r9, 16; lea rcx, [rcx + r9]; movzx ecx, cx
_JUMP_INDEX = bytes.fromhex("c4c3fbf0c910 4a8d0c09 0fb7c9")
# mov [rsp + ...], r9; movzx ecx, word [rsp + ... + 2]; lea rcx, [rcx + r9]; movzx ecx, cx
_JUMP_INDEX_SLOW = (
    store_slot(9, SLOT["temporary"])
    + b"\x0f\xb7\x8c\x24" + pack("<i", SLOT["temporary"] + 2)
    + bytes.fromhex("4a8d0c09 0fb7c9")
)  # fmt: skip
_CHECK_ATTENTION = (
    bytes((0x48, 0x8B, 0x4C, 0x24, SLOT["attention"])) + b"\xe3\x04" + call_slot(SLOT["leave_for_attention"])
)


class Lookup:
    """Makes the code, once for each kind of access."""

    def __init__(self, bmi2: bool = True) -> None:
        self.bmi2 = bmi2
        self._codes: dict[tuple[int, int, int], bytes] = {}
        self._jumps = [self._make_jump(user) for user in (0, 1)]

    def code(self, user: int, write: int, size: int) -> bytes:
        """An access of ``size`` bytes (one of MISS_SIZES)."""
        key = (user, write, size)
        code = self._codes.get(key)
        if code is None:
            code = self._codes[key] = self._make(user, write, size)
        return code

    def _make(self, user: int, write: int, size: int) -> bytes:
        if not self.bmi2:
            return call_slot(SLOT[f"lookup_{user}{write}_{size}"]) + call_slot(SLOT[f"addend_{user}"])
        tag = (TLB_WRITE if write else TLB_READ)[user]
        # lea rcx, [rcx + r9 + size - 1]
        add = (
            b"\x4a\x8d\x0c\x09"
            if size == 1
            else (
                b"\x4a\x8d\x4c\x09" + bytes((size - 1,))
                if size <= 128
                else b"\x4a\x8d\x8c\x09" + pack("<i", size - 1)
            )
        )
        miss = call_slot(SLOT[f"miss_{user}{write}_{size}"])
        parts = (_INDEX, _LOAD, pack("<i", tag), add, _SHIFT, b"\xe3", bytes((len(miss),)), miss)
        return b"".join((*parts, _INDEX, _LOAD, pack("<i", TLB_ADDEND[user])))

    def jump(self, user: int) -> bytes:
        """Go on in guest code at R9, by the jump cache; in passing something that waits is noticed."""
        return self._jumps[user]

    def _make_jump(self, user: int) -> bytes:
        miss = call_slot(SLOT["jump_miss"])
        index = _JUMP_INDEX if self.bmi2 else _JUMP_INDEX_SLOW
        return (
            _CHECK_ATTENTION_JUMP
            + index
            + _LOAD + pack("<i", JUMP_TAG[user])
            + b"\x4a\x8d\x0c\x09"  # lea rcx, [rcx + r9]
            + b"\xe3" + bytes((len(miss),)) + miss
            + index
            + b"\xff\xa4\xcc" + pack("<i", JUMP_HOST[user])  # jmp [rsp + rcx*8 + ...]
        )  # fmt: skip


def jump_index(rip: int) -> int:
    """The entry of the jump cache for ``rip``, as the emitted code finds it."""
    return rip + (rip >> 16) & 0xFFFF


# An indirect jump that finds something waiting leaves as one that isn't known: Python looks at both.
_CHECK_ATTENTION_JUMP = (
    bytes((0x48, 0x8B, 0x4C, 0x24, SLOT["attention"])) + b"\xe3\x04" + call_slot(SLOT["jump_miss"])
)
CHECK_ATTENTION = _CHECK_ATTENTION
