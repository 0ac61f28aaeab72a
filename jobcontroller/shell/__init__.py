"""What touches the outside: watches, the job queue, requests, metrics. Decides nothing (core/ does)."""
