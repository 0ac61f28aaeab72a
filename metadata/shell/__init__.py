"""Edges of the metadata service: gRPC, threads, listings, metrics."""
