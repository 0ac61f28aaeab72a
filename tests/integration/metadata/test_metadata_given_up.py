"""Callers that give up: what is committed all the same is told to those who watch and those who ask what changed."""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc

from api.gen import metadata_pb2 as pb

DATASETS = 60
ROUNDS = 4


async def test_a_change_whose_caller_gives_up_is_told_or_not_made(
    process: Any, connect: Callable[[Any], Any], tmp_path: Path
) -> None:
    client, chance = connect(process), random.Random(20261201)
    uids = [f"u{number}" for number in range(DATASETS)]
    for uid in uids:
        await client.sync(uid, f"file://{tmp_path}", wait=False)
    for uid in uids:
        await client.settled(uid)
    told: dict[str, pb.DatasetState] = {}
    watching = asyncio.create_task(_watch(client, told))
    answer = await _list(client, "")
    table = {one.uid: one for one in answer.datasets}
    given_up = made = 0
    for turn in range(ROUNDS):
        for uid in uids:
            call = client.namespace.PutFile(
                pb.PutFileRequest(uid=uid, path=f"f{turn}", size_bytes=1, etag="e", mtime_ns=1, mode=0o640), timeout=10
            )
            await asyncio.sleep(chance.uniform(0, 0.006))
            call.cancel()
            try:
                await call
            except asyncio.CancelledError:
                given_up += 1
            else:
                made += 1
        answer = await _list(client, answer.revision)
        assert answer.partial
        table.update((one.uid, one) for one in answer.datasets)
    # What was given up last may still be on its way.
    await asyncio.sleep(0.5)
    answer = await _list(client, answer.revision)
    table.update((one.uid, one) for one in answer.datasets)
    whole = {one.uid: one.snapshot_version for one in (await _list(client, "")).datasets}
    assert {uid: one.snapshot_version for uid, one in table.items()} == whole
    async with asyncio.timeout(10):
        while {uid: one.snapshot_version for uid, one in told.items()} != whole:
            await asyncio.sleep(0.05)
    committed = sum(version - 1 for version in whole.values())
    assert given_up and committed > made, "some were committed though their callers had given up"
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching


async def _list(client: Any, since: str) -> pb.ListDatasetsResponse:
    answer: pb.ListDatasetsResponse = await client.namespace.ListDatasets(
        pb.ListDatasetsRequest(since=since), timeout=10
    )
    return answer


async def _watch(client: Any, told: dict[str, pb.DatasetState]) -> None:
    with suppress(grpc.aio.AioRpcError):
        async for message in client.namespace.WatchDatasets(pb.WatchDatasetsRequest()):
            told.update((state.uid, state) for state in message.datasets)
