"""What became of a guest: the post-mortem of one that crashed or hangs."""
