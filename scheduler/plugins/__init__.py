"""Filters and scores, one rule a file; registry.py lists them. They read the view and nothing else."""
