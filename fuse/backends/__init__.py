"""Adapters between a FUSE library and the core: inode numbers and attributes in, errnos out."""
