"""The binding to /dev/kvm: descriptors as small classes, one method an ioctl, no policy.

``abi``, ``structs`` and ``capabilities`` are the kernel's header as tables; ``system``, ``vm`` and
``vcpu`` are the three kinds of descriptor; ``run`` is the page that KVM_RUN shares with us; ``state``
saves and loads a whole vCPU and VM as plain values.
"""
