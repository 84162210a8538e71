"""The PCI bus: configuration spaces, who sits where, and the ports that reach them."""
