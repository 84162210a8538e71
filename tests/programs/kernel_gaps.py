"""In which facts of the test kernels others are known to differ from the manuals, and why."""

from __future__ import annotations

_NO_AC = "alignment is not checked"
_NO_LIMITS = "limits and types of segments are not checked"
_RSVD = "the error code of a reserved bit lacks P (SDM vol. 3 §4.7)"
_RESERVED = "reserved bits are not checked"
_GATE = "the error code names the gate by 16 bytes, not by 8 (SDM vol. 3 §6.13)"

_TARGET = "an address that is not canonical is found at the target, not at the instruction"
_RF = "RF is not set in the saved flags of a fault"
_NO_IMPLICIT = "the CPU's own accesses are not checked by SMAP"
_NULL_COUNT = "the status has no null count, and OUT of the count before (8254 data sheet, read-back)"

TCG_BY_CHANCE = {
    "pit": {"still": "counts without its gate, so that two reads may or may not be equal"},
}
"""Facts in which QEMU 7.2 differs in some runs."""

TCG: dict[str, dict[str, str]] = {
    "lme": {"nopae": "such a write of CR0 does nothing"},
    "tasks": {"badfs": "a fault of the new task is given the old task's EIP"},
    "doublefault": {"ud": "EXT is not set where the delivery of an exception faults (SDM vol. 3 §6.13)"},
    "paging32": {"rsvd": _RSVD},
    "v86": {"flags": _RF, "limit": _NO_LIMITS, "limit32": _NO_LIMITS},
    "pae": {
        "pdpt": "a directory pointer gets an accessed bit",
        **dict.fromkeys(("nonxe", "rsvd", "tworsvd"), _RSVD),
        "badpdpte": _RESERVED,
    },
    "smap": {"rmw": "an access that reads and writes faults as a read", "implicit": _NO_IMPLICIT},
    "ist": {
        "ss": "#SS of a stack that is not canonical comes as #DF",
        "type": _GATE,
        "absent": _GATE,
        "offset": _TARGET,
    },
    "syscall": {
        "flags": "SYSCALL clears the arithmetic flags",
        "badrcx": _TARGET,
        "back": "SYSRET takes VM and RF from R11",
        "r11flags": "SYSRET takes VM and RF from R11",
    },
    "sysenter": {"badrip": _TARGET},
    "step": {"tfrf": _RF},
    "breakpoints": {
        "bothdr6": "of two breakpoints that match DR6 tells one",
        **dict.fromkeys(("gd", "gddr6", "gdoff"), "DR7.GD does nothing"),
    },
    "lapic": {
        "esr": "a vector below 16 is sent",
        **dict.fromkeys(("lint0", "lint0still", "lint0on"), "software disable doesn't mask the LVT"),
    },
    "unreal": {"faults": _NO_LIMITS},
    "lengths": {
        **dict.fromkeys(("lockmov", "lockbt"), "LOCK is ignored where it may not be"),
        **dict.fromkeys(("pop1", "mov1"), "group members that there aren't are taken"),
        "test1": "F6 /1 is unknown",
        "rexax": "a REX before another prefix counts",
    },
    "cpuid": {"apicon": "an APIC that was switched off shows no more"},
    "fpumodes": {"limit": _NO_LIMITS},
    "rtc": {"pf": "the periodic flag needs PIE"},
    "x87": {
        **dict.fromkeys(("under", "over", "tag"), "no stack fault"),
        "mf": "a load takes no pending exception",
        "ie": "C1 is set",
    },
    "sse": {
        **dict.fromkeys(("noxmm", "xm", "kept"), "no exception of SSE is raised"),
        "reserved": _RESERVED,
    },
    "fxsave": {"badmxcsr": _RESERVED, "mm3exp": "MMX leaves the exponent"},
    "pit": {
        **dict.fromkeys(("mode0", "mode2", "mode3", "mode1", "mode4", "mode7"), _NULL_COUNT),
        "low0": "OUT stays high after a control word of mode 0",
        "bcd": "counts are binary under BCD too",
    },
    "rings": {
        "badbase": _RESERVED,
        "urcx": _RESERVED,
        "badrip": _TARGET,
        "ld": "a code segment with both L and D is taken",
    },
    "exceptions32": {
        "icebp": "#UD, where the processor raises #DB",
        "rdmsr": "an unknown MSR reads 0",
        "ac": _NO_AC,
    },
    "exceptions64": {
        "gpint": _GATE,
        "int20": _GATE,
        "wraps": "of an access into what is not canonical only the first byte counts",
        "stack": "#GP, where an address by RBP that is not canonical is #SS",
        "efer": _RESERVED,
        "lstar": "an address that is not canonical is taken",
        "cr0": _RESERVED,
        "ac": _NO_AC,
    },
    "paging64": dict.fromkeys(("nonxe", "rsvd", "rsvdw", "ursvd", "tworsvd", "onersvd", "pml4ps"), _RSVD),
    "segments": dict.fromkeys(
        (
            *("beyond", "straddle", "straddlew", "wrap", "pagebeyond", "downlow", "downwrap", "down16top"),
            *("ronlyw", "codew", "null", "nullwrite", "stack", "ssnow"),
        ),
        _NO_LIMITS,
    ),
}
"""QEMU 7.2 without KVM."""

