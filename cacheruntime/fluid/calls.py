"""What Fluid asks of a running cache: to mount, to report, to load. Shell: gRPC to metadata and the workers.

Owns waiting and deadlines; what is asked and answered is decided in `core/` and in the cache controller's pure modules,
whose clients these are too. A failure is a FluidError of one sentence."""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from api.conditions import timestamp
from api.data_v1alpha1 import Dataset
from api.dataload_v1alpha1 import DataLoad
from api.gen import metadata_pb2, worker_pb2
from api.quantities import format_bytes
from cacheruntime.controller import dataload, dataset, runtime
from cacheruntime.controller.services import Metadata, Workers
from cacheruntime.fluid.core import answers, plan
from cacheruntime.fluid.core.config import LoadTask
from cacheruntime.fluid.errors import FluidError
from cacheruntime.fluid.settings import Runtime

TELL_SECONDS = 10.0
"""Interval of lines that say how far a load is."""


async def mount_ufs(one: Runtime) -> str:
    """Tell metadata of the dataset's mounts, wait for the listing, and return what Fluid reads. FluidError."""
    item = plan.dataset_of(one.config, one.who, str(one.settings.secrets))
    deadline = time.monotonic() + one.settings.wait_seconds
    async with _metadata(one) as metadata:
        info = await _sync(one, metadata, item, force=False, deadline=deadline)
        if info.error and not info.syncing:
            # A listing that failed is not tried again by itself; Fluid asking again is the reason to.
            info = await _sync(one, metadata, item, force=True, deadline=deadline)
        while not answers.is_mounted(item, info):
            if time.monotonic() >= deadline:
                raise FluidError(answers.listing(item, info))
            await asyncio.sleep(one.settings.poll_seconds)
            info = await metadata.dataset(one.who.namespace, one.who.name)
    return answers.mounted(item)


async def introduce(one: Runtime) -> None:
    """Tell metadata of the dataset, and wait for no listing. FluidError."""
    item = plan.dataset_of(one.config, one.who, str(one.settings.secrets))
    async with _metadata(one) as metadata:
        await _sync(one, metadata, item, force=False, deadline=time.monotonic() + one.settings.patience_seconds)


async def report_summary(one: Runtime) -> str:
    """Return what Fluid puts into the Dataset's status; FluidError."""
    async with _metadata(one) as metadata:
        try:
            info = await metadata.dataset(one.who.namespace, one.who.name)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return answers.summary(None, 0)
        workers = dataload.participants(info, await metadata.workers())
    return answers.summary(info, runtime.capacity_bytes(workers))


async def load(one: Runtime, task: LoadTask) -> str:
    """Load what a DataLoad names and return one sentence about it; FluidError when any of it is not there."""
    item = plan.dataset_of(one.config, one.who, str(one.settings.secrets))
    wanted = plan.load_of(task, one.who, uuid.uuid4().hex, timestamp(time.time()))
    async with _metadata(one) as metadata:
        workers = Workers(one.settings.call_seconds)
        try:
            return await _Load(one, item, wanted, metadata, workers).run()
        finally:
            await workers.close()


class _Load:
    """One run, looked at again and again as the cache controller does it."""

    def __init__(self, one: Runtime, item: Dataset, wanted: DataLoad, metadata: Metadata, workers: Workers) -> None:
        self._one = one
        self._item = item
        self._load = wanted
        self._metadata = metadata
        self._workers = workers
        self._has_asked = False
        self._told_at = time.monotonic()

    async def run(self) -> str:
        """Return how it ended; FluidError."""
        patience = self._one.settings.patience_seconds
        give_up_at = time.monotonic() + patience
        while True:
            try:
                waits_for, ended = await self._look()
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise
                waits_for, ended = f"a service does not answer: {error.details()}", ""
            if ended:
                return ended
            if not waits_for:
                give_up_at = time.monotonic() + patience
            elif time.monotonic() >= give_up_at:
                raise FluidError(
                    f"Dataset {self._one.who} was not loaded within {patience:.0f} s of waiting: {waits_for}"
                )
            await asyncio.sleep(self._one.settings.poll_seconds)

    async def _look(self) -> tuple[str, str]:
        """Go one step; (why nothing goes on, "") or ("", how it ended)."""
        who = self._one.who
        try:
            info = await self._metadata.dataset(who.namespace, who.name)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return "it is not mounted yet", ""
            raise
        if self._load.spec.load_metadata and not dataload.is_listed_since_start(self._load, info):
            if self._has_asked and info.error and not info.syncing:
                raise FluidError(f"Dataset {who} cannot be listed anew: {info.error}")
            if not info.syncing:
                request = _request(self._one, self._item, force=True)
                await self._metadata.sync(request)
                self._has_asked = True
            # A listing takes as long as it takes; it either ends or fails.
            self._tell(f"listed {info.listed_files} files")
            return "", ""
        if not info.snapshot_version:
            if info.error and not info.syncing:
                raise FluidError(f"Dataset {who} cannot be listed: {info.error}")
            return "its files are being listed", ""
        workers = dataload.participants(info, await self._metadata.workers())
        if not workers:
            return "no worker is alive that may keep it", ""
        return "", await self._advance(info, workers)

    async def _advance(self, info: metadata_pb2.DatasetInfo, workers: list[metadata_pb2.Worker]) -> str:
        targets: list[list[worker_pb2.LoadProgress]] = []
        for request in dataload.requests(self._load, info, workers):
            targets.append(await self._workers.start_load(workers, request))
            if not all(one.done for one in targets[-1]):
                break
            if request.paths and not sum(one.files_total for one in targets[-1]):
                raise FluidError(
                    f"Dataset {self._one.who} has no file at or below /{request.paths[0]}, so nothing was loaded"
                )
        more = len(targets) < len(self._load.spec.target)
        status = dataload.status(self._load, targets, info.snapshot_version, time.time(), waits_for_more=more)
        if status.phase not in dataload.FINISHED_PHASES:
            progress = status.progress
            self._tell(f"loaded {format_bytes(progress.bytes_loaded)} of {format_bytes(progress.bytes_total)}")
            return ""
        condition = next(one for one in status.conditions if one.type in (dataload.COMPLETE, dataload.FAILED))
        if status.phase == "Failed":
            raise FluidError(f"Dataset {self._one.who}: {condition.message}")
        return f"Dataset {self._one.who}: {condition.message}"

    def _tell(self, how_far: str) -> None:
        if time.monotonic() - self._told_at >= TELL_SECONDS:
            self._told_at = time.monotonic()
            print(f"Dataset {self._one.who}: {how_far}", file=sys.stderr, flush=True)


def _request(one: Runtime, item: Dataset, *, force: bool) -> metadata_pb2.SyncRequest:
    request = dataset.sync_request(item, plan.keepers(one.config), force=force)
    plan.name_secrets_as_fluid(request)
    return request


async def _sync(
    one: Runtime, metadata: Metadata, item: Dataset, *, force: bool, deadline: float
) -> metadata_pb2.DatasetInfo:
    """Tell metadata of the dataset; a service that has just started is waited for."""
    request = _request(one, item, force=force)
    while True:
        try:
            return await metadata.sync(request)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() >= deadline:
                raise
        await asyncio.sleep(one.settings.poll_seconds)


@asynccontextmanager
async def _metadata(one: Runtime) -> AsyncIterator[Metadata]:
    metadata = Metadata(one.address, one.settings.call_seconds)
    try:
        yield metadata
    except grpc.aio.AioRpcError as error:
        raise FluidError(f"the cache at {one.address} did not do it: {error.code().name}: {error.details()}") from error
    finally:
        await metadata.close()
