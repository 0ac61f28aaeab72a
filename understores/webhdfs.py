"""Under store of HDFS over WebHDFS: `hdfs://namenode:8020/path`, `webhdfs://namenode:9870/path`.

Owns requests and the protocol's two steps: the namenode answers about names and sends whoever wants bytes to a
datanode. Settings are in `webhdfs_settings.py`, what its exceptions mean in `webhdfs_errors.py`. Invariants: HDFS has
no If-Match, so the file's id, length and time are looked at behind each read; a put is visible whole or not at all
(temporary name, then a rename over the target) and its blocks are synced to disk where the cluster knows how
(SYNC_BLOCK); of several namenodes the active one is found by asking.
"""

import asyncio
import builtins
import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, Final
from urllib.parse import quote, urlencode

from yarl import URL

from understores import tree_listing
from understores.base import ObjectInfo, Source
from understores.credentials import SecretOptions
from understores.errors import (
    AlreadyExists,
    BucketNotFound,
    Changed,
    InvalidKey,
    NotFound,
    ShortBody,
    StoreFailed,
    UnderStoreError,
    Unreachable,
)
from understores.http_client import Answer, HttpClient, content_length
from understores.keys import checked_key
from understores.posix_put import TEMPORARY_PREFIX
from understores.sources import pieces
from understores.tree_listing import Child
from understores.webhdfs_errors import Refused, refusal
from understores.webhdfs_settings import HdfsIdentity, HdfsMount, parse_identity, parse_mount

PAGE_ENTRIES = 1000
ANSWER_BYTES_MAX: Final = 64 << 20
"""A batch of a listing is 1,000 entries of at most a few hundred bytes; LISTSTATUS of old clusters is one answer."""
PART_BYTES = 256 << 20
"""One CREATE or APPEND writes so much: a datanode that dies costs a part's deadline, not a file's."""
COPY_PIECE_BYTES: Final = 4 << 20
CLEANUP_SECONDS: Final = 5.0


def open_webhdfs(mount_point: str, options: Mapping[str, str], secret_options: SecretOptions) -> "WebHdfsStore":
    """Open an `hdfs://` or `webhdfs://` mount; InvalidMount names a field that is wrong. No request is sent yet."""
    return WebHdfsStore(parse_mount(mount_point, options), options, secret_options)


