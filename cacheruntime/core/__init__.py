"""Decisions of the cache: pure, no I/O, no clock, no randomness, no logging."""
