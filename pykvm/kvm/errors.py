"""What KVM's refusals mean, and what a user can do about them."""

from __future__ import annotations

import errno
import os

from pykvm.errors import HostError

# (ioctl, errno): what to do. The kernel's Documentation/virt/kvm/api.rst gives the causes.
REMEDIES = {
    ("KVM_CREATE_VM", errno.EBUSY): "another hypervisor (VirtualBox, VMware) holds the CPU; stop it",
    ("KVM_CREATE_VM", errno.ENOMEM): "free memory on the host",
    ("KVM_CREATE_VCPU", errno.EINVAL): "give the machine fewer CPUs",
    ("KVM_CREATE_VCPU", errno.ENOMEM): "free memory on the host",
    ("KVM_SET_USER_MEMORY_REGION", errno.ENOMEM): "make `memory` smaller or free memory on the host",
    ("KVM_RUN", errno.ENOMEM): "free memory on the host",
    ("KVM_RUN", errno.EFAULT): "the guest touched memory that the host could not give; make `memory` smaller",
}


class KvmError(HostError):
    """An ioctl that failed: its name, the reason, and a remedy where one is known."""

    def __init__(self, ioctl: str, number: int, detail: str = "") -> None:
        what = f"{ioctl} failed: {os.strerror(number)} ({errno.errorcode.get(number, number)})"
        remedy = REMEDIES.get((ioctl, number), "")
        super().__init__(f"{what}, {detail}" if detail else what, where="/dev/kvm", remedy=remedy)
        self.ioctl = ioctl
        self.errno = number
