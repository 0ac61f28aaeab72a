"""Checkpoint formats: what makes a directory a complete checkpoint. One module a format, listed in registry.py."""
