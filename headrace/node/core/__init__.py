"""What the process node decides, without doing it: no I/O, no clock, no randomness."""
