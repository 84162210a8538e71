"""pykvm: a hypervisor front end in Python over /dev/kvm."""

__version__ = "0.1.0"
