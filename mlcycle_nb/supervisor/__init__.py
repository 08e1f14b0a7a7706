"""The supervisor: one process per workspace that brings what is to what should be."""
