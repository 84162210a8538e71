"""Structure layouts of <linux/kvm.h> and <asm/kvm.h> for x86-64, with the kernel's names.

A test compiles every size and offset against the installed headers. Structures that end in an
array of any length are made by ``msrs(n)`` and ``cpuid2(n)``.
"""

from __future__ import annotations

from ctypes import Structure, Union, c_int32, c_int64, c_uint8, c_uint16, c_uint32, c_uint64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

u8, u16, u32, u64 = c_uint8, c_uint16, c_uint32, c_uint64
s32, s64 = c_int32, c_int64


def _fields(ctype: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, ctype) for name in names.split()]


class kvm_regs(Structure):
    _fields_ = _fields(u64, "rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags")


class kvm_segment(Structure):
    _fields_ = [
        ("base", u64),
        ("limit", u32),
        ("selector", u16),
        *_fields(u8, "type present dpl db s l g avl unusable padding"),
    ]


class kvm_dtable(Structure):
    _fields_ = [("base", u64), ("limit", u16), ("padding", u16 * 3)]


class kvm_sregs(Structure):
    _fields_ = [
        *_fields(kvm_segment, "cs ds es fs gs ss tr ldt"),
        *_fields(kvm_dtable, "gdt idt"),
        *_fields(u64, "cr0 cr2 cr3 cr4 cr8 efer apic_base"),
        ("interrupt_bitmap", u64 * 4),
    ]


class kvm_debugregs(Structure):
    _fields_ = [("db", u64 * 4), ("dr6", u64), ("dr7", u64), ("flags", u64), ("reserved", u64 * 9)]


class kvm_xsave(Structure):
    _fields_ = [("region", u32 * 1024)]


class kvm_xcr(Structure):
    _fields_ = [("xcr", u32), ("reserved", u32), ("value", u64)]


class kvm_xcrs(Structure):
    _fields_ = [("nr_xcrs", u32), ("flags", u32), ("xcrs", kvm_xcr * 16), ("padding", u64 * 16)]


class kvm_lapic_state(Structure):
    _fields_ = [("regs", u8 * 0x400)]


class kvm_mp_state(Structure):
    _fields_ = [("mp_state", u32)]


class _exception(Structure):
    _fields_ = [*_fields(u8, "injected nr has_error_code pending"), ("error_code", u32)]


class _interrupt(Structure):
    _fields_ = _fields(u8, "injected nr soft shadow")


class _nmi(Structure):
    _fields_ = _fields(u8, "injected pending masked pad")


class _smi(Structure):
    _fields_ = _fields(u8, "smm pending smm_inside_nmi latched_init")


class _triple_fault(Structure):
    _fields_ = [("pending", u8)]


class kvm_vcpu_events(Structure):
    _fields_ = [
        ("exception", _exception),
        ("interrupt", _interrupt),
        ("nmi", _nmi),
        ("sipi_vector", u32),
        ("flags", u32),
        ("smi", _smi),
        ("triple_fault", _triple_fault),
        ("reserved", u8 * 26),
        ("exception_has_payload", u8),
        ("exception_payload", u64),
    ]


class kvm_msr_entry(Structure):
    _fields_ = [("index", u32), ("reserved", u32), ("data", u64)]


class kvm_cpuid_entry2(Structure):
    _fields_ = [*_fields(u32, "function index flags eax ebx ecx edx"), ("padding", u32 * 3)]


class kvm_userspace_memory_region(Structure):
    _fields_ = [
        *_fields(u32, "slot flags"),
        *_fields(u64, "guest_phys_addr memory_size userspace_addr"),
    ]


class kvm_dirty_log(Structure):
    _fields_ = [("slot", u32), ("padding1", u32), ("dirty_bitmap", u64)]


class kvm_irq_level(Structure):
    _fields_ = _fields(u32, "irq level")


class kvm_irqchip(Structure):
    _fields_ = [("chip_id", u32), ("pad", u32), ("chip", u8 * 512)]


class kvm_irq_routing_irqchip(Structure):
    _fields_ = _fields(u32, "irqchip pin")


class kvm_irq_routing_msi(Structure):
    _fields_ = _fields(u32, "address_lo address_hi data devid")


class _route(Union):
    _fields_ = [("irqchip", kvm_irq_routing_irqchip), ("msi", kvm_irq_routing_msi), ("pad", u32 * 8)]


class kvm_irq_routing_entry(Structure):
    _fields_ = [*_fields(u32, "gsi type flags pad"), ("u", _route)]


class kvm_msi(Structure):
    _fields_ = [*_fields(u32, "address_lo address_hi data flags devid"), ("pad", u8 * 12)]


class kvm_irqfd(Structure):
    _fields_ = [*_fields(u32, "fd gsi flags resamplefd"), ("pad", u8 * 16)]


class kvm_ioeventfd(Structure):
    _fields_ = [
        *_fields(u64, "datamatch addr"),
        ("len", u32),
        ("fd", s32),
        ("flags", u32),
        ("pad", u8 * 36),
    ]


