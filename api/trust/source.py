"""Tokens for whoever asks a worker: fetched from the metadata service, renewed in time, shown once a connection.

Owns both halves of a bearer's side. `TokenSource` holds tokens by dataset: it gets the next one from half of a token's
life on, in the background, and goes on with the one it has while the service is away. `Shown` knows what one
connection has been shown. Invariants: nobody waits for a renewal while there is a good token; a token is in no message.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import grpc
import msgspec
import structlog

from api.gen import metadata_pb2 as pb
from api.gen import metadata_pb2_grpc

CALL_SECONDS: Final = 5.0
PAUSE_SECONDS: Final = 1.0
"""Between two tries to renew."""
MARGIN_SECONDS: Final = 1.0
"""A token is not shown in its last second: it must still be good when it arrives."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, repr=False)
class Held:
    """A token; from `ask_again_at` (monotonic seconds) on the source is asked again, at `ends_at` it is of no use."""

    token: str
    ask_again_at: float
    ends_at: float


class TokenSource:
    """One bearer's tokens. It may be used without a running task: what it awaits are futures."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        kept: bytes = b"",
        keep: Callable[[bytes], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`channel` is the metadata service's and stays the caller's. `keep` is given all tokens whenever one came, for
        `kept` of a successor on this machine."""
        self._stub = metadata_pb2_grpc.TrustStub(channel)
        self._clock = clock
        self._keep = keep
        self._held: dict[tuple[str, bool], Held] = _restored(kept)
        self._fetches: dict[tuple[str, bool], asyncio.Task[Held]] = {}
        self._tried_at: dict[tuple[str, bool], float] = {}

    async def get(self, uid: str, *, write: bool) -> Held:
        """Return a good token for the dataset; grpc.aio.AioRpcError when there is none to be had."""
        key, now = (uid, write), self._clock()
        held = self._held.get(key)
        if held is not None and now < held.ask_again_at:
            return held
        if held is None or now >= held.ends_at:
            return await asyncio.shield(self._fetch(key))
        if now - self._tried_at.get(key, float("-inf")) >= PAUSE_SECONDS:
            self._fetch(key)
        return Held(held.token, now + PAUSE_SECONDS, held.ends_at)

    def forget(self, uid: str) -> None:
        """A worker refused what we had: the next one asked for is a new one."""
        for write in (False, True):
            self._held.pop((uid, write), None)

    def _fetch(self, key: tuple[str, bool]) -> "asyncio.Task[Held]":
        task = self._fetches.get(key)
        if task is None:
            self._tried_at[key] = self._clock()
            task = self._fetches[key] = asyncio.get_running_loop().create_task(self._fetched(key))
            task.add_done_callback(lambda done: self._done(key, done))
        return task

    def _done(self, key: tuple[str, bool], task: "asyncio.Task[Held]") -> None:
        self._fetches.pop(key, None)
        if task.cancelled() or (error := task.exception()) is None:
            return
        details = error.details() if isinstance(error, grpc.aio.AioRpcError) else type(error).__name__
        log.warning("token_not_issued", dataset=key[0], write=key[1], error=details)

    async def _fetched(self, key: tuple[str, bool]) -> Held:
        uid, write = key
        request = pb.IssueTokenRequest(uid=uid, write=write)
        asked_at = self._clock()
        answer = await self._stub.IssueToken(request, timeout=CALL_SECONDS)
        ends_at = asked_at + max(answer.lifetime_seconds - MARGIN_SECONDS, 0)
        held = self._held[key] = Held(answer.token, asked_at + answer.lifetime_seconds / 2, ends_at)
        if self._keep is not None:
            now = self._clock()
            self._keep(msgspec.msgpack.encode([(*k, v) for k, v in self._held.items() if now < v.ends_at]))
        return held

    async def close(self) -> None:
        """End what is under way."""
        tasks = list(self._fetches.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _restored(kept: bytes) -> dict[tuple[str, bool], Held]:
    if not kept:
        return {}
    try:
        found = msgspec.msgpack.decode(kept, type=list[tuple[str, bool, Held]])
    except msgspec.MsgspecError:
        log.warning("tokens_not_taken_over")
        return {}
    return {(uid, write): held for uid, write, held in found}


class Shown:
    """What one connection has been shown. Lives as long as the connection."""

    def __init__(
        self,
        source: TokenSource,
        show: Callable[[str], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`show` sends a token and returns when the worker has taken it."""
        self._source = source
        self._show = show
        self._clock = clock
        self._shown: dict[tuple[str, bool], Held] = {}
        self._showing: dict[tuple[str, bool], asyncio.Lock] = {}

    def is_good(self, uid: str, *, write: bool) -> bool:
        """Whether nothing has to be done before a request: one look-up, for the hot path."""
        held = self._shown.get((uid, write))
        return held is not None and self._clock() < held.ask_again_at

    async def ensure(self, uid: str, *, write: bool) -> None:
        """Show a good token if the connection needs one; what `get` and `show` raise."""
        key = (uid, write)
        async with self._showing.setdefault(key, asyncio.Lock()):
            if self.is_good(uid, write=write):
                return
            held = await self._source.get(uid, write=write)
            before = self._shown.get(key)
            if before is None or before.token != held.token:
                await self._show(held.token)
            self._shown[key] = held

    def forget(self, uid: str) -> None:
        """The worker refused what it was shown."""
        self._source.forget(uid)
        for write in (False, True):
            self._shown.pop((uid, write), None)
