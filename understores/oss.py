"""Under store of Alibaba Cloud OSS: oss2 with signature V4, in threads of its own.

Owns requests for objects; option names are in `oss_settings.py`, error sentences in `bucket_errors.py`. Invariants:
reads carry If-Match and a body of the wrong length is an error; writes carry Content-MD5, so the store refuses bytes
that changed on the way; a caller that gave up is written to no more (`_Call`); credentials are never sent on by a
redirect; one layer retries (`retrying.py`); changed credential files are used by the next request.
"""

import asyncio
import builtins
import hashlib
import io
import threading
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any, Final, TypeVar
from xml.etree import ElementTree

from understores import oss_client
from understores.base import ObjectInfo, Piece, Source
from understores.bucket_errors import from_answer, unreachable
from understores.credentials import SecretOptions
from understores.errors import AccessDenied, Changed, InvalidKey, InvalidMount, ShortBody, StoreFailed, UnderStoreError
from understores.http_client import retry_after_seconds
from understores.keys import checked_key, levels_to_cut
from understores.oss_settings import OssKeys, OssMount, parse_keys, parse_mount
from understores.sources import from_thread, joined, pieces

MULTIPART_ABOVE_BYTES = 16 << 20
PART_BYTES = 16 << 20
PARTS_MAX: Final = 9_000  # OSS allows 10,000
PARTS_AT_ONCE: Final = 4
SERVER_COPY_BYTES_MAX = 1 << 30
"""CopyObject's limit between storage classes; larger objects are copied part by part, inside the store as well."""
COPY_PART_BYTES = 1 << 30
PAGE_KEYS = 1000
PIECE_BYTES: Final = 256 << 10
THREADS: Final = 32

# Without it OSS answers a range that is not inside the object with the whole object.
_STRICT_RANGE: Final = {"x-oss-range-behavior": "standard"}
T = TypeVar("T")


def open_oss(mount_point: str, options: Mapping[str, str], secret_options: SecretOptions) -> "OssStore":
    """Open an `oss://` mount; InvalidMount names a field that is wrong. No request is sent yet."""
    parse_keys({**options, **dict.fromkeys(secret_options.names, "set")})
    return OssStore(parse_mount(mount_point, options), options, secret_options)


class _Call:
    """One call into a thread; once its caller has given up, the thread must touch nothing of the caller's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_wanted = True

    def abandon(self) -> None:
        """Returns when the thread is not inside `wanted`."""
        with self._lock:
            self._is_wanted = False

    def check(self) -> None:
        """Raise when nobody waits any more."""
        with self.wanted():
            pass

    @contextmanager
    def wanted(self) -> Iterator[None]:
        """While inside, the caller's memory may be written; raises when nobody waits any more."""
        with self._lock:
            if not self._is_wanted:
                raise ShortBody("nobody waits for this request any more.")
            yield


