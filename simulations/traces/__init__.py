"""Readers of real traces, by path, and generators with their published marginals."""
