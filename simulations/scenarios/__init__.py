"""Scenarios as YAML files, their schema, and how one becomes nodes, datasets and jobs."""
