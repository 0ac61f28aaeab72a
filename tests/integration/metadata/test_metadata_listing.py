"""Listings of a bucket in parts: how many requests, what a restart costs, what a refusal costs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from api.gen import metadata_pb2 as pb
from benchmarks.listed_bucket import ListedBucket, names

Connect = Callable[[Any], Any]
DIRECTORIES, FILES = 40, 1_500
TOTAL = DIRECTORIES * FILES
PAGES = TOTAL // 1000
REQUESTS_MAX = 8


@asynccontextmanager
async def serving(application: web.Application) -> AsyncIterator[dict[str, str]]:
    """The mount options that lead there."""
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield {"endpoint": f"http://127.0.0.1:{runner.addresses[0][1]}"}
    finally:
        await runner.cleanup()


async def test_a_bucket_is_listed_in_parts_and_each_name_comes_once(process: Any, connect: Connect) -> None:
    pages = 0
    crowd = asyncio.Event()

    async def wait_for_a_crowd() -> None:
        # From the third page on nothing is answered until four requests are under way.
        nonlocal pages
        pages += 1
        if bucket.counts.at_once >= 4:
            crowd.set()
        if pages > 2:
            await asyncio.wait_for(crowd.wait(), 20)

    bucket = ListedBucket(names(DIRECTORIES, FILES), wait_for_a_crowd)
    async with serving(bucket.application()) as options:
        client = connect(process)
        info = await client.sync("u1", "s3://bucket", options=options)
        assert (info.files, info.bytes, info.error) == (TOTAL, sum(range(TOTAL)), "")
        assert await client.manifest("u1") == sorted(names(DIRECTORIES, FILES))
    counts = bucket.counts
    assert 4 <= counts.at_once_max <= REQUESTS_MAX
    # A part reads at most a page beyond its end and looks seldom for places to cut, and there are few parts.
    assert counts.pages <= PAGES * 1.5
    assert counts.looks <= PAGES / 2


async def test_files_and_directories_of_one_name_in_different_parts(process: Any, connect: Connect) -> None:
    twins = [f"train/{number:06}" for number in range(0, DIRECTORIES, 2)]
    bucket = ListedBucket([*names(DIRECTORIES, FILES), *twins, "train", "a//b"])
    async with serving(bucket.application()) as options:
        client = connect(process)
        info = await client.sync("u1", "s3://bucket", options=options)
        assert (info.files, info.error) == (TOTAL, "")
        (listed,) = [event for event in process.logs if event["event"] == "metadata.listed"]
        assert (listed["files"], listed["left_out"]) == (TOTAL, len(twins) + 2)
        info = await client.sync("u1", "s3://bucket", options=options, force=True)
        assert (info.files, info.snapshot_version) == (TOTAL, 1)
        assert [event["left_out"] for event in process.logs if event["event"] == "metadata.listed"][1:] == [22]


@pytest.mark.parametrize("end", ["kill", "stop"])
async def test_a_restart_goes_on_with_what_was_listed(process: Any, connect: Connect, end: str) -> None:
    answered, is_open = 0, asyncio.Event()

    async def stop_after_forty() -> None:
        nonlocal answered
        if answered >= 40:
            await is_open.wait()
        answered += 1

    bucket = ListedBucket(names(DIRECTORIES, FILES), stop_after_forty)
    async with serving(bucket.application()) as options:
        client = connect(process)
        await client.sync("u1", "s3://bucket", options=options, wait=False)
        async with asyncio.timeout(30):
            while (info := await client.get("u1")).listed_files < 30_000:
                await asyncio.sleep(0.01)
        assert info.syncing and info.snapshot_version == 0
        # Writes are committed in order: what was staged before this one is durable.
        await client.sync("u2", "file:///no/such/directory")
        getattr(process, end)()
        before = bucket.counts.pages
        process.start()
        client = connect(process)
        info = await client.get("u1")
        assert info.syncing
        assert info.listed_files >= 20_000
        is_open.set()
        info = await client.settled("u1")
        assert (info.files, info.bytes, info.snapshot_version) == (TOTAL, sum(range(TOTAL)), 1)
        assert bucket.counts.pages - before <= PAGES - 20 + REQUESTS_MAX
        assert await client.manifest("u1") == sorted(names(DIRECTORIES, FILES))
    assert [event["files"] >= 20_000 for event in process.logs if event["event"] == "metadata.listing_resumed"] == [
        True
    ]


async def test_a_dataset_removed_during_its_listing_leaves_nothing_to_go_on_with(
    process: Any, connect: Connect
) -> None:
    answered, is_open = 0, asyncio.Event()

    async def stop_after_ten() -> None:
        nonlocal answered
        answered += 1
        if answered > 10:
            await is_open.wait()

    bucket = ListedBucket(names(DIRECTORIES, FILES), stop_after_ten)
    async with serving(bucket.application()) as options:
        client = connect(process)
        await client.sync("u1", "s3://bucket", options=options, wait=False)
        async with asyncio.timeout(30):
            while (await client.get("u1")).listed_files < 5_000:
                await asyncio.sleep(0.01)
        await client.namespace.RemoveDataset(pb.DatasetRequest(uid="u1"), timeout=10)
        process.stop()
        process.start()
        is_open.set()
        client = connect(process)
        info = await client.sync("u1", "s3://bucket", options=options)
        assert (info.files, info.snapshot_version) == (TOTAL, 1)
    assert not [event for event in process.logs if event["event"] == "metadata.listing_resumed"]


async def test_a_store_that_tells_no_directories_is_listed_one_page_after_another(
    process: Any, connect: Connect
) -> None:
    bucket = ListedBucket(names(DIRECTORIES, FILES))

    @web.middleware
    async def refuse_delimiters(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if "delimiter" in request.query:
            return web.Response(status=403, text="<Error><Code>AccessDenied</Code></Error>")
        return await handler(request)

    application = bucket.application()
    application.middlewares.append(refuse_delimiters)
    async with serving(application) as options:
        client = connect(process)
        info = await client.sync("u1", "s3://bucket", options=options)
        assert (info.files, info.error) == (TOTAL, "")
    assert (bucket.counts.pages, bucket.counts.at_once_max) == (PAGES, 1)
    assert sum(event["event"] == "metadata.listing_not_parallel" for event in process.logs) == 1


async def test_a_page_that_fails_late_leaves_the_old_snapshot(process: Any, connect: Connect) -> None:
    pages = 0

    async def fail_late() -> None:
        nonlocal pages
        pages += 1
        if pages > PAGES:  # of the second listing
            raise web.HTTPForbidden(text="<Error><Code>AccessDenied</Code></Error>")

    bucket = ListedBucket(list(names(DIRECTORIES, FILES))[: TOTAL // 2], fail_late)
    async with serving(bucket.application()) as options:
        client = connect(process)
        await client.sync("u1", "s3://bucket", options=options)
        pages = PAGES - 10
        info = await client.sync("u1", "s3://bucket", options=options, force=True)
        assert (info.error_reason, info.files, info.snapshot_version) == ("AccessDenied", TOTAL // 2, 1)
        process.stop()
        process.start()
        client = connect(process)
        assert not (await client.get("u1")).syncing  # a listing that failed is not gone on with
