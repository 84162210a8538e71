"""A /dev/kvm that is there and not enough: each lack has its sentence."""

from __future__ import annotations

import pytest

from pykvm.errors import HostError
from pykvm.kvm import system
from pykvm.kvm.capabilities import CAPABILITIES

NEEDED = [name for name, (_, needed, _) in CAPABILITIES.items() if needed]


def kvm(version=12, lacks=()):
    """A Kvm over a /dev/kvm that speaks ``version`` and has all but ``lacks``."""
    answers = {number: name not in lacks for name, (number, _, _) in CAPABILITIES.items()}

    class Host(system.Kvm):
        def number(self, request, argument=0):
            return {
                "KVM_GET_API_VERSION": version,
                "KVM_GET_VCPU_MMAP_SIZE": 12288,
                "KVM_CHECK_EXTENSION": answers.get(argument, 0),
            }[request]

    return Host("/dev/null")


def test_a_kvm_with_everything_is_taken():
    with kvm() as host:
        assert host.run_page_size == 12288


@pytest.mark.parametrize("name", NEEDED)
def test_a_capability_that_is_needed_and_lacking_is_named_with_its_purpose(name):
    with pytest.raises(HostError) as caught:
        kvm(lacks={name})
    assert str(caught.value) == (
        f"/dev/null: this host's KVM lacks {name} ({CAPABILITIES[name][2]}); run a newer kernel"
    )
    assert caught.value.status == 69


@pytest.mark.parametrize("name", sorted(set(CAPABILITIES) - set(NEEDED)))
def test_pykvm_goes_without_the_others(name):
    kvm(lacks={name}).close()


def test_another_version_is_told():
    with pytest.raises(HostError, match=r"^/dev/null: speaks version 11; pykvm speaks 12$"):
        kvm(version=11)
