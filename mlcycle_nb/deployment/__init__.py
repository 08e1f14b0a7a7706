"""Deployment: services behind a gateway, their revisions, and the rollouts that replace one by another."""
