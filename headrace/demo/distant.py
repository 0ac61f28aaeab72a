"""An object store that behaves as if it were far away: moto's S3 server behind a slow, thin line.

`python -m headrace.demo.distant` runs both in one process: the S3 server on one loopback port, and in front of it a
proxy that delays every exchange and limits the bytes a second of all connections together, both ways. Clients talk
to the proxy only. Prints `ready` and the address. The limits are arguments, so they can be shown and changed.
"""

import argparse
import asyncio
import contextlib
import logging
import time

CHUNK_BYTES = 16 << 10
"""Bytes passed on at once: small enough that the rate is even, large enough to be cheap."""


class Line:
    """A line of so many bytes a second shared by everything that passes: a token bucket without a burst, but for
    what makes up for sleeps that were too long, at most `catch_up_seconds`."""

    def __init__(self, bytes_per_second: float, catch_up_seconds: float = 0.0) -> None:
        self._bytes_per_second = bytes_per_second
        self._catch_up_seconds = catch_up_seconds
        self._free_at = 0.0

    async def carry(self, size_bytes: int) -> None:
        """Return when that many bytes have passed."""
        now = time.monotonic()
        self._free_at = max(self._free_at, now - self._catch_up_seconds) + size_bytes / self._bytes_per_second
        await asyncio.sleep(self._free_at - now)


class DistantProxy:
    """Passes TCP connections on to `target_port`, through one shared line each way, each answer delayed."""

    def __init__(self, target_port: int, bytes_per_second: float, latency_seconds: float) -> None:
        self._target_port = target_port
        self._latency_seconds = latency_seconds
        self._down, self._up = Line(bytes_per_second), Line(bytes_per_second)

    async def serve(self, listen_port: int) -> None:
        """Serve until cancelled."""
        server = await asyncio.start_server(self._connection, "127.0.0.1", listen_port)
        async with server:
            await server.serve_forever()

    async def _connection(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            store, to_store = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            to_client.close()
            return
        up = asyncio.create_task(self._pass_on(client, to_store, self._up, 0.0))
        down = asyncio.create_task(self._pass_on(store, to_client, self._down, self._latency_seconds))
        await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        for writer in (to_client, to_store):
            writer.close()
        await asyncio.gather(up, down, return_exceptions=True)

    async def _pass_on(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, line: Line, latency_seconds: float
    ) -> None:
        last = 0.0
        with contextlib.suppress(ConnectionError):
            while data := await source.read(CHUNK_BYTES):
                if time.monotonic() - last > latency_seconds:
                    await asyncio.sleep(latency_seconds)  # a new exchange, not more of the same answer
                await line.carry(len(data))
                target.write(data)
                await target.drain()
                last = time.monotonic()


def _serve_store(port: int) -> None:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False).start()


def main() -> None:
    """Entry of `python -m headrace.demo.distant`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True, help="port clients use")
    parser.add_argument("--store-port", type=int, required=True, help="port of the S3 server itself")
    parser.add_argument("--bytes-per-second", type=float, required=True)
    parser.add_argument("--latency-seconds", type=float, required=True)
    options = parser.parse_args()
    _serve_store(options.store_port)
    proxy = DistantProxy(options.store_port, options.bytes_per_second, options.latency_seconds)
    print(f"ready http://127.0.0.1:{options.port}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(proxy.serve(options.port))


if __name__ == "__main__":
    main()
