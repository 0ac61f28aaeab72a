"""Training programs that are killed while they save checkpoints."""
