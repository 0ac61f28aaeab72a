"""Decides, and does no I/O: no asyncio, clock, randomness or logging in here."""
