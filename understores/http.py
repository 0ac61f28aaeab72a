"""Under store of a web server: `http://host/directory`, `https://…`; read-only.

Owns requests and what an answer's status means. Names come from directory pages, or from one index file (option
`index`); sizes and versions from each file's own headers (`http_pages.py`). Invariants: a file whose server sends
neither ETag nor Last-Modified is refused, since its versions could be mixed; its version is looked at again behind each
read, since many a server sends what a file is at that moment; credentials go to the mount's own origin only; every
write is ReadOnly (EROFS).
"""

import asyncio
import builtins
from base64 import b64encode
from bisect import bisect_right
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from yarl import URL

from understores import http_pages, tree_listing
from understores.base import ObjectInfo, Source
from understores.credentials import SecretOptions
from understores.errors import (
    AccessDenied,
    BucketNotFound,
    Changed,
    InvalidKey,
    InvalidMount,
    NotFound,
    ReadOnly,
    ShortBody,
    StoreFailed,
    Throttled,
    UnderStoreError,
)
from understores.http_client import Answer, HttpClient, content_length, retry_after_seconds
from understores.keys import checked_key
from understores.options import all_names, option, spelled

_SPELLINGS: Final = spelled("fs.http.", "index", "username", "password", "bearerToken")
OPTION_NAMES: Final = all_names(_SPELLINGS)

HEADS_AT_ONCE: Final = 16
PAGE_ENTRIES: Final = 500
DIRECTORY_BYTES_MAX: Final = 64 << 20
INDEX_BYTES_MAX: Final = 256 << 20
REDIRECTS_MAX: Final = 5
SKIP_BYTES_MAX: Final = 64 << 20
"""Of a server without ranges: so much is read in vain to get at the bytes behind it, and no more."""

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_HEAD_REFUSED: Final = frozenset({405, 501})
_KIND_BY_STATUS: Final[dict[int, type[UnderStoreError]]] = {
    401: AccessDenied,
    403: AccessDenied,
    404: NotFound,
    407: AccessDenied,
    410: NotFound,
    412: Changed,
    414: InvalidKey,
    429: Throttled,
    503: Throttled,
}


@dataclass(frozen=True, slots=True)
class HttpMount:
    """A validated mount; `root` ends in a slash."""

    root: URL
    index: str

    @property
    def shown(self) -> str:
        """The mount in a message."""
        return http_pages.shown_url(str(self.root))


def open_http(mount_point: str, options: Mapping[str, str], secret_options: SecretOptions) -> "HttpStore":
    """Open an `http(s)://` mount; InvalidMount names a field that is wrong. No request is sent yet."""
    authorization({**options, **dict.fromkeys(secret_options.names, "set")})
    return HttpStore(parse_mount(mount_point, options), options, secret_options)


def parse_mount(mount_point: str, options: Mapping[str, str]) -> HttpMount:
    """Check `http(s)://host/directory` and its options; InvalidMount names the field that is wrong."""
    try:
        parts = urlsplit(mount_point)
        is_usable = bool(parts.hostname) and parts.port != 0 and not parts.query and not parts.fragment
        root = URL(f"{parts.scheme}://{parts.netloc}{_quoted(unquote(parts.path).rstrip('/'))}/", encoded=True)
    except ValueError:
        is_usable = False
    if not is_usable:
        raise InvalidMount(f"mountPoint {mount_point.partition('?')[0]!r} is not usable; write https://host/directory.")
    if any(name in (".", "..") for name in unquote(parts.path).split("/")):
        raise InvalidMount(f"mountPoint {mount_point!r} has a '.' or '..' in its path.")
    index = option(options, _SPELLINGS["index"])
    if index and any(name in ("", ".", "..") for name in index.split("/")):
        raise InvalidMount(f"option 'index' is {index!r}; write the path of a file below the mount.")
    return HttpMount(root, index)


def authorization(options: Mapping[str, str]) -> str:
    """The Authorization header's value, "" without credentials; InvalidMount when they contradict each other."""
    username, password, token = (option(options, _SPELLINGS[name]) for name in ("username", "password", "bearerToken"))
    if token and (username or password):
        raise InvalidMount("options 'bearerToken' and 'username' exclude each other; give one of them.")
    if password and not username:
        raise InvalidMount("option 'username' is missing; give it with 'password'.")
    if token:
        if not (token.isascii() and token.isprintable()):
            raise AccessDenied("the value of option 'bearerToken' has characters that no token has.")
        return f"Bearer {token}"
    return f"Basic {b64encode(f'{username}:{password}'.encode()).decode()}" if username else ""


