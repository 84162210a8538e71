"""What an x86 CPU is, on plain values named like the fields of kvm_regs and kvm_sregs."""
