"""In which facts of the test kernels others are known to differ from the manuals, and why."""

from __future__ import annotations

_NO_AC = "alignment is not checked"
_NO_LIMITS = "limits and types of segments are not checked"
_RSVD = "the error code of a reserved bit lacks P (SDM vol. 3 §4.7)"
_RESERVED = "reserved bits are not checked"
_GATE = "the error code names the gate by 16 bytes, not by 8 (SDM vol. 3 §6.13)"

TCG: dict[str, dict[str, str]] = {
    "exceptions32": {
        "icebp": "#UD, where the processor raises #DB",
        "rdmsr": "an unknown MSR reads 0",
        "ac": _NO_AC,
    },
    "exceptions64": {
        "gpint": _GATE,
        "int20": _GATE,
        "stack": "#GP, where an address by RBP that is not canonical is #SS",
        "efer": _RESERVED,
        "lstar": "an address that is not canonical is taken",
        "cr0": _RESERVED,
        "ac": _NO_AC,
    },
    "paging64": dict.fromkeys(("nonxe", "rsvd", "rsvdw", "ursvd", "tworsvd", "onersvd", "pml4ps"), _RSVD),
    "segments": dict.fromkeys(
        "beyond straddle straddlew wrap pagebeyond downlow downwrap down16top ronlyw codew null nullwrite "
        "stack ssnow".split(),
        _NO_LIMITS,
    ),
}
"""QEMU 7.2 without KVM."""

TCG_CANNOT: dict[str, str] = {}
"""Kernels that QEMU 7.2 can't run at all."""

EMULATING_KVM: dict[str, dict[str, str]] = {
    "segments": {
        "downwrap": "an access that wraps at 4 GiB in an expand-down segment is let through",
        "stack": "the saved EIP of #SS is 0",
    },
}
"""A KVM that interprets ring 0, the public PVM driver."""

EMULATING_KVM_CANNOT: dict[str, str] = {
    "exceptions32": "no x87",
    "exceptions64": "no #UD for a VEX prefix without AVX",
    "paging64": "no pages of 1 GiB",
}
"""Kernels that such a KVM can't run to their end."""

LAB_CANNOT: dict[str, str] = {}
"""Kernels that the lab, AMD-V by QEMU, can't run."""