_LOADERS = tuple(
    f"boot-{kind}"
    for kind in ("elf32", "elf64", "multiboot", "multiboot2", "pvh", "sector", "setup", "zimage")
)

TCG_CANNOT: dict[str, str] = {
    "control": "paging without protection resets it",
    "deadline": "no TSC-deadline timer, no x2APIC",
    "nogdt": "where nothing is it reads 0, which is no descriptor",
    "unmapped": "where nothing is it reads 0, which is code",
    **dict.fromkeys(_LOADERS, "it prints what its loader has put where"),
}
"""Kernels that QEMU 7.2 can't run at all."""

_NO_ESR = "the error status register is always 0"
_ANY_EOI = "x2APIC's EOI takes a number that is not 0"

KVM = {"unmapped": {"tables": "a page table where no memory is reads as none, or as what it maps"}}
"""Any KVM (seen: Linux 6.12, 6.18). On a fault in the page walk its emulator takes the table's address for
that of the access, where both have the same offset in their pages."""

KVM_BY_PLACE: dict[str, dict[str, dict[str, str]]] = {
    "kernel": {
        "deadline": {"eoi1": _ANY_EOI},
        "lapic": {"esr": _NO_ESR},
        "pic": {
            "pollisr": "a poll leaves nothing in service",
            "pollnone": "a poll gives 7 where nothing asks",
        },
    },
    "split": {"deadline": {"eoi1": _ANY_EOI}, "lapic": {"esr": _NO_ESR}},
}
"""Any KVM's own interrupt controllers, by the value of `interrupts`."""

KVM_CANNOT = {
    "nogdt": "KVM reads no descriptor where no memory is and begins the instruction again, for ever"
}
"""Kernels that no KVM can run, also with QEMU in pykvm's place."""

USER_CANNOT = {
    "deadline": "with pykvm's own controllers KVM offers neither the TSC-deadline timer nor x2APIC mode"
}
"""Kernels that KVM can't run with `interrupts: user`."""

_NO_SYSENTER = "SYSENTER in 64-bit mode is #UD, as on an AMD processor"

LAB: dict[str, dict[str, str]] = {
    "control": {
        **dict.fromkeys(("cr4high", "cr8high"), _RESERVED),
        "cr3high": "VMEXIT_INVALID, where the processor raises #GP",
    },
    "breakpoints": dict.fromkeys(("io", "ioip", "iodr6"), "no breakpoint on a port is raised"),
    "cpuid": {"brand": "no brand string"},
    "sysenter": dict.fromkeys(("done64", "cs64", "ss64", "rsp64", "backcs64", "backsp64"), _NO_SYSENTER),
}
"""KVM on AMD-V in the lab, beyond what its CPU, QEMU's, does in its own way: what was seen, not why."""

