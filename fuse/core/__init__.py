"""What each file-system operation means. No I/O: needs go through the protocols of `contracts`."""
