"""Measurements of our parts against what people use today, in one shape (`python -m benchmarks list`)."""
