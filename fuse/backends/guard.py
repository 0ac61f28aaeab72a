"""The one wrapper around every handler: whatever happens inside becomes an errno, and the mount lives on.

pyfuse3 catches its own FUSEError only; any other exception ends its loop and leaves requests unanswered for
ever. So domain errors are translated here (errnos.py), and everything else is a defect: logged once a
kind and operation, counted each time, EIO to the application.
"""

import errno
import functools
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog

from fuse.core.errnos import errno_of
from fuse.errors import FileSystemError
from fuse.metrics import Metrics

log = structlog.get_logger()

Handler = Callable[..., Coroutine[Any, Any, Any]]
H = TypeVar("H", bound=Handler)


class Failures:
    """Turns exceptions into errnos; remembers which defects were logged."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self._seen: set[tuple[str, str]] = set()

    def number_of(self, operation: str, error: Exception) -> int:
        """Return the errno to answer with; logs and counts."""
        metrics = self.metrics
        if isinstance(error, FileSystemError):
            number = errno_of(error)
            metrics.errors[operation, errno.errorcode[number]] += 1
            if number == errno.EIO:
                log.warning("request_failed", operation=operation, error=str(error))
            return number
        metrics.errors[operation, "EIO"] += 1
        metrics.defects[operation] += 1
        kind = (operation, type(error).__name__)
        if kind not in self._seen:
            self._seen.add(kind)
            log.error("defect", operation=operation, error=repr(error), exc_info=error)
        return errno.EIO

    def passthrough_refused(self, error: OSError) -> None:
        """The kernel does not take the worker's file as a backing file; logged once, counted each time."""
        self.metrics.passthrough_refusals += 1
        if self.metrics.passthrough_refusals == 1:
            log.warning("passthrough_refused", error=error.strerror, effect="files are read through the daemon")


def guard(handler: H, operation: str, failures: Failures, backend_error: Callable[[int], Exception] | None) -> H:
    """Return the handler wrapped: it raises nothing but `backend_error` of an errno (and cancellation). None:
    nothing at all, for requests without an answer."""
    requests = failures.metrics.requests

    @functools.wraps(handler)
    async def guarded(*arguments: Any) -> Any:
        requests[operation] += 1
        try:
            return await handler(*arguments)
        except Exception as error:  # noqa: BLE001 - the edge: see the module's docstring
            number = failures.number_of(operation, error)
        if backend_error is not None:
            raise backend_error(number)
        return None

    return guarded  # type: ignore[return-value]
