"""Errors of the scheduler.

    SchedulerError
    ├── ConfigurationError   permanent: a setting or argument that cannot be used; says what would be right
    ├── BadCluster           permanent: a cluster given to `verdicts` that cannot be read; says where
    └── IllegalTransition    bug: a pod's life took a step the table in core/assumed.py does not have

Refusals of a pod are no errors: they are decisions with a message.
"""


class SchedulerError(Exception):
    """Base of the scheduler's own errors."""


class ConfigurationError(SchedulerError):
    """A setting that cannot be used; the text names it, its value and what would be right."""


class BadCluster(SchedulerError):
    """A line of `python -m scheduler verdicts` that holds no cluster; the text names the line and the place."""


class IllegalTransition(SchedulerError):
    """A pod was assumed twice; the text holds both states. A bug, never handled."""
