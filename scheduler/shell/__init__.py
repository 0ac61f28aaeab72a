"""Does what the core decides: watches, binds, deletes, events, conditions, metrics."""