class kvm_coalesced_mmio_zone(Structure):
    _fields_ = [("addr", u64), ("size", u32), ("pio", u32)]


class kvm_coalesced_mmio(Structure):
    _fields_ = [("phys_addr", u64), ("len", u32), ("pio", u32), ("data", u8 * 8)]


class kvm_pit_config(Structure):
    _fields_ = [("flags", u32), ("pad", u32 * 15)]


class kvm_pit_channel_state(Structure):
    _fields_ = [
        ("count", u32),
        ("latched_count", u16),
        *_fields(
            u8, "count_latched status_latched status read_state write_state write_latch rw_mode mode bcd gate"
        ),
        ("count_load_time", s64),
    ]


class kvm_pit_state2(Structure):
    _fields_ = [("channels", kvm_pit_channel_state * 3), ("flags", u32), ("reserved", u32 * 9)]


class kvm_clock_data(Structure):
    _fields_ = [
        ("clock", u64),
        ("flags", u32),
        ("pad0", u32),
        ("realtime", u64),
        ("host_tsc", u64),
        ("pad", u32 * 4),
    ]


class kvm_guest_debug_arch(Structure):
    _fields_ = [("debugreg", u64 * 8)]


class kvm_guest_debug(Structure):
    _fields_ = [("control", u32), ("pad", u32), ("arch", kvm_guest_debug_arch)]


class kvm_interrupt(Structure):
    _fields_ = [("irq", u32)]


class kvm_enable_cap(Structure):
    _fields_ = [("cap", u32), ("flags", u32), ("args", u64 * 4), ("pad", u8 * 64)]


class kvm_translation(Structure):
    _fields_ = [
        *_fields(u64, "linear_address physical_address"),
        *_fields(u8, "valid writeable usermode"),
        ("pad", u8 * 5),
    ]


def coalesced_mmio_ring(count: int) -> Any:
    """struct kvm_coalesced_mmio_ring with room for ``count`` writes."""
    fields = [("first", u32), ("last", u32), ("coalesced_mmio", kvm_coalesced_mmio * count)]
    return type("kvm_coalesced_mmio_ring", (Structure,), {"_fields_": fields})()


def msrs(count: int) -> Any:
    """struct kvm_msrs with room for ``count`` entries."""
    fields = [("nmsrs", u32), ("pad", u32), ("entries", kvm_msr_entry * count)]
    made = type("kvm_msrs", (Structure,), {"_fields_": fields})()
    made.nmsrs = count
    return made


def msr_list(count: int) -> Any:
    """struct kvm_msr_list with room for ``count`` indices."""
    made = type("kvm_msr_list", (Structure,), {"_fields_": [("nmsrs", u32), ("indices", u32 * count)]})()
    made.nmsrs = count
    return made


def cpuid2(count: int) -> Any:
    """struct kvm_cpuid2 with room for ``count`` entries."""
    fields = [("nent", u32), ("padding", u32), ("entries", kvm_cpuid_entry2 * count)]
    made = type("kvm_cpuid2", (Structure,), {"_fields_": fields})()
    made.nent = count
    return made


def irq_routing(count: int) -> Any:
    """struct kvm_irq_routing with room for ``count`` entries."""
    fields = [("nr", u32), ("flags", u32), ("entries", kvm_irq_routing_entry * count)]
    made = type("kvm_irq_routing", (Structure,), {"_fields_": fields})()
    made.nr = count
    return made


# The heads of the structures that end in an array: what their ioctl numbers count.
MSRS_HEAD = CPUID2_HEAD = IRQ_ROUTING_HEAD = 8
MSR_LIST_HEAD = 4

PADDING = frozenset({"pad", "pad0", "padding", "padding1", "reserved"})


def to_dict(struct: Any) -> dict[str, Any]:
    """A structure as plain values by field name, without padding; arrays of bytes become bytes."""
    plain: dict[str, Any] = {}
    for name, ctype in struct._fields_:
        if name not in PADDING:
            plain[name] = _to_plain(getattr(struct, name), ctype)
    return plain


def _to_plain(value: Any, ctype: Any) -> Any:
    if isinstance(value, int):
        return value
    if isinstance(value, Structure):
        return to_dict(value)
    if ctype._type_ is u8:
        return bytes(value)
    return [_to_plain(item, ctype._type_) for item in value]


def from_dict(struct: Any, plain: dict[str, Any]) -> Any:
    """Fill ``struct`` with what ``to_dict`` gave; fields that ``plain`` lacks stay as they are."""
    for name, _ in struct._fields_:
        if name in plain:
            value = plain[name]
            if isinstance(value, dict):
                from_dict(getattr(struct, name), value)
            elif isinstance(value, list | bytes):
                _fill(getattr(struct, name), value)
            else:
                setattr(struct, name, value)
    return struct


def _fill(array: Any, values: Any) -> None:
    for index, value in enumerate(values):
        if isinstance(value, dict):
            from_dict(array[index], value)
        else:
            array[index] = value


STRUCTS: dict[str, Any] = {name: made for name, made in globals().items() if name.startswith("kvm_")}
