"""Lifts the fences of one node as the pods they are for end there (metadata/core/fences.py).

Owns the calls and when they are made. Whoever mounts for a node's pods, or runs them, has one. Invariant: a pod's fence
is lifted only while its node says that the pod is not there; what is not known keeps it up.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import grpc
import structlog

from api.gen import metadata_pb2 as pb
from api.gen import metadata_pb2_grpc

CALL_SECONDS: Final = 10.0

log = structlog.get_logger()


class FenceLifter:
    """The fences of one node; `channel` is the metadata service's and stays the caller's."""

    def __init__(self, channel: grpc.aio.Channel, node: str) -> None:
        self._stub = metadata_pb2_grpc.FencesStub(channel)
        self._node = node

    async def lift(self, is_here: Callable[[str], bool]) -> int:
        """Lift the fences of pods that are not here any more; how many pods that were. grpc.aio.AioRpcError."""
        listed = await self._stub.List(pb.ListFencesRequest(node=self._node), timeout=CALL_SECONDS)
        ended: dict[str, set[str]] = {}
        for fence in listed.fences:
            pods = {pod for pod in fence.pods if not is_here(pod)}
            if pods:
                ended.setdefault(fence.uid, set()).update(pods)
        for uid, pods in ended.items():
            request = pb.LiftFencesRequest(uid=uid, node=self._node, pods=sorted(pods))
            await self._stub.Lift(request, timeout=CALL_SECONDS)
            log.info("fences_lifted", dataset=uid, pods=len(pods))
        return sum(map(len, ended.values()))

    async def run(self, is_here: Callable[[str], bool], seconds: float) -> None:
        """Lift every so many seconds, for ever; while metadata is away they stay up, which is said once."""
        is_away = False
        while True:
            try:
                await self.lift(is_here)
                is_away = False
            except grpc.aio.AioRpcError as error:
                if not is_away:
                    log.warning("fences_not_lifted", error=error.details() or error.code().name)
                is_away = True
            await asyncio.sleep(seconds)
