"""Serving: replicas that answer for one package, the gateway before them, and the prediction log."""
