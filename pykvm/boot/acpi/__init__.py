"""The ACPI tables of a board: what a kernel is told of hardware that it can't find by asking."""
