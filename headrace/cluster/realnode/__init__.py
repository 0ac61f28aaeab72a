"""Real nodes of a local cluster: kubelet, containerd and runc on this machine, each in namespaces of its own.

Owns what such a node is made of, and taking it away again without a trace. Which parts of ours run on it is decided in
`headrace/cluster/`. Needs root. See README.md."""
