"""Under store of S3 and what speaks its protocol: obstore for the bytes, our own listing for the names.

Owns requests for objects; option names are in `s3_settings.py`, error sentences in `bucket_errors.py`. Invariants:
reads carry If-Match and a body of the wrong length is an error; one layer retries (`retrying.py`), so obstore's
own retries are off; changed credential files are used by the next request.
"""

import asyncio
import builtins
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from understores.base import ObjectInfo, Piece, Source
from understores.bucket_errors import from_text
from understores.credentials import SecretOptions
from understores.errors import AccessDenied, Changed, InvalidKey, ShortBody, UnderStoreError
from understores.keys import checked_key
from understores.s3_listing import S3Lister
from understores.s3_settings import S3Keys, S3Mount, parse_keys, parse_mount
from understores.sources import pieces

if TYPE_CHECKING:
    from obstore.store import S3Credential  # exists for type checkers only

MULTIPART_ABOVE_BYTES: Final = 16 << 20
PART_BYTES: Final = 16 << 20
PARTS_MAX: Final = 9_000  # S3 allows 10,000
PARTS_AT_ONCE: Final = 4
SERVER_COPY_BYTES_MAX: Final = 5 << 30  # CopyObject's limit; above it the bytes pass through us
STREAM_PIECE_BYTES: Final = 1 << 20
STALL_SECONDS = 15.0


def open_s3(mount_point: str, options: Mapping[str, str], secret_options: SecretOptions) -> "S3UnderStore":
    """Open an `s3://` mount; InvalidMount names a field that is wrong. No request is sent yet."""
    store = S3UnderStore(parse_mount(mount_point, options), options, secret_options)
    parse_keys({**options, **dict.fromkeys(secret_options.names, "set")})
    return store


