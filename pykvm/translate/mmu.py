"""Address translation as Python sees it: walks, the software TLB's entries, and what drops them.

The runtime's walker fills most entries; what comes here is what it leaves: PAE and no paging at all, page
faults, pages whose writes must be seen, and addresses where no RAM is.
"""

from __future__ import annotations

from pykvm.libc.calls import anonymous
from pykvm.memory.layout import FOUR_GIB
from pykvm.translate import context
from pykvm.translate.breakpoints import WatchedLinear
from pykvm.translate.context import EDGE_ENTRIES, EDGE_INVALID, ENTRIES, SLOT
from pykvm.translate.walks import NARROW_WALK
from pykvm.x86.exceptions import PF, Fault
from pykvm.x86.paging import (
    FETCH,
    PTE_D,
    PTE_G,
    PTE_PS,
    PTE_US,
    PTE_XD,
    READ,
    WRITE,
    canonical,
    unmarked,
    walk,
)
from pykvm.x86.registers import (
    CR0_PG,
    CR0_WP,
    CR4_FSGSBASE,
    CR4_LA57,
    CR4_PAE,
    CR4_PGE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_NXE,
    RFLAGS_AC,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.translate.physical import Physical
    from pykvm.translate.shared import Shared
    from pykvm.translate.state import ContextCpu
    from pykvm.x86.paging import Walk

PAGE = 0x1000
M64 = (1 << 64) - 1
FRAME = 0xF_FFFF_FFFF_F000
_A = 1 << 5
SEVERAL = 0xFFFF_FFFF

_WORD = {name: SLOT[name] // 8 for name in SLOT if SLOT[name] % 8 == 0}


class Page:
    """What a translation found: ``gpa`` of the address, and whether the page is global, large, writable."""

    __slots__ = ("gpa", "is_global", "large", "user", "writable")

    def __init__(self, gpa: int, is_global: bool, large: bool, user: bool, writable: bool) -> None:
        self.gpa = gpa
        self.is_global = is_global
        self.large = large
        self.user = user
        self.writable = writable


class Mmu:
    """The TLB of one CPU in its context. ``halves`` is the context by 4 bytes."""

    def __init__(
        self,
        cpu: ContextCpu,
        shared: Shared,
        physical: Physical,
        words: memoryview,
        halves: memoryview,
        raw: memoryview,
    ) -> None:
        self._cpu = cpu
        self._shared = shared
        self._physical = physical
        self._words = words
        self._halves = halves
        self._raw = raw
        self._flags = shared.flags
        self._writers = anonymous(4 * len(shared.flags))  # not an array: that costs what isn't used too
        self.writers, self.writers_at = self._writers.view.cast("I"), self._writers.address
        """Of each page of RAM, which TLB entry can write it (plus 1; ~0: several can)."""
        self.low_end, self.low_hva = shared.low_end, shared.low_hva
        words[_WORD["guest_low"]] = shared.low_hva
        words[_WORD["low_end"]] = shared.low_end
        words[_WORD["guest_high"]] = shared.high_hva
        words[_WORD["high_size"]] = shared.high_end - FOUR_GIB
        words[_WORD["low_pages"]] = shared.low_pages
        self.fast = False
        self.narrow = False
        self.plain = False
        """32-bit paging without PAE, in which what may be read may be executed, and nothing else counts."""
        self.forget()

    def close(self) -> None:
        self.writers.release()
        self._writers.close()

    # Modes

    def follow(self) -> None:
        """The control registers have changed: what the runtime's walker must know."""
        cpu, words = self._cpu, self._words
        cr0, cr4, efer = cpu.sregs["cr0"], cpu.sregs["cr4"], cpu.sregs["efer"]
        self.fast = bool(cr0 & CR0_PG and efer & EFER_LMA and cr0 & CR0_WP and not cr4 & CR4_LA57)
        self.narrow = bool(cr0 & CR0_PG) and not efer & EFER_LMA and not cr4 & CR4_PAE
        self.plain = self.narrow and not cr4 & (CR4_SMEP | CR4_SMAP)
        words[_WORD["walk_in_code"]] = NARROW_WALK if self.narrow else int(self.fast)
        reserved = (1 << 52) - (1 << cpu.physical_bits)
        if self.narrow:
            reserved = 0 if cr4 & CR4_PSE else PTE_PS
        elif not efer & EFER_NXE:
            reserved |= PTE_XD
        words[_WORD["reserved_bits"]] = reserved
        words[_WORD["global_mask"]] = PTE_G if cr4 & CR4_PGE else 0
        words[_WORD["smap"]] = int(bool(cr4 & CR4_SMAP))
        words[_WORD["bases_forbidden"]] = int(not cr4 & CR4_FSGSBASE)
        cpu.commit_cr3()

    # Walks

    def find(self, gva: int, access: int, user: bool, *, implicit: bool = False) -> Page:
        """Translate; raises the page fault. Accessed and dirty bits are set as a CPU does."""
        if self.fast:
            found = self._quick(gva, access, user, implicit)
            if found is not None:
                return found
            error = self._quick_fault(gva, access, user)
            if error >= 0:
                raise Fault(PF, error, gva)
        cpu = self._cpu
        cpu.refresh_cr3()  # not more: an interpreted instruction may be half done
        sregs = cpu.sregs
        if not sregs["cr0"] & CR0_PG:
            return Page(gva & 0xFFFF_FFFF, False, False, True, True)
        gva &= M64 if sregs["efer"] & EFER_LMA else 0xFFFF_FFFF
        ac = not implicit and bool(cpu.regs["rflags"] & RFLAGS_AC)
        result = self._walk(gva, access, user, ac, mark=self._shared.alone)
        if not self._shared.alone and result.fault is None and unmarked(result, access, sregs):
            self._shared.stop()  # as a CPU marks by a locked operation, another's change must not get lost
            result = self._walk(gva, access, user, ac, mark=True)
        if result.fault is not None:
            raise Fault(PF, result.fault, gva)
        leaf = result.entries[-1].value
        is_global = bool(leaf & PTE_G and sregs["cr4"] & CR4_PGE)
        dirty = access == WRITE or bool(leaf & PTE_D)
        may_write = result.writable or (not user and not sregs["cr0"] & CR0_WP)
        return Page(result.gpa, is_global, result.page > PAGE, result.user, may_write and dirty)

    def _walk(self, gva: int, access: int, user: bool, ac: bool, mark: bool) -> Walk:
        cpu = self._cpu
        return walk(
            self._physical,
            cpu.sregs,
            gva,
            access,
            user=user,
            ac=ac,
            physical_bits=cpu.physical_bits,
            gigabyte_pages=True,
            mark=mark,
        )

    def _quick(self, gva: int, access: int, user: bool, implicit: bool) -> Page | None:
        """4-level paging where nothing is to be marked and nothing faults."""
        memory, end = self._physical.low_words, self.low_end
        table = self._words[_WORD["cr3"]]
        together = M64
        no_execute = 0
        large = False
        for shift in (39, 30, 21, 12):
            if table >= end:
                return None
            entry = memory[(table >> 3) + (gva >> shift & 511)]
            if entry & (1 | _A) != 1 | _A:
                return None
            together &= entry
            no_execute |= entry
            if shift > 12 and entry & PTE_PS:
                if shift == 39:
                    return None  # reserved
                large = True
                size = 1 << shift
                if entry & (size - 1 & ~0x1FFF):
                    return None
                gpa = entry & FRAME & -size | gva & size - 1
                break
            table = entry & FRAME
        else:
            gpa = table | gva & 0xFFF
        if no_execute & self._words[_WORD["reserved_bits"]]:
            return None
        if access == FETCH:
            if no_execute >> 63 or (user and not together & PTE_US):
                return None
            if not user and together & PTE_US and self._cpu.sregs["cr4"] & CR4_SMEP:
                return None
        elif user:
            if not together & PTE_US:
                return None
        elif (
            together & PTE_US
            and self._words[_WORD["smap"]]
            and (implicit or not self._words[_WORD["access_flag"]])
        ):
            return None
        if access == WRITE and not (together & 2 and entry & PTE_D):
            return None
        is_global = bool(entry & self._words[_WORD["global_mask"]])
        return Page(gpa, is_global, large, bool(together & PTE_US), bool(together & 2 and entry & PTE_D))

    def _quick_fault(self, gva: int, access: int, user: bool) -> int:
        """The error code of the usual page faults: nothing is there, or it is to be copied; else -1."""
        memory, end, words = self._physical.low_words, self.low_end, self._words
        table = words[_WORD["cr3"]]
        reserved = words[_WORD["reserved_bits"]]
        code = (2 if access == WRITE else 0) | (4 if user else 0)
        if access == FETCH:
            code |= 16 if not reserved >> 63 or self._cpu.sregs["cr4"] & CR4_SMEP else 0
        together = M64
        for shift in (39, 30, 21, 12):
            if table >= end:
                return -1
            entry = memory[(table >> 3) + (gva >> shift & 511)]
            if not entry & 1:
                return code
            if entry & reserved or (entry & PTE_PS and shift > 12):
                return -1
            together &= entry
            table = entry & FRAME
        if access == WRITE and not together & 2 and user and together & PTE_US:
            return code | 1
        return -1

    # The TLB

    def fill(self, gva: int, user: int, write: int) -> bool:
        """Make the entry for the page of ``gva``; False where the access must be seen. Raises Fault."""
        page = self.find(gva, WRITE if write else READ, bool(user))
        number = self._shared.number(page.gpa)
        if number < 0 or (write and self._flags[number]):
            return False
        words = self._words
        at = gva >> 12 & 0xFFFF
        start = gva & -PAGE
        words[(context.TLB_ADDEND[user] >> 3) + at] = self._shared.host(page.gpa & -PAGE) - start & M64
        tag = context.TAG_BIAS - start & M64
        words[(context.TLB_READ[user] >> 3) + at] = tag
        writable = write or (page.writable and not self._flags[number])
        words[(context.TLB_WRITE[user] >> 3) + at] = tag if writable else invalid(at)
        if writable:
            entry, known = at + 3 * ENTRIES * user + 1, self.writers[number]
            self.writers[number] = entry if known in (0, entry) else SEVERAL
        if page.large:
            self.note_large(gva)
        log, start_of = (
            ("global_log", context.GLOBAL_LOG) if page.is_global else ("local_log", context.LOCAL_LOG)
        )
        self._log(log, start_of, at + 3 * ENTRIES * user)
        if not user and page.user and words[_WORD["smap"]]:
            self._log("user_log", context.USER_LOG, at)
        return True

    def known(self, gva: int, access: int, user: bool) -> int:
        """The guest-physical address by a TLB entry, made if need be; -1 where none can be. Raises Fault."""
        if not self._has(gva, access, user):
            self.fill(gva, int(user), int(access == WRITE))
            if not self._has(gva, access, user):
                return -1
        at = gva >> 12 & 0xFFFF
        host = self._words[(context.TLB_ADDEND[user] >> 3) + at] + gva & M64
        return self._shared.guest(host)

    def _has(self, gva: int, access: int, user: bool) -> bool:
        table = (context.TLB_WRITE if access == WRITE else context.TLB_READ)[user]
        return bool(
            self._words[(table >> 3) + (gva >> 12 & 0xFFFF)] == context.TAG_BIAS - (gva & -PAGE) & M64
        )

    def _log(self, name: str, start: int, value: int) -> None:
        words = self._words
        count = words[_WORD[name]]
        if count < context.LOG_ENTRIES:
            self._halves[(start >> 2) + count] = value
            words[_WORD[name]] = count + 1

    def log_check(self, at: int) -> None:
        """A write to CR3 drops the page check ``at``."""
        self._log("check_log", context.CHECK_LOG, at)

    def forget_writers(self, number: int, host: int) -> None:
        """No entry allows writes any longer to the page ``number``, which lies at ``host``."""
        writer, self.writers[number] = self.writers[number], 0
        words = self._words
        if writer and writer != SEVERAL:
            user, at = divmod(writer - 1, 3 * ENTRIES)
            words[(context.TLB_WRITE[user] >> 3) + at] = invalid(at)
        if writer != SEVERAL:
            return
        for start, count in (
            (context.LOCAL_LOG, words[_WORD["local_log"]]),
            (context.GLOBAL_LOG, words[_WORD["global_log"]]),
        ):
            if count >= context.LOG_ENTRIES:
                self.forget()
                return
            for at in set(self._halves[start >> 2 : (start >> 2) + count]):
                user, at = divmod(at, 3 * ENTRIES)
                tag = words[(context.TLB_WRITE[user] >> 3) + at]
                page = context.TAG_BIAS - tag & M64
                if page + words[(context.TLB_ADDEND[user] >> 3) + at] & M64 == host:
                    words[(context.TLB_WRITE[user] >> 3) + at] = invalid(at)

    def forget(self) -> None:
        """Drop all translations, global ones too, and all page checks."""
        words, raw = self._words, self._raw
        for name, start in (("local_log", context.LOCAL_LOG), ("global_log", context.GLOBAL_LOG)):
            count = words[_WORD[name]]
            if count >= context.LOG_ENTRIES:
                for table in (*context.TLB_READ, *context.TLB_WRITE):
                    raw[table : table + context.TABLE] = bytes(context.TABLE)
            else:
                for at in set(self._halves[start >> 2 : (start >> 2) + count]):
                    words[(context.TLB_READ[0] >> 3) + at] = 0
                    words[(context.TLB_WRITE[0] >> 3) + at] = 0
        for table in (*context.TLB_READ, *context.TLB_WRITE):
            for at in EDGE_ENTRIES:
                words[(table >> 3) + at] = EDGE_INVALID
        raw[context.PAGE_CHECKS : context.PAGE_CHECKS + 4 * ENTRIES] = bytes(4 * ENTRIES)
        raw[context.LARGE : context.LARGE + ENTRIES] = bytes(ENTRIES)
        for name in ("local_log", "global_log", "check_log", "user_log"):
            words[_WORD[name]] = 0

    def note_large(self, gva: int) -> None:
        """What lies in the TLB of a large page is not known page by page: 2 MiB, or 4."""
        at = gva >> 21 & 0xFFFF
        self._raw[context.LARGE + at] = 1
        if self.narrow:
            self._raw[context.LARGE + (at ^ 1)] = 1

    def forget_page(self, gva: int) -> None:
        """INVLPG."""
        if self._raw[context.LARGE + (gva >> 21 & 0xFFFF)]:
            self.forget()
            return
        at = gva >> 12 & 0xFFFF
        for table in (*context.TLB_READ, *context.TLB_WRITE):
            self._words[(table >> 3) + at] = invalid(at)
        self._halves[(context.PAGE_CHECKS >> 2) + at] = 0


def invalid(at: int) -> int:
    """A tag that no access through entry ``at`` can match."""
    return -((at ^ 0x8000) << 12) & M64


class TranslatedLinear(WatchedLinear):
    """The interpreter's memory, by the quick walk where it serves."""

    def __init__(self, cpu: ContextCpu, physical: Physical, mmu: Mmu, shared: Shared) -> None:
        super().__init__(cpu, physical)
        self._mmu = mmu
        self._shared = shared

    def lock(self) -> None:
        self._shared.stop()

    def translate(self, gva: int, access: int, user: bool, implicit: bool = False, mark: bool = True) -> int:
        mmu = self._mmu
        if mmu.fast and canonical(gva & M64, 0):
            found = mmu._quick(gva & M64, access, user, implicit)
            if found is not None:
                return found.gpa
        elif mmu.plain and mark and (gpa := mmu.known(gva & 0xFFFF_FFFF, access, user)) >= 0:
            return gpa
        if mark and not self._shared.alone:
            return mmu.find(gva & M64, access, user, implicit=implicit).gpa
        return super().translate(gva, access, user, implicit, mark)
