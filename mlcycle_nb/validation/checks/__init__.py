"""Validation checks, one a file; the file's name is the check's name in ``gates.yaml``."""
