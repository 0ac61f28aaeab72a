"""gRPC channels between the parts: in plain text, or with both sides' certificates.

Owns that a channel follows the certificate files: Python's gRPC cannot change a channel's certificate
(grpc/grpc#41779), so calls go to a channel that is made anew when the files change, while calls under way, also endless
streams, go on on the old one. Also who is at the other end of a call.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc

from api.trust.files import TrustFiles, grpc_channel_credentials, only_identity
from api.trust.identity import Identity

Options = Sequence[tuple[str, Any]]


def open_channel(address: str, trust: TrustFiles | None, server: Identity, options: Options = ()) -> grpc.aio.Channel:
    """Return a channel to HOST:PORT; with `trust` nobody but `server` is taken for it."""
    if trust is None:
        return grpc.aio.insecure_channel(address, options=list(options))
    return _FollowingChannel(address, trust, [*options, ("grpc.ssl_target_name_override", server.server_name)])


def open_blocking_channel(
    address: str, trust: TrustFiles | None, server: Identity, options: Options = ()
) -> grpc.Channel:
    """Like `open_channel`, for blocking calls over a short time: it does not follow changes."""
    if trust is None:
        return grpc.insecure_channel(address, options=list(options))
    named = [*options, ("grpc.ssl_target_name_override", server.server_name)]
    return grpc.secure_channel(address, grpc_channel_credentials(trust.current()), options=named)


def add_port(server: grpc.aio.Server, address: str, trust: TrustFiles | None) -> int:
    """Listen at HOST:PORT and return the port; RuntimeError when it cannot be had."""
    if trust is None:
        return server.add_insecure_port(address)
    return server.add_secure_port(address, trust.grpc_server_credentials())


def caller_of(context: Any) -> Identity | None:
    """Return who makes a call; None on a plain connection. NotAnIdentity: a certificate that names nobody."""
    found = context.auth_context()
    # A server with trust on has no plain port, so what is plain here was meant to be.
    if all(kind == b"insecure" for kind in found.get("transport_security_type", ())):
        return None
    return only_identity([uri.decode("utf-8", "replace") for uri in found.get("peer_uri", ())])


class _FollowingChannel(grpc.aio.Channel):
    """Implements the calls of grpc.aio.Channel over the channel of the moment."""

    def __init__(self, address: str, trust: TrustFiles, options: Options) -> None:
        self._address = address
        self._trust = trust
        self._options = list(options)
        self._number = 0
        self._inner: grpc.aio.Channel | None = None
        self._made: dict[tuple[str, str], Any] = {}
        self._calls: dict[grpc.aio.Channel, int] = {}
        """Calls under way by channel: one that was followed by another is closed after its last."""
        self._closing: set[asyncio.Task[None]] = set()

    def _now(self) -> grpc.aio.Channel:
        snapshot = self._trust.current()
        if self._inner is None or snapshot.number != self._number:
            old, self._inner = (
                self._inner,
                grpc.aio.secure_channel(self._address, grpc_channel_credentials(snapshot), options=self._options),
            )
            self._number = snapshot.number
            self._made.clear()
            self._calls[self._inner] = 0
            if old is not None:
                self._end_if_unused(old)
        return self._inner

    def _end_if_unused(self, channel: grpc.aio.Channel) -> None:
        if channel is self._inner or self._calls.get(channel) != 0:
            return
        del self._calls[channel]
        closing = asyncio.ensure_future(channel.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _call(self, kind: str, method: str, arguments: dict[str, Any]) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            channel = self._now()
            made = self._made.get((kind, method))
            if made is None:
                made = self._made[kind, method] = getattr(channel, kind)(method, **arguments)
            under_way = made(*given, **named)
            self._calls[channel] += 1
            under_way.add_done_callback(lambda _: self._ended(channel))
            return under_way

        return call

    def _ended(self, channel: grpc.aio.Channel) -> None:
        if channel in self._calls:
            self._calls[channel] -= 1
            self._end_if_unused(channel)

    def unary_unary(self, method: str, *_: Any, **arguments: Any) -> Any:
        """As grpc.aio.Channel."""
        return self._call("unary_unary", method, arguments)

    def unary_stream(self, method: str, *_: Any, **arguments: Any) -> Any:
        """As grpc.aio.Channel."""
        return self._call("unary_stream", method, arguments)

    def stream_unary(self, method: str, *_: Any, **arguments: Any) -> Any:
        """As grpc.aio.Channel."""
        return self._call("stream_unary", method, arguments)

    def stream_stream(self, method: str, *_: Any, **arguments: Any) -> Any:
        """As grpc.aio.Channel."""
        return self._call("stream_stream", method, arguments)

    async def close(self, grace: float | None = None) -> None:
        """Close it; calls under way have `grace` seconds."""
        channels, self._calls = list(self._calls), {}
        await asyncio.gather(*self._closing, *(channel.close(grace) for channel in channels))

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """As grpc.aio.Channel."""
        return self._now().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """As grpc.aio.Channel."""
        await self._now().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """As grpc.aio.Channel."""
        await self._now().channel_ready()

    async def __aenter__(self) -> "_FollowingChannel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
