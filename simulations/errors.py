"""Errors of simulations a person can act on."""


class ScenarioError(Exception):
    """A scenario or a trace is wrong; the text names file, field, value and what would be right."""
