"""ListObjectsV2: pages of an S3 bucket in key order.

Owns request, signature and parsing. obstore's own listing is not used: it drops the slash of directory markers
(an empty directory would look like an empty file) and fails as a whole on one key with an empty or `..` name.
Invariants: a page is never empty; keys are as stored, without the mount's prefix; the mount's own marker
(the prefix itself) is left out.
"""

import re
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_plus
from xml.etree import ElementTree

import aiohttp
from yarl import URL

from understores import http_client
from understores.base import ObjectInfo
from understores.bucket_errors import from_answer, unreachable
from understores.errors import StoreFailed
from understores.http_client import retry_after_seconds
from understores.keys import levels_to_cut
from understores.s3_settings import S3Keys, S3Mount
from understores.sigv4 import EMPTY_SHA256, canonical_query, signed_headers

PAGE_SECONDS: Final = 60.0
PAGE_KEYS = 1000
# 1,000 keys of at most 1,024 bytes, each byte as three, and their tags: no honest page is larger.
PAGE_BYTES_MAX: Final = 8 << 20

_URL_ENCODED: Final = b"<EncodingType>url</EncodingType>"
_OTHER: Final = "".join(f"(?:<{tag}>[^<]*</{tag}>)?" for tag in ("ChecksumAlgorithm", "ChecksumType"))
_QUOTE: Final = '(?:&quot;|&#34;|")'
_PLAIN_ITEM: Final = re.compile(
    r"(<Contents><Key>([^<&]*)</Key>"
    # 2026-01-02T03: and 04 and 05 and, of those that write them, 678.
    r"<LastModified>(.{14})([0-5][0-9]):([0-5][0-9])(?:\.([0-9][0-9][0-9]))?Z</LastModified>"
    rf'<ETag>{_QUOTE}([^<&"]*){_QUOTE}</ETag>{_OTHER}'
    r"<Size>([0-9]+)</Size>(?:<StorageClass>[A-Z_]*</StorageClass>)?</Contents>)"
)


class S3Lister:
    """Lists one mount over its own HTTP connections; the keys of the moment come with each call."""

    def __init__(self, mount: S3Mount) -> None:
        self._mount = mount
        self._session: aiohttp.ClientSession | None = None

    async def pages(self, keys: S3Keys | None, prefix: str, start_after: str) -> AsyncGenerator[list[ObjectInfo], None]:
        """Yield pages of keys that start with `prefix` and sort after `start_after`, both without the mount's."""
        token = ""
        while True:
            body = await self._page(keys, prefix, start_after, token=token)
            infos, token = parse_page(body, self._mount)
            if infos:
                yield infos
            if not token:
                return

    async def split_points(self, keys: S3Keys | None, after: str, until: str) -> list[str]:
        """Directories between the two keys, of the highest level that has some below `after`'s own; one page of them.

        Asks for at most LEVELS_MAX levels.
        """
        for level in levels_to_cut(after, until):
            body = await self._page(keys, level, after, delimiter="/")
            found = [one for one in parse_directories(body, self._mount) if after < one and (not until or one < until)]
            if found:
                return found
        return []

    async def close(self) -> None:
        """Close the connections; may be called twice."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _page(
        self, keys: S3Keys | None, prefix: str, start_after: str, *, token: str = "", delimiter: str = ""
    ) -> bytes:
        mount = self._mount
        parameters = [("list-type", "2"), ("encoding-type", "url"), ("max-keys", str(PAGE_KEYS))]
        if full_prefix := mount.prefix + prefix:
            parameters.append(("prefix", full_prefix))
        if delimiter:
            parameters.append(("delimiter", delimiter))
        if token:
            parameters.append(("continuation-token", token))
        elif start_after:
            parameters.append(("start-after", mount.prefix + start_after))
        query = canonical_query(parameters)
        url = mount.bucket_url if mount.bucket_url.count("/") > 2 else f"{mount.bucket_url}/"
        headers = {"x-amz-content-sha256": EMPTY_SHA256}
        if keys is not None:
            headers = signed_headers(url, query, keys, mount.region, datetime.now(UTC))
        try:
            async with self._connected().get(_exact(url, query), headers=headers, allow_redirects=False) as answer:
                body = await answer.content.read(PAGE_BYTES_MAX)
                while not answer.content.at_eof() and len(body) < PAGE_BYTES_MAX:
                    body += await answer.content.read(PAGE_BYTES_MAX - len(body))
                status, wait_seconds = answer.status, retry_after_seconds(answer.headers)
        except (aiohttp.ClientError, TimeoutError, OSError):
            raise unreachable(mount) from None
        if status != 200:
            raise from_answer(mount, prefix, status, _code(body), retry_after_seconds=wait_seconds)
        return body

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(
                    total=PAGE_SECONDS,
                    sock_connect=http_client.CONNECT_SECONDS,
                    sock_read=http_client.STALL_SECONDS,
                ),
                trust_env=False,
                auto_decompress=True,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


def parse_page(body: bytes, mount: S3Mount) -> tuple[list[ObjectInfo], str]:
    """Objects of one answer and the token of the next page ("" at the end); StoreFailed when it is no listing."""
    try:
        plain, rest = _plain_objects(body, mount.prefix)
        root, namespace, is_encoded = _result(rest)
        if plain and not is_encoded:
            raise ValueError(root.tag)
        infos = plain or [
            info
            for item in root.iter(f"{namespace}Contents")
            if (info := _object(item, namespace, is_encoded, mount.prefix)).key
        ]
        more = root.findtext(f"{namespace}IsTruncated") == "true"
        token = root.findtext(f"{namespace}NextContinuationToken") or ""
    except (ElementTree.ParseError, ValueError, KeyError):
        raise StoreFailed(f"the listing of bucket {mount.bucket!r} is not S3 XML.", retryable=True) from None
    if more and not token:
        raise StoreFailed(f"the listing of bucket {mount.bucket!r} stops without saying how to go on.")
    return infos, token if more else ""


def parse_directories(body: bytes, mount: S3Mount) -> list[str]:
    """Directories (CommonPrefixes) of one answer, without the mount's prefix; StoreFailed when it is no listing."""
    try:
        root, namespace, is_encoded = _result(body)
        found = []
        for item in root.iter(f"{namespace}CommonPrefixes"):
            text = item.findtext(f"{namespace}Prefix") or ""
            key = unquote_plus(text) if is_encoded else text
            if not key.startswith(mount.prefix):
                raise ValueError(key)
            found.append(key[len(mount.prefix) :])
    except (ElementTree.ParseError, ValueError):
        raise StoreFailed(f"the listing of bucket {mount.bucket!r} is not S3 XML.", retryable=True) from None
    return found