class WebHdfsStore:
    """`UnderStore` over one directory of HDFS."""

    def __init__(self, mount: HdfsMount, options: Mapping[str, str], secret_options: SecretOptions) -> None:
        self._mount = mount
        self._options = dict(options)
        self._secret_options = secret_options
        self._client = HttpClient(mount.shown)
        self._active = 0
        self._has_batches = True

    def __repr__(self) -> str:
        return f"WebHdfsStore({self._mount!r})"

    async def list(self, prefix: str = "", *, start_after: str = "") -> AsyncGenerator[builtins.list[ObjectInfo], None]:
        walk = tree_listing.walk(self._children, prefix, start_after, page_entries=PAGE_ENTRIES)
        try:
            async with aclosing(walk) as pages:
                async for page in pages:
                    yield [
                        ObjectInfo(one.key, one.child.size_bytes, one.child.etag, one.child.mtime_ns) for one in page
                    ]
        except NotFound:
            raise BucketNotFound(f"the directory {self._mount.shown} of the mount does not exist.") from None

    async def split_points(self, after: str, until: str) -> builtins.list[str]:
        return await tree_listing.split_points(self._children, after, until)

    async def head(self, key: str) -> ObjectInfo:
        child = await self._status(self._path(key), key)
        if child.is_directory:
            raise NotFound(f"{self._where(key)} is a directory.")
        return ObjectInfo(key, child.size_bytes, child.etag, child.mtime_ns)

    async def get_range(self, key: str, offset_bytes: int, buffer: memoryview, *, etag: str) -> None:
        path, failure = self._path(key), None
        if len(buffer):
            try:
                await self._open(path, key, offset_bytes, buffer)
            except UnderStoreError as error:
                if error.retryable and not isinstance(error, ShortBody):
                    raise
                failure = error
        # HDFS sends what the path names at that moment; what is there now was there before, unless it is another file.
        info = await self.head(key)
        if info.etag != etag:
            raise Changed(f"{self._where(key)} is no longer the version that was asked for.")
        if offset_bytes + len(buffer) > info.size_bytes:
            raise ShortBody(f"{self._where(key)} has no {len(buffer)} bytes at {offset_bytes}.", retryable=False)
        if failure is not None:
            raise failure

    async def put(self, key: str, source: Source, size_bytes: int) -> ObjectInfo:
        return await self._put(key, pieces(source, size_bytes), size_bytes)

    async def copy(self, source: str, target: str) -> ObjectInfo:
        """HDFS cannot copy: the bytes pass through here."""
        self._path(target)
        info = await self.head(source)
        return await self._put(target, self._read_through(info), info.size_bytes)

    async def delete(self, key: str) -> None:
        path = self._path(key)
        with suppress(NotFound):
            if (await self._status(path, key)).is_directory:
                raise AlreadyExists(f"{self._where(key)} meets a directory in its place.")
            await self._ask("DELETE", path, key, op="DELETE", recursive="false")

    async def make_directory(self, path: str) -> None:
        await self._ask("PUT", self._path(path), path, op="MKDIRS")

    async def remove_directory(self, path: str) -> None:
        where = self._path(path)
        with suppress(NotFound):
            if not (await self._status(where, path)).is_directory:
                raise AlreadyExists(f"{self._where(path)} meets a file in its place.")
            await self._ask("DELETE", where, path, op="DELETE", recursive="false")

    async def close(self) -> None:
        await self._client.close()

    # Names

    async def _status(self, path: str, key: str) -> Child:
        answer = await self._ask("GET", path, key, op="GETFILESTATUS")
        return self._child(answer.get("FileStatus"), name=key.rpartition("/")[2])

    async def _children(self, path: str, after: str) -> AsyncGenerator[builtins.list[Child], None]:
        lead = f"{path}/" if path else ""
        where = f"{self._mount.root}/{path}".rstrip("/") or "/"
        name = after.partition("/")[0]
        # The namenode goes on behind a name; these sort before it, and their keys with the slash behind it.
        before = [name[:end] for end in range(1, len(name)) if name[end] < "/"]
        directories = [
            child
            for one in [*before, *([name] if name else [])]
            if (child := await self._directory(f"{lead}{one}")) is not None
        ]
        if directories:
            yield directories
        async for statuses in self._batches(where, path, name):
            found = [self._child(status) for status in statuses]
            if any(not child.name for child in found):
                raise NotFound(f"{self._where(path)} is a file.")  # which HDFS lists as its own only entry
            batch = [
                child
                for child in found
                if child.name > name and (child.is_directory or not child.name.startswith(TEMPORARY_PREFIX))
            ]
            if batch:
                yield batch

    async def _directory(self, key: str) -> Child | None:
        with suppress(NotFound):
            child = await self._status(f"{self._mount.root}/{key}", key)
            return child if child.is_directory else None
        return None

    async def _batches(self, where: str, key: str, after: str) -> AsyncGenerator[builtins.list[Any], None]:
        while self._has_batches:
            try:
                answer = await self._ask("GET", where, key, op="LISTSTATUS_BATCH", startAfter=after)
            except Refused as refused:
                if not refused.is_unknown_operation:
                    raise
                self._has_batches = False  # Hadoop before 3.0, HttpFS
                break
            listing = self._part(answer, "DirectoryListing", dict)
            statuses = self._statuses(self._part(listing, "partialListing", dict))
            if statuses:
                yield statuses
            if not listing.get("remainingEntries") or not statuses:
                return
            after = self._child(statuses[-1]).name
        statuses = self._statuses(await self._ask("GET", where, key, op="LISTSTATUS"))
        # It is in no promised order, and HDFS sorts by bytes as Python sorts text.
        yield sorted(statuses, key=lambda status: str(status.get("pathSuffix", "")) if isinstance(status, dict) else "")

    def _statuses(self, answer: dict[str, Any]) -> builtins.list[Any]:
        statuses: builtins.list[Any] = self._part(self._part(answer, "FileStatuses", dict), "FileStatus", builtins.list)
        return statuses

    def _part(self, answer: dict[str, Any], name: str, kind: type) -> Any:
        part = answer.get(name)
        if not isinstance(part, kind):
            raise StoreFailed(f"{self._mount.shown} answered without {name}.", retryable=True)
        return part

    def _child(self, status: object, *, name: str | None = None) -> Child:
        """An entry out of a FileStatus; its id, length and time are its version."""
        try:
            assert isinstance(status, dict)
            size_bytes, modified = int(status["length"]), int(status["modificationTime"])
            is_directory = status["type"] == "DIRECTORY"
            etag = "" if is_directory else f"{int(status.get('fileId', 0)):x}-{size_bytes:x}-{modified:x}"
            found = str(status["pathSuffix"]) if name is None else name
        except (AssertionError, KeyError, TypeError, ValueError):
            raise StoreFailed(f"{self._mount.shown} answered a FileStatus that is none.", retryable=True) from None
        return Child(found, is_directory, 0 if is_directory else size_bytes, etag, modified * 1_000_000)

    # Bytes

    async def _open(self, path: str, key: str, offset_bytes: int, buffer: memoryview) -> None:
        parameters = {"op": "OPEN", "offset": str(offset_bytes), "length": str(len(buffer))}
        url = await self._datanode("GET", path, key, parameters)
        async with self._request("GET", url, key) as answer:
            announced = content_length(answer.headers)
            if announced is not None and announced != len(buffer):
                raise ShortBody(f"{self._where(key)} announces {announced} bytes of {len(buffer)}.")
            await answer.fill(buffer, what=self._where(key))

    async def _put(self, key: str, source: Iterator[bytes], size_bytes: int) -> ObjectInfo:
        path = self._path(key)
        parent = path.rpartition("/")[0]
        with suppress(NotFound):
            if (await self._status(path, key)).is_directory:
                raise AlreadyExists(f"{self._where(key)} meets a directory in its place.")
        temporary = f"{parent}/{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
        try:
            await self._write(temporary, key, source, size_bytes)
            await self._ask("PUT", temporary, key, op="RENAME", destination=path, renameoptions="OVERWRITE")
        except BaseException:
            with suppress(UnderStoreError, TimeoutError):
                async with asyncio.timeout(CLEANUP_SECONDS):
                    await self._ask("DELETE", temporary, key, op="DELETE", recursive="false")
            raise
        info = await self.head(key)
        if info.size_bytes != size_bytes:
            raise Changed(f"{self._where(key)} was written by somebody else at the same time.")
        return info

    async def _write(self, temporary: str, key: str, source: Iterator[bytes], size_bytes: int) -> None:
        parameters = {"op": "CREATE", "overwrite": "false", "createflag": "CREATE,SYNC_BLOCK"}
        method, written = "PUT", 0
        bytes_left = _Cut(source)
        while True:
            part_bytes = min(PART_BYTES, size_bytes - written)
            url = await self._datanode(method, temporary, key, parameters)
            await self._send(method, url, key, bytes_left, part_bytes)
            written += part_bytes
            if written >= size_bytes:
                break
            method, parameters = "POST", {"op": "APPEND"}
        there = (await self._status(temporary, key)).size_bytes
        if there != size_bytes:
            raise ShortBody(f"{self._where(key)}: {there} bytes arrived of {size_bytes}.")

    async def _send(self, method: str, url: URL, key: str, source: "_Cut", part_bytes: int) -> None:
        failures: builtins.list[UnderStoreError] = []

        async def body() -> AsyncIterator[bytes]:
            left = part_bytes
            try:
                while left and (piece := await asyncio.to_thread(source.next, left)):
                    left -= len(piece)
                    yield piece
            except UnderStoreError as error:
                # The HTTP library would make a broken connection of it.
                failures.append(error)
                raise

        try:
            async with self._request(method, url, key, body=body(), body_bytes=part_bytes):
                pass
        except UnderStoreError:
            if failures:
                raise failures[0] from None
            raise

    def _read_through(self, info: ObjectInfo) -> Iterator[bytes]:
        """The file's bytes, for a thread that waits for this loop."""
        loop = asyncio.get_running_loop()

        def read() -> Iterator[bytes]:
            for offset in range(0, info.size_bytes, COPY_PIECE_BYTES):
                piece = bytearray(min(COPY_PIECE_BYTES, info.size_bytes - offset))
                reading = self.get_range(info.key, offset, memoryview(piece), etag=info.etag)
                asyncio.run_coroutine_threadsafe(reading, loop).result()
                yield bytes(piece)

        return read()

    # Requests

    async def _ask(self, method: str, path: str, key: str, **parameters: str) -> dict[str, Any]:
        """The JSON that a namenode answers; raises what it refuses."""
        async with self._at_namenode(method, path, key, parameters) as answer:
            body = await answer.text_bytes(ANSWER_BYTES_MAX)
        try:
            found = json.loads(body) if body else {}
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise StoreFailed(f"{self._mount.shown} answered what is not JSON: is WebHDFS there?", retryable=True)
        if found.get("boolean") is False and method == "PUT":
            raise StoreFailed(f"{self._where(key)}: {parameters['op']} was not done.")
        return found

    async def _datanode(self, method: str, path: str, key: str, parameters: Mapping[str, str]) -> URL:
        """Where a namenode sends whoever wants to read or write bytes."""
        async with self._at_namenode(method, path, key, parameters, accepts=frozenset({307})) as answer:
            if answer.status != 307:
                raise StoreFailed(f"{self._mount.shown} named no datanode for {self._where(key)}.", retryable=True)
            try:
                url = URL(answer.headers.get("Location", ""), encoded=True)
                is_usable = url.scheme in ("http", "https") and bool(url.host)
                is_usable = is_usable and not (answer.url.scheme == "https" and url.scheme == "http")
            except ValueError:
                is_usable = False
        if not is_usable:
            raise StoreFailed(f"{self._mount.shown} sent to a datanode that is no http(s) URL, or from https to http.")
        return url

    @asynccontextmanager
    async def _at_namenode(
        self,
        method: str,
        path: str,
        key: str,
        parameters: Mapping[str, str],
        *,
        accepts: frozenset[int] = frozenset(),
    ) -> AsyncGenerator[Answer, None]:
        """Yield the answer of the active namenode; each of the others is asked when one is in standby or away."""
        query = urlencode({**parameters, **self._identity()}, quote_via=quote, safe="")
        count = len(self._mount.namenodes)
        for left in reversed(range(count)):
            namenode = self._mount.namenodes[self._active % count]
            url = URL(f"{namenode}/webhdfs/v1{_quoted(path)}?{query}", encoded=True)
            try:
                async with self._request(method, url, key, accepts=accepts) as answer:
                    yield answer
                    return
            except UnderStoreError as error:
                if not left or not (
                    isinstance(error, Unreachable) or (isinstance(error, Refused) and error.is_standby)
                ):
                    raise
                self._active += 1

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        url: URL,
        key: str,
        *,
        body: AsyncIterator[bytes] | None = None,
        body_bytes: int = 0,
        accepts: frozenset[int] = frozenset(),
    ) -> AsyncGenerator[Answer, None]:
        async with self._client.request(method, url, body=body, body_bytes=body_bytes) as answer:
            if answer.status not in accepts and not 200 <= answer.status < 300:
                raise refusal(answer.status, await answer.start_of_body(64 << 10), answer.headers, self._where(key))
            yield answer

    def _identity(self) -> dict[str, str]:
        identity: HdfsIdentity = parse_identity({**self._options, **self._secret_options.values()})
        if identity.delegation_token:
            return {"delegation": identity.delegation_token}
        return {"user.name": identity.user} if identity.user else {}

    def _path(self, key: str) -> str:
        return f"{self._mount.root}/{checked_key(key)}"

    def _where(self, key: str) -> str:
        return f"{self._mount.shown}{key}"


class _Cut:
    """Pieces of a source, cut where a part ends."""

    def __init__(self, source: Iterator[bytes]) -> None:
        self._source = source
        self._rest = b""

    def next(self, bytes_max: int) -> bytes:
        """At most `bytes_max`, b"" at the end. Blocks."""
        piece = self._rest or next(self._source, b"")
        self._rest = piece[bytes_max:]
        return piece[:bytes_max]


def _quoted(path: str) -> str:
    try:
        return quote(path, safe="/-_.~")
    except UnicodeEncodeError:
        raise InvalidKey(f"{path!r} is not text that HDFS can hold.") from None
