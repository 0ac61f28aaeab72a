"""gRPC service WorkerControl: loads, eviction, removals. Owns requests, answers and the translation of errors only.

Invariant: the caller was checked before anything is done (trust.py): the cache controller loads and evicts, the job
controller removes."""

import errno
from collections.abc import Awaitable
from typing import Any, Final, NoReturn, TypeVar

import grpc
import structlog

from api.gen import worker_pb2, worker_pb2_grpc
from api.trust.identity import Role
from cacheruntime.core.load_plan import is_below
from cacheruntime.errors import CacheError
from cacheruntime.worker.block_store import BlockStore
from cacheruntime.worker.leaver import Leaver
from cacheruntime.worker.loads import Loads
from cacheruntime.worker.metrics import Metrics
from cacheruntime.worker.trees import Trees
from cacheruntime.worker.trust import ControlGate

log = structlog.get_logger()

Context = grpc.aio.ServicerContext[Any, Any]
A = TypeVar("A")

_STATUS: Final = {
    errno.ENOENT: grpc.StatusCode.NOT_FOUND,
    errno.EINVAL: grpc.StatusCode.INVALID_ARGUMENT,
    errno.EACCES: grpc.StatusCode.PERMISSION_DENIED,
    errno.EKEYEXPIRED: grpc.StatusCode.UNAUTHENTICATED,
    errno.EKEYREJECTED: grpc.StatusCode.UNAUTHENTICATED,
}


class ControlService(worker_pb2_grpc.WorkerControlServicer):
    """The service of one worker."""

    def __init__(
        self,
        loads: Loads,
        store: BlockStore,
        trees: Trees,
        *,
        leaver: Leaver,
        metrics: Metrics,
        gate: ControlGate,
    ) -> None:
        self._leaver = leaver
        self._gate = gate
        self._loads = loads
        self._trees = trees
        self._store = store
        self._metrics = metrics

    async def StartLoad(self, request: worker_pb2.StartLoadRequest, context: Context) -> worker_pb2.LoadProgress:
        if not request.load_id or not request.uid:
            field = "uid" if request.load_id else "load_id"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{field} is empty; name the load and its dataset")
        await self._check(context, request.uid, Role.CACHE_CONTROLLER)
        return await self._answer(self._loads.start(request), context)

    async def GetLoad(self, request: worker_pb2.LoadRequest, context: Context) -> worker_pb2.LoadProgress:
        await self._check(context, self._loads.dataset_of(request.load_id), Role.CACHE_CONTROLLER)
        return await self._answer(self._loads.get(request.load_id), context)

    async def CancelLoad(self, request: worker_pb2.LoadRequest, context: Context) -> worker_pb2.LoadProgress:
        await self._check(context, self._loads.dataset_of(request.load_id), Role.CACHE_CONTROLLER)
        return await self._answer(self._loads.cancel(request.load_id), context)

    async def Evict(self, request: worker_pb2.EvictRequest, context: Context) -> worker_pb2.EvictResponse:
        if not request.uid:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "uid is empty; name the dataset")
        await self._check(context, request.uid, Role.CACHE_CONTROLLER)
        if not request.paths:
            self._loads.cancel_dataset(request.uid)
        files = [file for file in self._store.files_of(request.uid) if is_below(file.version.path, request.paths)]
        return worker_pb2.EvictResponse(freed_bytes=sum(map(self._store.drop, files)))

    async def Leave(self, request: worker_pb2.LeaveRequest, context: Context) -> worker_pb2.LeaveProgress:
        try:
            self._gate.require_role(context, Role.CACHE_CONTROLLER)
        except CacheError as error:
            log.warning("call_refused", error=error.message)
            await _abort(context, error)
        found = self._leaver.stay() if request.stay else self._leaver.start()
        return worker_pb2.LeaveProgress(
            leaving=found.is_leaving,
            done=found.is_done,
            moved_bytes=found.moved_bytes,
            refused_bytes=found.refused_bytes,
        )

    async def RemoveTree(
        self, request: worker_pb2.RemoveTreeRequest, context: Context
    ) -> worker_pb2.RemoveTreeResponse:
        if not request.uid:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "uid is empty; name the dataset")
        await self._check(context, request.uid, Role.JOB_CONTROLLER, write=True)
        removal = self._trees.remove(request.uid, request.path, first=request.first)
        removed = await self._answer(removal, context)
        return worker_pb2.RemoveTreeResponse(done=removed.is_done, removed_files=removed.files)

    async def _check(self, context: Context, uid: str, role: Role, *, write: bool = False) -> None:
        try:
            await self._gate.require(context, uid, role, write=write)
        except CacheError as error:
            log.warning("call_refused", error=error.message)
            await _abort(context, error)

    async def _answer(self, work: Awaitable[A], context: Context) -> A:
        try:
            return await work
        except CacheError as error:
            await _abort(context, error)
        except Exception:
            self._metrics.bugs.labels("control").inc()
            log.exception("bug", op="control")
            await context.abort(grpc.StatusCode.INTERNAL, "the call hit a bug in the worker; its log has the trace")
        raise AssertionError("abort raises")


async def _abort(context: Context, error: CacheError) -> NoReturn:
    code = _STATUS.get(error.errno)
    if code is None:
        code = grpc.StatusCode.UNAVAILABLE if error.is_retryable else grpc.StatusCode.FAILED_PRECONDITION
    await context.abort(code, error.message)
    raise AssertionError("abort raises")
