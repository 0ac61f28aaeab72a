"""An object store with a counter and a cap: as much of S3 as a read-only mount asks for, over a directory.

`python -m benchmarks.origin DIRECTORY BYTES_PER_SECOND [LATENCY_SECONDS]` serves `DIRECTORY/BUCKET/KEY` on a loopback
port that it prints. All bodies share one line of so many bytes a second; `/-/counters` tells what was asked for
and how many bytes of objects were sent. Files are read with their pages warm; the cap is what is slow.
"""

import asyncio
import json
import os
import sys
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote
from xml.sax.saxutils import escape

from aiohttp import web

from headrace.demo.distant import Line

PIECE_BYTES: Final = 64 << 10
CATCH_UP_SECONDS: Final = 0.02
"""What a sleep that was too long may be made up for; a larger figure would be a burst."""
PAGE_KEYS: Final = 1000


class Origin:
    """The requests."""

    def __init__(self, directory: Path, bytes_per_second: float, latency_seconds: float = 0.0) -> None:
        """`latency_seconds` pass before an object's first byte."""
        self._directory = directory
        self._latency_seconds = latency_seconds
        self._line = Line(bytes_per_second, CATCH_UP_SECONDS)
        self._counters = {"requests": 0, "bytes": 0, "lists": 0, "heads": 0}

    def application(self) -> web.Application:
        """Return the server."""
        made = web.Application()
        made.router.add_get("/-/counters", self._tell)
        made.router.add_get("/{bucket}", self._list)
        made.router.add_get("/{bucket}/", self._list)
        made.router.add_get("/{bucket}/{key:.+}", self._object)
        return made

    async def _tell(self, _: web.Request) -> web.Response:
        return web.Response(text=json.dumps(self._counters))

    async def _list(self, request: web.Request) -> web.Response:
        self._counters["lists"] += 1
        bucket = self._directory / request.match_info["bucket"]
        prefix = request.query.get("prefix", "")
        after = request.query.get("continuation-token") or request.query.get("start-after", "")
        keys = [str(path.relative_to(bucket)) for path in bucket.rglob("*") if path.is_file()]
        keys = sorted(key for key in keys if key.startswith(prefix) and key > after)
        page = keys[:PAGE_KEYS]
        items = "".join(self._item(bucket, key) for key in page)
        more = len(keys) > len(page)
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        head = f"<EncodingType>url</EncodingType><IsTruncated>{str(more).lower()}</IsTruncated>{token}"
        body = f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult>{head}{items}</ListBucketResult>'
        return web.Response(body=body.encode(), content_type="application/xml")

    @staticmethod
    def _item(bucket: Path, key: str) -> str:
        found = (bucket / key).stat()
        modified = datetime.fromtimestamp(int(found.st_mtime), UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        return (
            f"<Contents><Key>{quote(key)}</Key><LastModified>{modified}</LastModified>"
            f"<ETag>{escape(_etag(found))}</ETag><Size>{found.st_size}</Size></Contents>"
        )

    async def _object(self, request: web.Request) -> web.StreamResponse:
        self._counters["heads"] += request.method == "HEAD"
        path = self._directory / request.match_info["bucket"] / request.match_info["key"]
        if not path.is_file():
            return web.Response(status=404, text="<Error><Code>NoSuchKey</Code></Error>")
        found = path.stat()
        etag = _etag(found)
        if request.headers.get("If-Match", etag) != etag:
            return web.Response(status=412, text="<Error><Code>PreconditionFailed</Code></Error>")
        wanted = request.http_range
        start, end = wanted.start or 0, min(wanted.stop or found.st_size, found.st_size)
        answer = web.StreamResponse(status=206 if "Range" in request.headers else 200)
        answer.content_length = end - start
        answer.headers["ETag"] = etag
        answer.headers["Last-Modified"] = format_datetime(datetime.fromtimestamp(int(found.st_mtime), UTC), usegmt=True)
        if answer.status == 206:
            answer.headers["Content-Range"] = f"bytes {start}-{end - 1}/{found.st_size}"
        await answer.prepare(request)
        if request.method != "HEAD":
            await asyncio.sleep(self._latency_seconds)
            self._counters["requests"] += 1
            await self._send(answer, path, start, end)
        return answer

    async def _send(self, answer: web.StreamResponse, path: Path, start: int, end: int) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            while start < end:
                piece = os.pread(descriptor, min(PIECE_BYTES, end - start), start)
                await self._line.carry(len(piece))
                await answer.write(piece)
                start += len(piece)
                self._counters["bytes"] += len(piece)
        finally:
            os.close(descriptor)


def _etag(found: os.stat_result) -> str:
    return f'"{found.st_size:x}-{found.st_mtime_ns:x}"'


async def _serve(directory: Path, bytes_per_second: float, latency_seconds: float) -> None:
    runner = web.AppRunner(Origin(directory, bytes_per_second, latency_seconds).application())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 0.0))
