"""Datasets as POSIX files: one file-system core, thin FUSE backends, clients of the worker and of metadata."""
