"""Long exercises of a mount: beside a plain directory, one file byte by byte, a crowd, memory over time."""
