"""What of libc is needed beyond Python's own modules, by ctypes with full argument types."""
