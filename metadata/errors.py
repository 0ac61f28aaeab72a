"""Why a request cannot be answered; `shell/edge.py` is the one place that turns these into gRPC statuses.

    MetadataError
    ├── InvalidRequest   a field is wrong; the message names it, its value and what would be right
    ├── NotFound         no such dataset or path
    ├── AlreadyExists    the path is taken
    ├── Precondition     the state does not allow it: read-only, not empty, an epoch that is too old
    ├── Forbidden        not to this caller
    └── Unavailable      not now: no snapshot yet, a full disk; the same request may work later

SettingsError stands apart: the process cannot start.
"""


class MetadataError(Exception):
    """One sentence for the caller."""

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__(message)


class InvalidRequest(MetadataError):
    """A field of the request is wrong."""


class NotFound(MetadataError):
    """No such dataset or path."""


class AlreadyExists(MetadataError):
    """The path is taken."""


class Precondition(MetadataError):
    """The dataset's or the worker's state does not allow the request."""


class Forbidden(MetadataError):
    """The caller's identity does not allow the request."""


class Unavailable(MetadataError):
    """The request may work later."""


class SettingsError(ValueError):
    """The process cannot start as configured; the text says what to change."""