class S3UnderStore:
    """`UnderStore` over one bucket and prefix."""

    can_stream = True
    piece_bytes: int | None = None

    def __init__(self, mount: S3Mount, options: Mapping[str, str], secret_options: SecretOptions) -> None:
        self._mount = mount
        self._options = dict(options)
        self._secret_options = secret_options
        self._lister = S3Lister(mount)
        self._keys: S3Keys | None = None
        self._client: S3Store | None = None

    def __repr__(self) -> str:
        return f"S3UnderStore({self._mount!r})"

    async def list(self, prefix: str = "", *, start_after: str = "") -> AsyncGenerator[builtins.list[ObjectInfo], None]:
        async for page in self._lister.pages(self._current_keys(), prefix, start_after):
            yield page

    async def split_points(self, after: str, until: str) -> builtins.list[str]:
        return await self._lister.split_points(self._current_keys(), after, until)

    async def head(self, key: str) -> ObjectInfo:
        with self._translated(key):
            meta = await obstore.head_async(self._store(), checked_key(key))
        return ObjectInfo(key, meta["size"], meta["e_tag"] or "", _nanoseconds(meta["last_modified"]))

    async def get_range(self, key: str, offset_bytes: int, buffer: memoryview, *, etag: str) -> None:
        if not len(buffer):
            await self._require_version(key, etag)
            return
        span = (offset_bytes, offset_bytes + len(buffer))
        filled = 0
        with self._translated(key):
            answer = await obstore.get_async(self._store(), checked_key(key), options={"range": span, "if_match": etag})
            # Stores that ignore If-Match exist; the answer's own etag is the proof.
            if answer.meta["e_tag"] != etag:
                raise self._changed(key)
            if answer.range != span:
                raise ShortBody(f"{self._where(key)} has no {len(buffer)} bytes at {offset_bytes}.", retryable=False)
            async for piece in answer.stream(min_chunk_size=STREAM_PIECE_BYTES):
                end = filled + len(piece)
                if end > len(buffer):
                    raise ShortBody(f"{self._where(key)} sent more bytes than the range has.")
                buffer[filled:end] = piece
                filled = end
        if filled < len(buffer):
            raise ShortBody(f"{self._where(key)} sent {filled} bytes of {len(buffer)}.")

    async def put(self, key: str, source: Source, size_bytes: int) -> ObjectInfo:
        path = checked_key(key)
        with self._translated(key):
            if size_bytes <= MULTIPART_ABOVE_BYTES:
                body = await asyncio.to_thread(lambda: b"".join(pieces(source, size_bytes)))
                result = await obstore.put_async(self._store(), path, body, use_multipart=False)
            else:
                result = await obstore.put_async(
                    self._store(),
                    path,
                    _in_threads(pieces(source, size_bytes)),
                    use_multipart=True,
                    chunk_size=max(PART_BYTES, -(-size_bytes // PARTS_MAX)),
                    max_concurrency=PARTS_AT_ONCE,
                )
        return await self._written(key, size_bytes, result["e_tag"])

    async def _written(self, key: str, size_bytes: int, etag: str | None) -> ObjectInfo:
        info = await self.head(key)
        if info.size_bytes != size_bytes or etag not in (None, info.etag):
            raise Changed(f"{self._where(key)} was written by somebody else at the same time.")
        return info

    async def put_pieces(self, key: str, pieces: AsyncIterator[Piece]) -> ObjectInfo:
        """See `StreamingStore`. An upload in parts: at most 9,000 of 16 MiB."""
        path, sent = checked_key(key), 0

        async def counted() -> AsyncIterator[Piece]:
            nonlocal sent
            async for piece in pieces:
                sent += len(piece)
                yield piece

        with self._translated(key):
            result = await obstore.put_async(
                self._store(),
                path,
                counted(),
                use_multipart=True,
                chunk_size=PART_BYTES,
                max_concurrency=PARTS_AT_ONCE,
            )
        return await self._written(key, sent, result["e_tag"])

    async def copy(self, source: str, target: str) -> ObjectInfo:
        info = await self.head(source)
        with self._translated(source):
            store, path = self._store(), checked_key(target)
            if info.size_bytes <= SERVER_COPY_BYTES_MAX:
                await obstore.copy_async(store, checked_key(source), path)
            else:
                answer = await obstore.get_async(store, checked_key(source), options={"if_match": info.etag})
                await obstore.put_async(
                    store,
                    path,
                    answer.stream(min_chunk_size=STREAM_PIECE_BYTES),
                    use_multipart=True,
                    chunk_size=max(PART_BYTES, -(-info.size_bytes // PARTS_MAX)),
                    max_concurrency=PARTS_AT_ONCE,
                )
        copied = await self.head(target)
        if copied.size_bytes != info.size_bytes:
            raise Changed(f"{self._where(source)} changed while it was copied.")
        return copied

    async def delete(self, key: str) -> None:
        try:
            with self._translated(key):
                await obstore.delete_async(self._store(), checked_key(key))
        except UnderStoreError as error:
            if error.reason != "NotFound":
                raise

    async def make_directory(self, path: str) -> None:
        """Nothing to do: directories are implied by keys."""

    async def remove_directory(self, path: str) -> None:
        """Nothing to do: a directory is gone with its last key."""

    async def close(self) -> None:
        await self._lister.close()
        self._client = None

    async def _require_version(self, key: str, etag: str) -> None:
        if (await self.head(key)).etag != etag:
            raise self._changed(key)

    def _changed(self, key: str) -> Changed:
        return Changed(f"{self._where(key)} is no longer the version that was asked for.")

    def _current_keys(self) -> S3Keys | None:
        return parse_keys({**self._options, **self._secret_options.values()})

    def _store(self) -> S3Store:
        keys = self._current_keys()
        if self._client is None or keys != self._keys:
            self._keys, self._client = keys, _client(self._mount, keys)
        return self._client

    def _where(self, key: str) -> str:
        return f"{self._mount.url}{key}"

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, FileNotFoundError, PermissionError) as error:
            raise from_text(self._mount, key, str(error)) from None
        except ValueError:
            raise InvalidKey(f"{key!r} is not a key this store can address.") from None


def _client(mount: S3Mount, keys: S3Keys | None) -> S3Store:
    def credentials() -> "S3Credential":
        if keys is None:
            raise AccessDenied(f"bucket {mount.bucket!r} is opened without credentials.")
        return {
            "access_key_id": keys.access_key_id,
            "secret_access_key": keys.secret_access_key,
            "token": keys.session_token or None,
            "expires_at": None,
        }

    return S3Store(
        mount.bucket,
        prefix=mount.prefix.rstrip("/") or None,
        config={
            "endpoint": mount.bucket_url if mount.is_virtual_hosted else mount.endpoint,
            "region": mount.region,
            "virtual_hosted_style_request": mount.is_virtual_hosted,
            "skip_signature": keys is None,
            # DeleteObjects is a POST that not every S3-like store has.
            "disable_bulk_delete": True,
        },
        client_options={
            "allow_http": True,
            "connect_timeout": timedelta(seconds=5),
            "read_timeout": timedelta(seconds=STALL_SECONDS),
            # The whole request: the deadline in retrying.py is the tighter one.
            "timeout": timedelta(hours=1),
        },
        retry_config={"max_retries": 0},
        # The environment's AWS_* variables must never meet a mount's own keys.
        credential_provider=credentials,
    )


async def _in_threads(source: Iterator[bytes]) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(next, source, b""):
        yield piece


def _nanoseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000) * 1000
