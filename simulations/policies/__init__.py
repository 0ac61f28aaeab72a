"""Placement policies under test: Headrace and what people run today."""
