"""Decisions about a job: pure functions of what was observed and the time.

No I/O, no clock, no randomness, no logging in here; the shell does all of that."""
