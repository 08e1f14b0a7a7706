"""Training: a notebook cell runs in worker processes outside the kernel, and survives whatever dies."""
