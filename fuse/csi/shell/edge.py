"""The edge to gRPC: refusals become statuses here and nowhere else, protobuf's capabilities become ours.

Owns the table below, what calls count, and the one log line of a defect. A call goes on when its caller gives up:
kubelet repeats it, and finds it done or in work, not half undone. Requests are never logged as a whole: they may
carry secrets.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, Final, TypeVar

import grpc
import structlog

from api.gen import csi_pb2 as csi
from fuse.csi import errors
from fuse.csi.core.capabilities import AccessMode, Capability
from fuse.csi.shell import metrics

log = structlog.get_logger()

Context = grpc.aio.ServicerContext[Any, Any]
Service = TypeVar("Service")
Request = TypeVar("Request")
Answer = TypeVar("Answer")

CALL_SECONDS: Final = 110.0
"""Kubelet gives a call two minutes."""

_working: Final[set["asyncio.Future[Any]"]] = set()
"""Calls in work: the loop itself keeps no task alive."""

STATUS: Final[dict[type[errors.Refusal], grpc.StatusCode]] = {
    errors.BadRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NoSuchVolume: grpc.StatusCode.NOT_FOUND,
    errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    errors.Conflict: grpc.StatusCode.ALREADY_EXISTS,
    errors.NotPossible: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Busy: grpc.StatusCode.ABORTED,
    errors.TooSlow: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.NotNow: grpc.StatusCode.UNAVAILABLE,
    errors.NotOffered: grpc.StatusCode.UNIMPLEMENTED,
}


def unary(
    method: Callable[[Service, Request, Context], Awaitable[Answer]],
) -> Callable[[Service, Request, Context], Awaitable[Answer]]:
    """Wrap a method that gives one answer."""

    @wraps(method)
    async def answer(self: Service, request: Request, context: Context) -> Answer:
        started = time.monotonic()
        work = asyncio.ensure_future(method(self, request, context))
        _working.add(work)
        work.add_done_callback(_working.discard)
        try:
            async with asyncio.timeout(CALL_SECONDS):
                result = await asyncio.shield(work)
            metrics.REQUESTS.labels(method.__name__, "OK").inc()
            metrics.REQUEST_SECONDS.labels(method.__name__).observe(time.monotonic() - started)
            return result
        except asyncio.CancelledError:
            work.add_done_callback(lambda done: _tell_late(method.__name__, done))
            raise
        except TimeoutError:
            work.add_done_callback(lambda done: _tell_late(method.__name__, done))
            refused: Exception = errors.TooSlow(
                f"{method.__name__} is still in work after {CALL_SECONDS:g} s; try again"
            )
        except Exception as error:  # noqa: BLE001  # the edge: a defect is logged once and answered
            refused = error
        await context.abort(*status_of(method.__name__, refused))
        raise AssertionError("abort raises")

    return answer


def status_of(method: str, error: Exception) -> tuple[grpc.StatusCode, str]:
    """Return the answer to an exception; logs what is a defect of ours."""
    if isinstance(error, errors.Refusal):
        code = STATUS[type(error)]
        metrics.REQUESTS.labels(method, code.name).inc()
        log.info("refused", method=method, code=code.name, error=str(error))
        return code, str(error)
    metrics.REQUESTS.labels(method, grpc.StatusCode.INTERNAL.name).inc()
    metrics.DEFECTS.labels(method).inc()
    log.error("defect", method=method, error=repr(error), exc_info=error)
    return grpc.StatusCode.INTERNAL, f"an internal error in {method}; the plugin's log has the details"


def _tell_late(method: str, done: "asyncio.Future[Any]") -> None:
    """The end of a call whose caller has gone: nobody else would ever see its exception."""
    error = None if done.cancelled() else done.exception()
    if isinstance(error, Exception):
        status_of(method, error)


def capability_of(message: csi.VolumeCapability) -> Capability:
    """Return a capability of the wire as ours."""
    kind = message.WhichOneof("access_type")
    try:
        mode = AccessMode(message.access_mode.mode)
    except ValueError:
        mode = AccessMode.UNKNOWN  # of a later specification
    return Capability(
        is_block=kind == "block",
        is_mount=kind == "mount",
        mode=mode,
        fs_type=message.mount.fs_type,
        mount_flags=tuple(message.mount.mount_flags),
        mount_group=message.mount.volume_mount_group,
    )
