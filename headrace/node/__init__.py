"""The process node: a node agent that runs pods as local processes.

Owns one Node object, its Lease, and the pods bound to it. Does not isolate them: a
container gets a mount namespace and a host name of its own, and nothing else."""