class OssStore:
    """`UnderStore` over one bucket and prefix."""

    can_stream = True
    piece_bytes: int | None = None

    def __init__(self, mount: OssMount, options: Mapping[str, str], secret_options: SecretOptions) -> None:
        self._mount = mount
        self._options = dict(options)
        self._secret_options = secret_options
        self._threads: ThreadPoolExecutor | None = None
        self._session: Any = None
        self._opening = threading.Lock()
        self._keys: OssKeys | None = None
        self._bucket: Any = None

    def __repr__(self) -> str:
        return f"OssStore({self._mount!r})"

    async def list(self, prefix: str = "", *, start_after: str = "") -> AsyncGenerator[builtins.list[ObjectInfo], None]:
        token = ""
        while True:
            page, token = await self._run(self._page, prefix, start_after, token)
            if page:
                yield page
            if not token:
                return

    async def split_points(self, after: str, until: str) -> builtins.list[str]:
        for level in levels_to_cut(after, until):
            found = await self._run(self._directories, level, after)
            if points := [one for one in found if after < one and (not until or one < until)]:
                return points
        return []

    async def head(self, key: str) -> ObjectInfo:
        return await self._run(self._head, key)

    async def get_range(self, key: str, offset_bytes: int, buffer: memoryview, *, etag: str) -> None:
        await self._run(self._get_range, key, offset_bytes, buffer, etag)

    async def put(self, key: str, source: Source, size_bytes: int) -> ObjectInfo:
        return await self._run(self._put, key, source, size_bytes)

    async def put_pieces(self, key: str, pieces: AsyncIterator[Piece]) -> ObjectInfo:
        """See `StreamingStore`: at most 9,000 parts."""
        return await self._run(self._put_stream, key, from_thread(pieces, asyncio.get_running_loop()))

    async def copy(self, source: str, target: str) -> ObjectInfo:
        return await self._run(self._copy, source, target)

    async def delete(self, key: str) -> None:
        await self._run(self._delete, key)

    async def make_directory(self, path: str) -> None:
        """Nothing to do: directories are implied by keys."""

    async def remove_directory(self, path: str) -> None:
        """Nothing to do: a directory is gone with its last key."""

    async def close(self) -> None:
        threads, self._threads = self._threads, None
        if threads is not None:
            await asyncio.to_thread(threads.shutdown)
        if self._session is not None:
            self._session.session.close()
            self._session = self._bucket = None

    async def _run(self, function: Callable[..., T], *arguments: object) -> T:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="oss-store")
        call = _Call()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, call, *arguments)
        finally:
            call.abandon()

    # Listing; in threads from here on

    def _page(self, _: _Call, prefix: str, start_after: str, token: str) -> tuple[builtins.list[ObjectInfo], str]:
        result = self._listed(prefix, start_after, token, delimiter="")
        if result.is_truncated and not result.next_continuation_token:
            raise StoreFailed(f"the listing of bucket {self._mount.bucket!r} stops without saying how to go on.")
        lead = len(self._mount.prefix)
        page = [
            ObjectInfo(one.key[lead:], one.size, one.etag, one.last_modified * 1_000_000_000)
            for one in result.object_list
            if len(one.key) > lead
        ]
        return page, result.next_continuation_token if result.is_truncated else ""

    def _directories(self, _: _Call, level: str, after: str) -> builtins.list[str]:
        lead = len(self._mount.prefix)
        return [one[lead:] for one in self._listed(level, after, "", delimiter="/").prefix_list]

    def _listed(self, prefix: str, start_after: str, token: str, *, delimiter: str) -> Any:
        mount = self._mount
        with self._translated(prefix):
            try:
                result = self._opened().list_objects_v2(
                    prefix=mount.prefix + prefix,
                    delimiter=delimiter,
                    continuation_token=token,
                    start_after=mount.prefix + start_after if start_after and not token else "",
                    max_keys=PAGE_KEYS,
                )
            except (ElementTree.ParseError, ValueError, TypeError, AttributeError):
                result = None
        keys = [] if result is None else [*(one.key for one in result.object_list), *result.prefix_list]
        if result is None or not all(key.startswith(mount.prefix) for key in keys):
            raise StoreFailed(f"the listing of bucket {mount.bucket!r} is not OSS XML.", retryable=True)
        return result

    # Reading

    def _head(self, _: _Call, key: str) -> ObjectInfo:
        path = self._path(key)
        with self._translated(key):
            result = self._opened().head_object(path)
        if result.content_length is None or not result.etag or result.last_modified is None:
            raise StoreFailed(f"{self._where(key)} came without size, etag or time.", retryable=True)
        return ObjectInfo(key, result.content_length, result.etag, result.last_modified * 1_000_000_000)

    def _get_range(self, call: _Call, key: str, offset_bytes: int, buffer: memoryview, etag: str) -> None:
        path, size_bytes = self._path(key), len(buffer)
        if not size_bytes:
            self._require_version(call, key, etag)
            return
        last = offset_bytes + size_bytes - 1
        filled = 0
        with self._translated(key):
            try:
                result = self._opened().get_object(
                    path, byte_range=(offset_bytes, last), headers={"If-Match": etag, **_STRICT_RANGE}
                )
            except oss_client.ServerError as error:
                if error.status == 416:
                    self._require_version(call, key, etag)
                    raise self._too_short(key, offset_bytes, size_bytes) from None
                raise
            response = result.resp.response
            try:
                if result.etag != etag:
                    raise self._changed(key)
                if not (result.content_range or "").startswith(f"bytes {offset_bytes}-{last}/"):
                    raise self._too_short(key, offset_bytes, size_bytes)
                # As stored: an object may carry a Content-Encoding of its own.
                for piece in response.raw.stream(PIECE_BYTES, decode_content=False):
                    end = filled + len(piece)
                    if end > size_bytes:
                        raise ShortBody(f"{self._where(key)} sent more bytes than the range has.")
                    with call.wanted():
                        buffer[filled:end] = piece
                    filled = end
            finally:
                response.close()
        if filled < size_bytes:
            raise ShortBody(f"{self._where(key)} sent {filled} bytes of {size_bytes}.")

    def _require_version(self, call: _Call, key: str, etag: str) -> None:
        if self._head(call, key).etag != etag:
            raise self._changed(key)

    # Writing

    def _put(self, call: _Call, key: str, source: Source, size_bytes: int) -> ObjectInfo:
        path = self._path(key)
        if size_bytes <= MULTIPART_ABOVE_BYTES:
            body = b"".join(pieces(source, size_bytes))
            with self._translated(key):
                etag = self._opened().put_object(path, io.BytesIO(body), headers=_digest(body)).etag
        else:
            part_bytes = max(PART_BYTES, -(-size_bytes // PARTS_MAX))
            etag = self._put_parts(call, key, joined(pieces(source, size_bytes), part_bytes))
        return self._written(call, key, size_bytes, etag)

    def _put_stream(self, call: _Call, key: str, source: Iterator[Piece]) -> ObjectInfo:
        parts = joined(source, PART_BYTES)
        first = next(parts, b"")
        if len(first) < PART_BYTES:
            return self._put(call, key, io.BytesIO(first), len(first))
        sent = 0

        def counted() -> Iterator[bytes]:
            nonlocal sent
            for part in chain((first,), parts):
                sent += len(part)
                yield part

        etag = self._put_parts(call, key, counted())
        return self._written(call, key, sent, etag)

    def _written(self, call: _Call, key: str, size_bytes: int, etag: str) -> ObjectInfo:
        info = self._head(call, key)
        if info.size_bytes != size_bytes or info.etag != etag:
            raise Changed(f"{self._where(key)} was written by somebody else at the same time.")
        return info

    def _put_parts(self, call: _Call, key: str, bodies: Iterator[bytes]) -> str:
        path = self._path(key)

        def upload(bucket: Any, upload_id: str, number: int, body: bytes) -> str:
            return str(bucket.upload_part(path, upload_id, number, io.BytesIO(body), headers=_digest(body)).etag)

        return self._in_parts(call, key, bodies, upload)

    def _copy(self, call: _Call, source: str, target: str) -> ObjectInfo:
        info = self._head(call, source)
        origin, path = self._path(source), self._path(target)
        pinned = {"x-oss-copy-source-if-match": info.etag}
        if info.size_bytes <= SERVER_COPY_BYTES_MAX:
            with self._translated(source):
                self._opened().copy_object(self._mount.bucket, origin, path, headers=pinned)
        else:
            starts = range(0, info.size_bytes, COPY_PART_BYTES)
            spans = ((start, min(start + COPY_PART_BYTES, info.size_bytes) - 1) for start in starts)

            def upload(bucket: Any, upload_id: str, number: int, span: tuple[int, int]) -> str:
                copied = bucket.upload_part_copy(
                    self._mount.bucket, origin, span, path, upload_id, number, headers=pinned
                )
                return str(copied.etag)

            self._in_parts(call, target, spans, upload)
        copied = self._head(call, target)
        if copied.size_bytes != info.size_bytes:
            raise Changed(f"{self._where(source)} changed while it was copied.")
        return copied

    def _in_parts(self, call: _Call, key: str, parts: Iterator[T], upload: Callable[[Any, str, int, T], str]) -> str:
        """Upload `parts`, a few at a time, and make an object of them; its etag. What fails leaves nothing behind."""
        path = self._path(key)
        with self._translated(key), ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="oss-parts") as threads:
            upload_id = self._opened().init_multipart_upload(path).upload_id
            under_way: set[Future[str]] = set()
            uploaded: builtins.list[Future[str]] = []
            try:
                for number, part in enumerate(parts, 1):
                    call.check()
                    future = threads.submit(upload, self._opened(), upload_id, number, part)
                    uploaded.append(future)
                    under_way.add(future)
                    if len(under_way) >= PARTS_AT_ONCE:
                        done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                        for one in done:
                            one.result()
                found = [oss_client.part(number, one.result()) for number, one in enumerate(uploaded, 1)]
                call.check()
                return str(self._opened().complete_multipart_upload(path, upload_id, found).etag)
            except BaseException:
                wait(uploaded)
                with suppress(*oss_client.ERRORS):
                    self._opened().abort_multipart_upload(path, upload_id)
                raise

    def _delete(self, _: _Call, key: str) -> None:
        path = self._path(key)
        with self._translated(key):
            self._opened().delete_object(path)

    # Requests

    def _opened(self) -> Any:
        """oss2's bucket with the credentials of the moment."""
        keys = parse_keys({**self._options, **self._secret_options.values()})
        with self._opening:
            if self._bucket is None or keys != self._keys:
                if self._session is None:
                    self._session = oss_client.session(THREADS + PARTS_AT_ONCE)
                self._keys, self._bucket = keys, oss_client.bucket(self._mount, keys, self._session)
            return self._bucket

    def _path(self, key: str) -> str:
        return self._mount.prefix + checked_key(key)

    def _where(self, key: str) -> str:
        return f"{self._mount.url}{key}"

    def _changed(self, key: str) -> Changed:
        return Changed(f"{self._where(key)} is no longer the version that was asked for.")

    def _too_short(self, key: str, offset_bytes: int, size_bytes: int) -> ShortBody:
        return ShortBody(f"{self._where(key)} has no {size_bytes} bytes at {offset_bytes}.", retryable=False)

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        failure: UnderStoreError
        try:
            yield
            return
        except oss_client.ServerError as error:
            wait_seconds = retry_after_seconds(error.headers)
            failure = from_answer(self._mount, key, error.status, error.code, retry_after_seconds=wait_seconds)
        except oss_client.ERRORS as error:
            failure = self._without_answer(key, oss_client.fault(error))
        except UnicodeEncodeError:
            failure = InvalidKey(f"{key!r} is not text that OSS can hold.")
        except ValueError:
            # oss2 reads times and numbers out of headers as it makes a result of them.
            failure = StoreFailed(f"{self._where(key)} came with headers that make no sense.", retryable=True)
        raise failure

    def _without_answer(self, key: str, fault: oss_client.Fault) -> UnderStoreError:
        if fault is oss_client.Fault.CUT:
            return ShortBody(f"{self._where(key)}: the connection ended inside a body.")
        if fault is oss_client.Fault.REDIRECTED:
            return InvalidMount(f"{self._mount.endpoint} redirects bucket {self._mount.bucket!r}: check the endpoint.")
        if fault is oss_client.Fault.UNSENDABLE:
            return AccessDenied(f"the credentials for {self._mount.url} have characters that no credentials have.")
        return unreachable(self._mount)


# Bodies go out as files: of bytes, the socket's timeout would be that of all of them.


def _digest(body: bytes) -> dict[str, str]:
    return {"Content-MD5": b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()}
