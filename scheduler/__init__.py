"""The secondary scheduler: GPUs that fit, and the fewest seconds until the data is there."""
