"""Retirement: consumers found and told, traffic ramped to the replacement, archive proven, then the rest removed."""