def _result(body: bytes) -> tuple[ElementTree.Element, str, bool]:
    """Root of an answer, its XML namespace, and whether keys are URL-encoded."""
    root = ElementTree.fromstring(body)
    namespace = root.tag[: root.tag.index("}") + 1] if root.tag.startswith("{") else ""
    if root.tag != f"{namespace}ListBucketResult":
        raise ValueError(root.tag)
    return root, namespace, root.findtext(f"{namespace}EncodingType") == "url"


def _plain_objects(body: bytes, prefix: str) -> tuple[list[ObjectInfo], bytes]:
    """Objects of a page that is written as nearly all are, and the page without them; or none and the page as it is.

    Three times as fast as making a tree of them. Only elements that follow each other without a gap, of known order,
    with times in UTC and without entities but an etag's quotes are taken, all of them or none.
    """
    start, end = body.find(b"<Contents>"), body.rfind(b"</Contents>") + len(b"</Contents>")
    part = body[start:end]
    # A comment or CDATA could hold what looks like an element.
    if start < 0 or not part.isascii() or b"<!" in body or _URL_ENCODED not in body:
        return [], body
    text = part.decode("ascii")
    found = _PLAIN_ITEM.findall(text)
    if sum(len(item[0]) for item in found) != len(text):
        return [], body
    infos = []
    lead = len(prefix)
    for _, written, hour, minute, seconds, thousandths, etag, size in found:
        key = unquote_plus(written) if "%" in written or "+" in written else written
        if lead:
            if not key.startswith(prefix):
                raise ValueError(key)
            key = key[lead:]
        if key:
            milliseconds = int(minute) * 60_000 + int(seconds + (thousandths or "000"))
            mtime_ns = _hour(hour) + milliseconds * 1_000_000
            infos.append(ObjectInfo(key, int(size), f'"{etag}"', mtime_ns))
    return infos, body[:start] + body[end:]


def _object(item: ElementTree.Element, namespace: str, is_encoded: bool, prefix: str) -> ObjectInfo:
    fields = {child.tag: child.text or "" for child in item}
    key = fields[f"{namespace}Key"]
    if is_encoded:
        key = unquote_plus(key)
    if not key.startswith(prefix):
        raise ValueError(key)
    mtime_ns = _nanoseconds(fields[f"{namespace}LastModified"])
    return ObjectInfo(key[len(prefix) :], int(fields[f"{namespace}Size"]), fields.get(f"{namespace}ETag", ""), mtime_ns)


@lru_cache(1 << 14)
def _hour(start: str) -> int:
    """Beginning of an hour in nanoseconds, of 2026-01-02T03: with the colon; a year has 8,760. ValueError."""
    return _nanoseconds(f"{start}00:00Z")


def _nanoseconds(modified: str) -> int:
    # Through whole microseconds: a float of seconds since 1970 cannot hold them all.
    return round(datetime.fromisoformat(modified).timestamp() * 1_000_000) * 1000


def _exact(url: str, query: str) -> URL:
    # encoded=True: the signature covers this very text, nothing may re-quote it.
    return URL(f"{url}?{query}", encoded=True)


def _code(body: bytes) -> str:
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError:
        return ""
    return next((child.text or "" for child in root.iter() if child.tag.endswith("Code")), "")
