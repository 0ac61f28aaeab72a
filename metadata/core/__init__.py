"""Decisions of the metadata service: pure, no I/O, no clock of its own."""
