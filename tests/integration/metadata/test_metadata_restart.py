"""The service restarts in order, under calls: its clients wait, and none of their callers hears of it."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc

import cacheruntime.worker.metadata_client as of_worker
import fuse.client.metadata_client as of_mount
from api.gen import metadata_pb2 as pb

RESTARTS = 6


async def test_a_restart_in_order_is_waited_for_by_workers_and_mounts(
    metadata_process: Callable[..., Any], connect: Callable[[Any], Any], tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "one").write_bytes(b"1")
    process = metadata_process()
    bare = connect(process)
    await bare.sync("u1", f"file://{tmp_path}/data")
    worker = of_worker.MetadataClient(process.address, node="n1", call_seconds=5, mutation_seconds=30)
    mount = of_mount.MetadataClient(process.address)
    answered = 0
    turned_away: set[grpc.StatusCode] = set()
    is_over = False

    async def call(make: Callable[[int], Awaitable[object]]) -> None:
        nonlocal answered
        number = 0
        while not is_over:
            await make(number)
            answered += 1
            number += 1

    async def bare_calls() -> None:
        while not is_over:
            try:
                await bare.names("u1")
            except grpc.aio.AioRpcError as error:
                turned_away.add(error.code())
                await asyncio.sleep(0.001)

    def put(by: int) -> Callable[[int], Awaitable[object]]:
        return lambda number: worker.put_file("u1", f"w{by}-{number}", size_bytes=1, etag="e", mtime_ns=1, mode=0o644)

    calls = [asyncio.create_task(call(put(by))) for by in range(4)]
    calls += [asyncio.create_task(call(lambda _: mount.lookup("u1", "one"))) for _ in range(4)]
    calls += [asyncio.create_task(bare_calls()) for _ in range(4)]
    for _ in range(RESTARTS):
        before = answered
        async with asyncio.timeout(60):
            while answered < before + 50:
                assert not any(task.done() for task in calls), [task for task in calls if task.done()]
                await asyncio.sleep(0.01)
        assert await asyncio.to_thread(process.stop) == 0
        await asyncio.to_thread(process.start)
    is_over = True
    await asyncio.gather(*calls)
    assert turned_away, "no call met a restart: nothing was shown"
    await worker.close()
    await mount.close()


class Stopping:
    """What a call meets that arrives while grpc's aio server stops; the next one meets the new server."""

    def __init__(self) -> None:
        self.cancelled: list[str] = []

    def handler(self) -> grpc.GenericRpcHandler:
        """PutFile and Lookup; every other method is unknown."""

        async def put(_: pb.PutFileRequest, context: grpc.aio.ServicerContext[Any, Any]) -> pb.Mutation:
            await self._first("PutFile", context)
            return pb.Mutation(snapshot_version=7)

        async def lookup(request: pb.LookupRequest, context: grpc.aio.ServicerContext[Any, Any]) -> pb.Entry:
            await self._first("Lookup", context)
            return pb.Entry(path=request.path, size_bytes=9)

        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "PutFile": grpc.unary_unary_rpc_method_handler(
                put, pb.PutFileRequest.FromString, pb.Mutation.SerializeToString
            ),
            "Lookup": grpc.unary_unary_rpc_method_handler(
                lookup, pb.LookupRequest.FromString, pb.Entry.SerializeToString
            ),
        }
        return grpc.method_handlers_generic_handler("headrace.v1.Namespace", methods)

    async def _first(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        if method not in self.cancelled:
            self.cancelled.append(method)
            await context.abort(grpc.StatusCode.CANCELLED, "CANCELLED")


async def test_a_call_that_a_stopping_server_cancels_is_made_again() -> None:
    stopping = Stopping()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((stopping.handler(),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    worker = of_worker.MetadataClient(address, node="n1", call_seconds=5, mutation_seconds=30)
    mount = of_mount.MetadataClient(address)
    assert await worker.put_file("u1", "one", size_bytes=1, etag="e", mtime_ns=1, mode=0o644) == 7
    assert (await mount.lookup("u1", "one")).size_bytes == 9
    assert stopping.cancelled == ["PutFile", "Lookup"]
    await worker.close()
    await mount.close()
    await server.stop(0)
