"""The `headrace` command: local clusters and everything a person types.

Owns the command line and the life of a local cluster. Does not schedule, cache
or serve anything itself: the parts do, as processes of their own."""
