"""The launcher: starts FUSE daemons in a process that outlives the plugin, and the plugin's side of it.

In a cluster the plugin is replaced with every release, and whatever runs in its pod ends with it. So daemons run in
the launcher's pod, which is only replaced when its node is drained. It keeps no state: see daemons.py.
"""

import asyncio
import re
from pathlib import Path
from typing import Final

import grpc

from api.gen import launcher_pb2 as pb
from api.gen import launcher_pb2_grpc
from fuse.csi.core.volumes import KEY_CHARACTERS, shown
from fuse.csi.errors import BadRequest, NotNow, TooSlow
from fuse.csi.shell.daemons import END_SECONDS, KILL_SECONDS, START_SECONDS, Daemons
from fuse.csi.shell.edge import Context, unary
from fuse.csi.shell.locks import NamedLocks

LOCK_SECONDS: Final = 60.0
CONNECT_SECONDS: Final = 3.0
"""For a launcher that is just starting."""
START_CALL_SECONDS: Final = START_SECONDS + END_SECONDS + KILL_SECONDS + 20.0
STOP_CALL_SECONDS: Final = END_SECONDS + KILL_SECONDS + 20.0
_KEY = re.compile(rf"[0-9a-f]{{{KEY_CHARACTERS}}}")


class Launcher(launcher_pb2_grpc.LauncherServicer):
    """The service, for one plugin."""

    def __init__(self, daemons: Daemons) -> None:
        self._daemons = daemons
        self._locks = NamedLocks("daemon")

    @unary
    async def Start(self, request: pb.StartDaemonRequest, context: Context) -> pb.StartDaemonResponse:
        """Have a daemon."""
        async with self._locks.hold(_checked(request.key), LOCK_SECONDS):
            await self._daemons.start(request.key)
        return pb.StartDaemonResponse()

    @unary
    async def Stop(self, request: pb.StopDaemonRequest, context: Context) -> pb.StopDaemonResponse:
        """Have none."""
        async with self._locks.hold(_checked(request.key), LOCK_SECONDS):
            await self._daemons.stop(request.key)
        return pb.StopDaemonResponse()


def _checked(key: str) -> str:
    if _KEY.fullmatch(key) is None:
        raise BadRequest(f"key {shown(key)} is not a dataset's hash; it must be {KEY_CHARACTERS} hexadecimal digits")
    return key


class LauncherClient:
    """Daemons by way of the launcher; close it."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000)]
        self._channel = grpc.aio.insecure_channel(f"unix:{socket}", options=options)
        self._stub: launcher_pb2_grpc.LauncherAsyncStub = launcher_pb2_grpc.LauncherStub(self._channel)

    async def start(self, key: str) -> None:
        """Have the dataset's daemon and its mount; NotNow, TooSlow."""
        await self._connected()
        try:
            await self._stub.Start(pb.StartDaemonRequest(key=key), timeout=START_CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise self._refusal(error) from None

    async def stop(self, key: str) -> None:
        """End both, if they are there; NotNow, TooSlow."""
        await self._connected()
        try:
            await self._stub.Stop(pb.StopDaemonRequest(key=key), timeout=STOP_CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise self._refusal(error) from None

    async def _connected(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._channel.channel_ready()
        except TimeoutError:
            raise NotNow(
                f"no launcher answers at {self._socket}; its pod must run on this node, trying again is safe"
            ) from None

    def _refusal(self, error: grpc.aio.AioRpcError) -> NotNow | TooSlow:
        kind = TooSlow if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED else NotNow
        return kind(f"the launcher at {self._socket} did not do it: {error.details()}")

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()
