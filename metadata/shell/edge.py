"""The edge to gRPC: our errors become statuses here and nowhere else.

Owns the table below, request metrics and the one log line of an unexpected exception. Invariants: no method runs
before its caller was checked (core/access.py); a status message is one sentence of ours; a bug's text goes to the log
only.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import wraps
from hashlib import sha256
from typing import Any, Final, TypeVar

import grpc
import structlog

from api.trust.channels import caller_of
from api.trust.identity import NotAnIdentity, Role
from metadata.core import access
from metadata.errors import (
    AlreadyExists,
    Forbidden,
    InvalidRequest,
    MetadataError,
    NotFound,
    Precondition,
    Unavailable,
)
from metadata.shell import metrics

Context = grpc.aio.ServicerContext[Any, Any]
Service = TypeVar("Service")
Request = TypeVar("Request")
Answer = TypeVar("Answer")

STATUS: Final[dict[type[MetadataError], grpc.StatusCode]] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    Precondition: grpc.StatusCode.FAILED_PRECONDITION,
    Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
}
log = structlog.get_logger()


def check_caller(method: str, request: object, context: Context) -> None:
    """Forbidden unless the caller may do this; without certificates everybody may do everything."""
    try:
        caller = caller_of(context)
    except NotAnIdentity as error:
        raise Forbidden(f"{error}.") from None
    if caller is not None:
        access.check(method, caller, getattr(request, "node", ""))


def node_of(request: Any, context: Context) -> str:
    """Return whose worker asks: by its certificate, without one by the request's `node`."""
    caller = caller_of(context)
    return caller.name if caller is not None and caller.role is Role.WORKER else str(request.node)


def request_key(request: Any, node: str) -> str:
    """What a mutation is known by when it is sent again: its id, whose worker asks, and all that it asks for; "" = it
    has no id. Under an id that somebody used for something else it is another mutation, not one that was done."""
    if not request.request_id:
        return ""
    what = (type(request).__name__.encode(), node.encode(), request.SerializeToString(deterministic=True))
    return sha256(b"\0".join(what)).hexdigest()


def unary(
    method: Callable[[Service, Request, Context], Awaitable[Answer]],
) -> Callable[[Service, Request, Context], Awaitable[Answer]]:
    """Wrap a method that gives one answer."""

    @wraps(method)
    async def answer(self: Service, request: Request, context: Context) -> Answer:
        started = time.perf_counter()
        try:
            check_caller(method.__qualname__, request, context)
            result = await method(self, request, context)
        except Exception as error:  # the edge: logged once, counted
            await _refuse(method.__name__, error, context)
            raise AssertionError("abort raises") from error
        metrics.REQUEST_SECONDS.labels(method.__name__).observe(time.perf_counter() - started)
        metrics.REQUESTS.labels(method.__name__, "OK").inc()
        return result

    return answer


def change(
    method: Callable[[Service, Request, Context], Awaitable[Answer]],
) -> Callable[[Service, Request, Context], Awaitable[Answer]]:
    """Wrap a method that changes something. It goes on to its end also when its caller gives up: what it has queued is
    committed all the same, and must be told to all who have to know of it."""

    @wraps(method)
    async def whole(self: Service, request: Request, context: Context) -> Answer:
        task = asyncio.ensure_future(method(self, request, context))
        _changes.add(task)
        task.add_done_callback(_ended)
        return await asyncio.shield(task)

    return unary(whole)


_changes: set[asyncio.Future[Any]] = set()
"""Under way. The event loop itself would let go of a task nobody waits for any more."""


def _ended(task: asyncio.Future[Any]) -> None:
    _changes.discard(task)
    if not task.cancelled():
        task.exception()  # seen by the caller, unless it has given up


def stream(
    method: Callable[[Service, Request, Context], AsyncIterator[Answer]],
) -> Callable[[Service, Request, Context], AsyncIterator[Answer]]:
    """Wrap a method that gives many answers."""

    @wraps(method)
    async def answers(self: Service, request: Request, context: Context) -> AsyncIterator[Answer]:
        try:
            check_caller(method.__qualname__, request, context)
            async for answer in method(self, request, context):
                yield answer
        except asyncio.CancelledError:
            metrics.REQUESTS.labels(method.__name__, "CANCELLED").inc()
            raise
        except Exception as error:  # noqa: BLE001  # the edge: logged once, counted
            await _refuse(method.__name__, error, context)
        metrics.REQUESTS.labels(method.__name__, "OK").inc()

    return answers


async def _refuse(method: str, error: Exception, context: Context) -> None:
    if isinstance(error, MetadataError):
        code, message = STATUS[type(error)], error.message
    else:
        code, message = grpc.StatusCode.INTERNAL, "an internal error; the service's log has the details."
        metrics.INTERNAL_ERRORS.labels("request").inc()
        log.error("metadata.request_failed", method=method, exc_info=error)
    if code is grpc.StatusCode.PERMISSION_DENIED:
        log.warning("metadata.refused", method=method, message=message)
    metrics.REQUESTS.labels(method, code.name).inc()
    await context.abort(code, message)
