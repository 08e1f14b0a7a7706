"""Monitoring: windows of what was served, drift against the reference, alerts that reach people."""
