"""Many mounts that watch the datasets of one metadata process: how soon all know all of them, what a change costs.

Owns the process and the watchers, which read their streams and keep nothing.
"""

import asyncio
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc

from api.gen import metadata_pb2 as pb
from api.gen import metadata_pb2_grpc as services
from benchmarks import frame
from benchmarks.cluster import cpu_seconds
from benchmarks.data_plane import DataPlane

WATCHERS, DATASETS = 1_000, 1_000
QUICK_WATCHERS, QUICK_DATASETS = 100, 100
CONNECTIONS: Final = 50
CHANGES: Final = 20
CHANGE_SECONDS: Final = 0.5
CALL_SECONDS: Final = 30.0
PATIENCE_SECONDS: Final = 600.0


@dataclass
class _Seen:
    datasets: int
    knowing: int = 0
    """Watchers that were told of all datasets."""
    all_know: asyncio.Event = field(default_factory=asyncio.Event)
    shown_at: dict[tuple[str, int], float] = field(default_factory=dict)
    """When a version was acknowledged, by uid and version."""
    late_seconds: list[float] = field(default_factory=list)


def watch_cases(*, quick: bool, runs: int) -> list[frame.Case]:
    """The cases of many watchers."""
    watchers, datasets = (QUICK_WATCHERS, QUICK_DATASETS) if quick else (WATCHERS, DATASETS)
    figures = []
    for number in range(runs):
        frame.progress(f"run {number + 1} of {runs}: {watchers} watchers of {datasets} datasets")
        with tempfile.TemporaryDirectory(prefix="headrace-watch-") as folder:
            directory = Path(folder)
            (directory / "data").mkdir()
            with DataPlane(directory) as plane:
                figures.append(asyncio.run(_measure(plane, directory / "data", watchers, datasets)))
    size = f"{watchers}-watchers-{datasets}-datasets"
    note = f"metadata process with SQLite, {CONNECTIONS} connections, {CHANGES} changes, one each {CHANGE_SECONDS} s"
    first, cost, late = zip(*figures, strict=True)
    return [
        frame.Case(
            f"watch-all-know-{size}", "s", [(each,) for each in first], higher_is_better=False, note=note
        ),
        frame.Case(
            f"watch-change-cost-{size}", "ms CPU", [(each,) for each in cost], higher_is_better=False, note=note
        ),
        frame.Case(
            f"watch-change-p99-{size}", "ms", [(each,) for each in late], higher_is_better=False, note=note
        ),
    ]  # fmt: skip


async def _measure(plane: DataPlane, data: Path, watchers: int, datasets: int) -> tuple[float, float, float]:
    """Seconds until all know all; the service's milliseconds a change; how late a watcher is told at the 99th
    percentile, in milliseconds."""
    pool = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(plane.metadata_address, options=pool) for _ in range(CONNECTIONS)]
    stubs = [services.NamespaceStub(channel) for channel in channels]
    assert plane.metadata is not None
    pid, seen = plane.metadata.popen.pid, _Seen(datasets)
    tasks: list[asyncio.Task[None]] = []
    try:
        for number in range(datasets):
            uid, mount = f"u{number}", pb.Mount(mount_point=f"file://{data.resolve()}")
            request = pb.SyncRequest(uid=uid, namespace="ns", name=uid, mounts=[mount], writable=True)
            await stubs[0].Sync(request, timeout=CALL_SECONDS)
        while any(each.syncing for each in (await stubs[0].ListDatasets(pb.ListDatasetsRequest())).datasets):
            await asyncio.sleep(0.1)
        started = time.monotonic()
        tasks = [asyncio.create_task(_watch(stubs[number % CONNECTIONS], seen, watchers)) for number in range(watchers)]
        async with asyncio.timeout(PATIENCE_SECONDS):
            await seen.all_know.wait()
        first_seconds = time.monotonic() - started
        spent = cpu_seconds(pid)
        for number in range(CHANGES):
            uid = f"u{number % datasets}"
            change = pb.PutFileRequest(
                request_id=f"change-{number}",
                uid=uid,
                path=f"f{number}",
                size_bytes=1,
                etag="e",
                mtime_ns=1,
                mode=0o640,
            )
            done = await stubs[0].PutFile(change, timeout=CALL_SECONDS)
            seen.shown_at[uid, done.snapshot_version] = time.monotonic()
            await asyncio.sleep(CHANGE_SECONDS)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(seen.late_seconds) < CHANGES * watchers:
                await asyncio.sleep(0.1)
        spent = cpu_seconds(pid) - spent
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in channels:
            await channel.close()
    late = sorted(seen.late_seconds)
    return first_seconds, spent / CHANGES * 1e3, late[int(len(late) * 0.99)] * 1e3


async def _watch(stub: "services.NamespaceAsyncStub", seen: _Seen, watchers: int) -> None:
    known = 0
    async for message in stub.WatchDatasets(pb.WatchDatasetsRequest()):
        known += len(message.datasets)
        if known >= seen.datasets and not message.more and known - len(message.datasets) < seen.datasets:
            seen.knowing += 1
            if seen.knowing == watchers:
                seen.all_know.set()
            continue
        for state in message.datasets:
            shown = seen.shown_at.get((state.uid, state.snapshot_version))
            # Told before the change was acknowledged: not late at all.
            seen.late_seconds.append(0.0 if shown is None else time.monotonic() - shown)