LAB_CANNOT = {
    "lme": "the lab's machine stands still: on a VM's exit QEMU's CPU loses CR0.PG",
}
"""Kernels that the lab can't run, also with QEMU in pykvm's place. Its CPU's VMEXIT (do_vmexit in
target/i386/tcg/sysemu/svm_helper.c; 7.2) loads the host's CR0 while EFER and CR4 are still the guest's. With
LME and without PAE cpu_x86_update_cr0 then does nothing, and the host goes on without paging."""

LAB_STATUS = {"control": 125, "rings": 125}
"""What else a kernel ends with there, also with QEMU in pykvm's place: VMRUN refuses what that CPU has loaded
without #GP, a CS with both L and D (rings); and reserved bits of CR3 end in VMEXIT_INVALID (control)."""

_ENDED = "a local APIC in such a KVM ends each interrupt as it gives it (QEMU sees that too)"
_LATE = "interrupts come late: up to 1024 instructions are interpreted in a row"
_NO_FPU = "x87 and SSE are not interpreted"
_RING3 = "from ring 3 neither INT nor call gates work"

EMULATING_KVM: dict[str, dict[str, str]] = {
    "control": {"cr4high": _RESERVED},
    "cpuid": {"brand": "no brand string"},
    "crossing": {"untouched": "a write over two pages is half done where the second faults"},
    "deadline": {"written": "a write of the time-stamp counter is not exact"},
    "flags": {
        "if3": "RF is set in the saved flags of a trap",
        **dict.fromkeys(("iret3", "iretflags", "iret0", "iretif"), "no IRET in ring 3"),
    },
    "segments": {
        "downwrap": "an access that wraps at 4 GiB in an expand-down segment is let through",
        "stack": "the saved EIP of #SS is 0",
    },
    "step": {
        **dict.fromkeys(("rep", "replast"), "a REP is one step"),
        **dict.fromkeys(("movss", "ssip"), "MOV SS doesn't hold the trap back"),
    },
}
"""A KVM that interprets ring 0, the public PVM driver."""

EMULATING_KVM_BY_PLACE: dict[str, dict[str, dict[str, str]]] = {
    "kernel": {
        "ioapic": dict.fromkeys(("remoteirr", "again"), _ENDED),
        "lapic": dict.fromkeys(("inservice", "ppr2", "same", "after"), _ENDED),
    },
    "split": {"lapic": dict.fromkeys(("inservice", "ppr2", "same", "after"), _ENDED)},
}
"""Such a KVM's local APICs, by the value of `interrupts`."""

EMULATING_KVM_SPLIT_CANNOT = {
    "ioapic": f"{_ENDED}: a level comes again before the next instruction, for ever; KVM's IOAPIC then waits"
}
"""Kernels that such a KVM can't run with `interrupts: split`."""

EMULATING_KVM_CANNOT: dict[str, str] = {
    "breakpoints": "no breakpoints on data and ports",
    "doublefault": "no task gate for a double fault",
    "exceptions32": _NO_FPU,
    "exceptions64": "no #UD for a VEX prefix without AVX",
    "fpumodes": _NO_FPU,
    "fxsave": _NO_FPU,
    "gates": _RING3,
    "ist": _RING3,
    "lengths": "CMPXCHG8B of a register ends the run",
    "pae": "paging on ends in a page fault",
    "paging32": "2-level paging doesn't work",
    "paging64": "no pages of 1 GiB",
    "rings": _RING3,
    "shadow": _LATE,
    "sse": _NO_FPU,
    "syscall": "SYSCALL from ring 3 stays there",
    "sysenter": "SYSENTER in 64-bit mode saves nothing",
    "unreal": "limits of segments are lost in real mode",
    "v86": "no INT, PUSHF or ports in virtual-8086 mode",
    "x87": _NO_FPU,
}
"""Kernels that such a KVM can't run to their end, or can't be asked."""
