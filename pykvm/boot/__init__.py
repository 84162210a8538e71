"""What a machine starts with: kernels, the tables that they read, and where they come from."""
