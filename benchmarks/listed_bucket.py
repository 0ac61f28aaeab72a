"""A bucket of names without bytes: as much of S3 as a listing asks for, and counts of what it was asked.

`python -m benchmarks.listed_bucket DIRECTORIES FILES` serves so many directories of so many files each on a loopback
port that it prints. Items are made before the first request, so that little of the machine goes into the answers.
"""

import asyncio
import sys
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote
from xml.sax.saxutils import escape

from aiohttp import web

PAGE_KEYS: Final = 1000
_HEAD: Final = (
    '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    "<Name>bucket</Name><EncodingType>url</EncodingType>"
)


@dataclass(slots=True)
class Counts:
    """What was asked for; `at_once_max` is the most list requests that were under way together."""

    pages: int = 0
    looks: int = 0
    """Requests with a delimiter."""
    at_once: int = 0
    at_once_max: int = 0


async def _at_once() -> None:
    """Answer without waiting."""


class ListedBucket:
    """Answers ListObjectsV2 of any bucket name with the same keys."""

    def __init__(self, keys: Iterable[str], before_page: Callable[[], Awaitable[None]] = _at_once) -> None:
        """`before_page` is awaited before each answer to a request without a delimiter."""
        self._keys = sorted(keys)
        self._items = [_item(number, key) for number, key in enumerate(self._keys)]
        self._before_page = before_page
        self.counts = Counts()

    def application(self) -> web.Application:
        """Return the server."""
        made = web.Application()
        made.router.add_get("/{bucket}", self._list)
        made.router.add_get("/{bucket}/", self._list)
        return made

    async def _list(self, request: web.Request) -> web.Response:
        counts, query = self.counts, request.query
        counts.at_once += 1
        counts.at_once_max = max(counts.at_once_max, counts.at_once)
        try:
            prefix, after = query.get("prefix", ""), query.get("continuation-token") or query.get("start-after", "")
            if query.get("delimiter"):
                counts.looks += 1
                return _answer(self._directories(prefix, after), "")
            counts.pages += 1
            await self._before_page()
            first = bisect_right(self._keys, max(after, prefix)) if after else 0
            page = self._items[first : first + PAGE_KEYS]
            more = first + PAGE_KEYS < len(self._keys)
            return _answer("".join(page), self._keys[first + PAGE_KEYS - 1] if more else "")
        finally:
            counts.at_once -= 1

    def _directories(self, prefix: str, after: str) -> str:
        """Directories directly below `prefix` that end behind `after`, as S3 rolls keys up; one page of them."""
        found: list[str] = []
        place = bisect_right(self._keys, max(prefix, after))
        while place < len(self._keys) and len(found) < PAGE_KEYS and self._keys[place].startswith(prefix):
            name, slash, _ = self._keys[place][len(prefix) :].partition("/")
            if slash:
                found.append(f"{prefix}{name}/")
                place = bisect_right(self._keys, f"{prefix}{name}/\U0010ffff")
            else:
                place += 1
        return "".join(f"<CommonPrefixes><Prefix>{quote(one)}</Prefix></CommonPrefixes>" for one in found)


def _answer(content: str, token: str) -> web.Response:
    more = f"<NextContinuationToken>{escape(token)}</NextContinuationToken>" if token else ""
    body = f"{_HEAD}<IsTruncated>{str(bool(token)).lower()}</IsTruncated>{more}{content}</ListBucketResult>"
    return web.Response(body=body.encode(), content_type="application/xml")


def _item(number: int, key: str) -> str:
    modified = f"2026-01-02T03:04:{number % 60:02}.{number % 997:03}Z"
    return (
        f"<Contents><Key>{quote(key)}</Key><LastModified>{modified}</LastModified>"
        f"<ETag>&quot;{number:032x}&quot;</ETag><Size>{number}</Size><StorageClass>STANDARD</StorageClass></Contents>"
    )


def names(directories: int, files: int) -> Iterable[str]:
    """Keys of so many directories of so many files each."""
    return (f"train/{one:06}/image-{other:09}.jpg" for one in range(directories) for other in range(files))


async def _serve(directories: int, files: int) -> None:
    runner = web.AppRunner(ListedBucket(names(directories, files)).application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
