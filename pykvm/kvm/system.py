"""/dev/kvm itself: its version, what it can do, and new VMs."""

from __future__ import annotations

import errno
import os

from pykvm.errors import HostError
from pykvm.kvm import structs
from pykvm.kvm.abi import KVM_API_VERSION
from pykvm.kvm.capabilities import CAPABILITIES, number
from pykvm.kvm.descriptor import Descriptor
from pykvm.kvm.errors import KvmError
from pykvm.kvm.vm import Vm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEVICE = "/dev/kvm"


class Kvm(Descriptor):
    """An open /dev/kvm.

    Raises HostError, each with its own sentence, when the node is missing, may not be opened, is
    not KVM, speaks another version, or lacks a capability that pykvm needs.
    """

    def __init__(self, path: str = DEVICE) -> None:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise _refusal(path, error) from error
        super().__init__(fd)
        try:
            self._check(path)
            self.run_page_size = self.number("KVM_GET_VCPU_MMAP_SIZE")
        except BaseException:
            self.close()
            raise

    def _check(self, path: str) -> None:
        try:
            version = self.number("KVM_GET_API_VERSION")
        except KvmError as error:
            raise HostError(
                "is there, but it is not KVM: it answers no KVM_GET_API_VERSION",
                where=path,
                remedy="it is to be the character device 10:232 of the kernel's kvm module",
            ) from error
        if version != KVM_API_VERSION:
            raise HostError(f"speaks version {version}; pykvm speaks {KVM_API_VERSION}", where=path)
        for name, (cap, needed, purpose) in CAPABILITIES.items():
            if needed and not self.number("KVM_CHECK_EXTENSION", cap):
                raise HostError(
                    f"this host's KVM lacks {name} ({purpose})", where=path, remedy="run a newer kernel"
                )

    def capability(self, name: str) -> int:
        """What KVM_CHECK_EXTENSION answers for ``name``: 0 where it is lacking."""
        return self.number("KVM_CHECK_EXTENSION", number(name))

    def create_vm(self) -> Vm:
        """A new VM of the default type. Raises KvmError."""
        return Vm(self.number("KVM_CREATE_VM", 0), self.run_page_size)

    def supported_cpuid(self) -> list[dict[str, int]]:
        """KVM_GET_SUPPORTED_CPUID: what KVM offers to guests, an entry a leaf and sub-leaf."""
        return cpuid_entries(self, "KVM_GET_SUPPORTED_CPUID")

    def msr_indices(self, name: str = "KVM_GET_MSR_INDEX_LIST") -> list[int]:
        """The MSRs that KVM can save and load (or those of its features)."""
        room = 512
        while True:
            table = structs.msr_list(room)
            try:
                self.struct(name, table)
            except KvmError as error:
                if error.errno != errno.E2BIG or room > 1 << 16:
                    raise
                room *= 2
            else:
                return list(table.indices[: table.nmsrs])


def cpuid_entries(descriptor: Descriptor, name: str) -> list[dict[str, int]]:
    """The entries that a CPUID ioctl fills, with as much room as it turns out to want."""
    room = 64
    while True:
        table = structs.cpuid2(room)
        try:
            descriptor.struct(name, table)
        except KvmError as error:
            if error.errno != errno.E2BIG or room > 1 << 12:
                raise
            room *= 2
        else:
            return [structs.to_dict(entry) for entry in table.entries[: table.nent]]


def cpuid_table(entries: list[dict[str, int]]) -> Any:
    """struct kvm_cpuid2 filled with ``entries``."""
    table = structs.cpuid2(len(entries))
    for slot, entry in zip(table.entries, entries, strict=True):
        structs.from_dict(slot, entry)
    return table


def _refusal(path: str, error: OSError) -> HostError:
    if error.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        return HostError(
            "there is no KVM on this host",
            where=path,
            remedy="load the kernel's module (modprobe kvm_intel or kvm_amd), switch virtualization on in "
            "the firmware's setup, or give this container or VM access to /dev/kvm",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return HostError("you may not open it", where=path, remedy=_permission_remedy(path))
    return HostError(f"can't be opened: {error.strerror}", where=path)


def _permission_remedy(path: str) -> str:
    """Name the node's real owner, group and mode, and the command that lets this user in."""
    import grp  # late: only where something is wrong
    import pwd

    try:
        node = os.stat(path)
    except OSError:
        return "ask the host's administrator for access"
    try:
        owner = pwd.getpwuid(node.st_uid).pw_name
    except KeyError:
        owner = str(node.st_uid)
    try:
        group = grp.getgrgid(node.st_gid).gr_name
    except KeyError:
        group = str(node.st_gid)
    mode = node.st_mode & 0o777
    facts = f"it belongs to {owner}:{group} with mode {mode:04o}"
    if mode & 0o060 == 0o060 and node.st_gid != 0:
        return f"{facts}; join that group: sudo usermod -aG {group} $USER, then log in anew"
    return f"{facts}; as root: setfacl -m u:$USER:rw {path}, or chgrp kvm {path} && chmod 660 {path}"