class HttpStore:
    """`UnderStore` over one directory of a web server."""

    def __init__(self, mount: HttpMount, options: Mapping[str, str], secret_options: SecretOptions) -> None:
        self._mount = mount
        self._options = dict(options)
        self._secret_options = secret_options
        self._client = HttpClient(mount.root.authority)

    def __repr__(self) -> str:
        return f"HttpStore({self._mount.shown!r})"

    async def list(self, prefix: str = "", *, start_after: str = "") -> AsyncGenerator[builtins.list[ObjectInfo], None]:
        pages = self._indexed(prefix, start_after) if self._mount.index else self._walked(prefix, start_after)
        async with aclosing(pages) as found:
            async for page in found:
                if page:
                    yield page

    async def split_points(self, after: str, until: str) -> Sequence[str]:
        if self._mount.index:
            return ()  # each part would fetch the index again
        return await tree_listing.split_points(self._children, after, until)

    async def head(self, key: str) -> ObjectInfo:
        url = self._url(key)
        async with self._request("HEAD", url, key, accepts=_HEAD_REFUSED) as answer:
            if answer.status not in _HEAD_REFUSED:
                return self._info(key, answer, content_length(answer.headers))
        async with self._request("GET", url, key, headers={"Range": "bytes=0-0"}, accepts={416}) as answer:
            span = http_pages.content_range(answer.headers.get("Content-Range", ""))
            size_bytes = span[2] if span else 0 if answer.status == 416 else content_length(answer.headers)
            return self._info(key, answer, size_bytes)

    async def get_range(self, key: str, offset_bytes: int, buffer: memoryview, *, etag: str) -> None:
        if not len(buffer):
            await self._require_version(key, etag)
            return
        end_bytes = offset_bytes + len(buffer)
        headers = {"Range": f"bytes={offset_bytes}-{end_bytes - 1}", **http_pages.precondition(etag)}
        async with self._request("GET", self._url(key), key, headers=headers, accepts={416}) as answer:
            is_inside = answer.status != 416
            if answer.status == 206:
                await self._fill_part(answer, key, offset_bytes, buffer, etag)
            elif is_inside:
                await self._fill_from_whole(answer, key, offset_bytes, buffer, etag)
        await self._require_version(key, etag)
        if not is_inside:
            raise self._too_short(key, offset_bytes, len(buffer))

    async def put(self, key: str, source: Source, size_bytes: int) -> ObjectInfo:
        raise self._read_only(key)

    async def copy(self, source: str, target: str) -> ObjectInfo:
        raise self._read_only(target)

    async def delete(self, key: str) -> None:
        raise self._read_only(key)

    async def make_directory(self, path: str) -> None:
        raise self._read_only(path)

    async def remove_directory(self, path: str) -> None:
        raise self._read_only(path)

    async def close(self) -> None:
        await self._client.close()

    # Reading

    async def _fill_part(self, answer: Answer, key: str, offset_bytes: int, buffer: memoryview, etag: str) -> None:
        span = http_pages.content_range(answer.headers.get("Content-Range", ""))
        if span is None:
            raise StoreFailed(f"{self._where(key)} was sent in part, without saying which part.", retryable=True)
        start_bytes, end_bytes, size_bytes = span
        # Servers that ignore If-Match exist; the answer's own headers are the proof.
        if http_pages.version(answer.headers, size_bytes) != etag:
            raise self._changed(key)
        if (start_bytes, end_bytes) != (offset_bytes, offset_bytes + len(buffer)):
            raise self._too_short(key, offset_bytes, len(buffer))
        if content_length(answer.headers) not in (None, len(buffer)):
            raise ShortBody(f"{self._where(key)} announces another length than the range has.")
        await answer.fill(buffer, what=self._where(key))

    async def _fill_from_whole(
        self, answer: Answer, key: str, offset_bytes: int, buffer: memoryview, etag: str
    ) -> None:
        """Take a range out of a whole file, as servers without ranges send it."""
        size_bytes = content_length(answer.headers)
        if size_bytes is None:
            raise StoreFailed(f"{self._where(key)} was sent without its size, so a cut could not be noticed.")
        if http_pages.version(answer.headers, size_bytes) != etag:
            raise self._changed(key)
        if offset_bytes + len(buffer) > size_bytes:
            raise self._too_short(key, offset_bytes, len(buffer))
        if offset_bytes > SKIP_BYTES_MAX:
            raise StoreFailed(
                f"{self._mount.root.authority} serves no byte ranges, as files above {SKIP_BYTES_MAX >> 20} MiB need."
            )
        is_to_end = offset_bytes + len(buffer) == size_bytes
        await answer.fill(buffer, skip_bytes=offset_bytes, what=self._where(key), is_to_end=is_to_end)

    async def _require_version(self, key: str, etag: str) -> None:
        if (await self.head(key)).etag != etag:
            raise self._changed(key)

    def _info(self, key: str, answer: Answer, size_bytes: int | None) -> ObjectInfo:
        if size_bytes is None:
            raise StoreFailed(f"{self._where(key)} has no Content-Length: its size is not known.")
        if not (etag := http_pages.version(answer.headers, size_bytes)):
            raise StoreFailed(
                f"{self._where(key)} has neither ETag nor Last-Modified: its versions cannot be told apart."
            )
        return ObjectInfo(key, size_bytes, etag, _nanoseconds(answer.headers.get("Last-Modified", "")))

    # Listing

    async def _walked(self, prefix: str, start_after: str) -> AsyncGenerator[builtins.list[ObjectInfo], None]:
        walk = tree_listing.walk(self._children, prefix, start_after, page_entries=PAGE_ENTRIES)
        try:
            async with aclosing(walk) as pages:
                async for page in pages:
                    yield await self._described([one.key for one in page], may_vanish=True)
        except NotFound:
            raise BucketNotFound(f"{self._mount.shown} does not exist.") from None

    async def _children(self, path: str, after: str) -> AsyncGenerator[builtins.list[tree_listing.Child], None]:
        url = self._url(path, is_directory=True)
        accept = {"Accept": "text/html, application/json;q=0.9"}
        async with self._request("GET", url, f"{path}/", headers=accept) as answer:
            body = await answer.text_bytes(DIRECTORY_BYTES_MAX)
            content_type = answer.headers.get("Content-Type", "")
        # Parsing is seconds for the largest pages.
        parse = partial(http_pages.parse_directory, body, content_type, str(answer.url))
        children = await asyncio.to_thread(parse) if len(body) > 1 << 20 else parse()
        if children:
            yield children

    async def _indexed(self, prefix: str, start_after: str) -> AsyncGenerator[builtins.list[ObjectInfo], None]:
        where = self._where(self._mount.index)
        try:
            async with self._request("GET", self._url(self._mount.index), self._mount.index) as answer:
                body = await answer.text_bytes(INDEX_BYTES_MAX)
        except NotFound:
            raise BucketNotFound(f"the index {where} of the mount does not exist.") from None
        lines = await asyncio.to_thread(http_pages.parse_index, body, where)
        first = bisect_right(lines, start_after, key=lambda line: line.key)
        wanted = [line for line in lines[first:] if line.key.startswith(prefix)]
        for start in range(0, len(wanted), PAGE_ENTRIES):
            page = wanted[start : start + PAGE_ENTRIES]
            asked = await self._described([line.key for line in page if not line.etag], may_vanish=False)
            known = [ObjectInfo(line.key, line.size_bytes, line.etag, 0) for line in page if line.etag]
            yield sorted(asked + known, key=lambda info: info.key)

    async def _described(self, keys: builtins.list[str], *, may_vanish: bool) -> builtins.list[ObjectInfo]:
        """HEAD of each key in turn, several at once; markers are as they are."""
        free = asyncio.Semaphore(HEADS_AT_ONCE)

        async def describe(key: str) -> ObjectInfo | None:
            if key.endswith("/"):
                return ObjectInfo(key, 0, "", 0)
            async with free:
                try:
                    return await self.head(key)
                except NotFound:
                    if may_vanish:
                        return None  # removed since its directory was read, or a link that leads nowhere
                    raise StoreFailed(f"the index names {self._where(key)}, which does not exist.") from None

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(describe(key)) for key in keys]
        except* UnderStoreError as failures:
            first = failures.exceptions[0]
            assert isinstance(first, UnderStoreError)
            failure: UnderStoreError = first
        else:
            return [info for task in tasks if (info := task.result()) is not None]
        raise failure

    # Requests

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        url: URL,
        key: str,
        *,
        headers: Mapping[str, str] | None = None,
        accepts: frozenset[int] | set[int] = frozenset(),
    ) -> AsyncGenerator[Answer, None]:
        """Yield the answer of a 2xx, or of a status in `accepts`; follows redirects, raises what others mean."""
        credentials = authorization({**self._options, **self._secret_options.values()})
        for _ in range(REDIRECTS_MAX + 1):
            sent = dict(headers or {})
            if credentials and url.origin() == self._mount.root.origin():
                sent["Authorization"] = credentials
            async with self._client.request(method, url, headers=sent) as answer:
                if answer.status in _REDIRECTS:
                    url = self._redirected(url, answer, key)
                    continue
                if answer.status not in accepts and not 200 <= answer.status < 300:
                    raise self._refused(answer, key)
                yield answer
                return
        raise StoreFailed(f"{self._where(key)} leads through more than {REDIRECTS_MAX} redirects.")

    def _redirected(self, url: URL, answer: Answer, key: str) -> URL:
        try:
            target = url.join(URL(answer.headers.get("Location", ""), encoded=True)).with_fragment(None)
            is_usable = target.scheme in ("http", "https") and bool(target.host) and not target.user
        except ValueError:
            is_usable = False
        if not is_usable:
            raise StoreFailed(f"{self._where(key)} redirects to what is no http(s) URL.")
        if url.scheme == "https" and target.scheme == "http":
            raise StoreFailed(f"{self._where(key)} redirects from https to http, which is not followed.")
        if not key.endswith("/") and target.raw_path == f"{url.raw_path}/":
            raise NotFound(f"{self._where(key)} is a directory.")
        return target

    def _refused(self, answer: Answer, key: str) -> UnderStoreError:
        where, wait_seconds = self._where(key), retry_after_seconds(answer.headers)
        kind = _KIND_BY_STATUS.get(answer.status)
        if kind is Changed:
            return self._changed(key)
        if kind is NotFound:
            return NotFound(f"there is no file {where}.")
        if kind is AccessDenied:
            return AccessDenied(
                f"{where} was refused (HTTP {answer.status}): credentials are missing, wrong or lack it."
            )
        if kind is Throttled:
            return Throttled(
                f"{self._mount.root.authority} asks to slow down (HTTP {answer.status}).",
                retry_after_seconds=wait_seconds,
            )
        if kind is InvalidKey:
            return InvalidKey(f"{where} is longer than the server takes.")
        is_retryable = answer.status >= 500 or answer.status == 408
        return StoreFailed(
            f"{where} failed: HTTP {answer.status}.", retryable=is_retryable, retry_after_seconds=wait_seconds
        )

    def _url(self, key: str, *, is_directory: bool = False) -> URL:
        if is_directory:
            return URL(f"{self._mount.root}{_quoted(key)}/", encoded=True) if key else self._mount.root
        return URL(f"{self._mount.root}{_quoted(checked_key(key))}", encoded=True)

    def _where(self, key: str) -> str:
        return f"{self._mount.shown}{key}"

    def _changed(self, key: str) -> Changed:
        return Changed(f"{self._where(key)} is no longer the version that was asked for.")

    def _too_short(self, key: str, offset_bytes: int, size_bytes: int) -> ShortBody:
        return ShortBody(f"{self._where(key)} has no {size_bytes} bytes at {offset_bytes}.", retryable=False)

    def _read_only(self, key: str) -> ReadOnly:
        return ReadOnly(f"{self._where(key)} cannot be written: http(s) mounts are read-only.")


def _quoted(path: str) -> str:
    try:
        return quote(path, safe="/-_.~")
    except UnicodeEncodeError:
        raise InvalidKey(f"{path!r} is not text that a URL can hold.") from None


def _nanoseconds(modified: str) -> int:
    """Last-Modified in nanoseconds; 0 when there is none that makes sense."""
    try:
        moment = parsedate_to_datetime(modified)
    except ValueError:
        return 0
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()) * 1_000_000_000
