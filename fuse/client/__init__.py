"""The core's two protocols over real connections: the node's worker and the metadata service."""
