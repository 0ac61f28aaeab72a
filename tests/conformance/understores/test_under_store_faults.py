"""Every store over a network that breaks: right bytes or one clear error, never a short or mixed file.

Each fault says that it was injected. Faults of a directory are in test_posix_store.py.
"""

import contextlib
import io
import os
from typing import Any

import pytest

from tests.builders.fault_proxy import Fault, Kind
from understores.base import ObjectInfo
from understores.errors import (
    AccessDenied,
    Changed,
    NotFound,
    ShortBody,
    StoreFailed,
    Throttled,
    UnderStoreError,
    Unreachable,
)
from understores.retrying import RetryPolicy

pytestmark = pytest.mark.filterwarnings("default")  # moto's server warns of its own libraries

SIZE = 200_000
IN_A_BODY = [Kind.STALL, Kind.STALL_AT_ONCE, Kind.RESET, Kind.SHORT_BODY, Kind.SHORT_LENGTH, Kind.LONG_LENGTH]
PASSING_STATUS = [429, 500, 502, 503, 504]


async def written(proxied: Any, key: str, body: bytes) -> ObjectInfo:
    proxied.mounted.write(key, body)
    info: ObjectInfo = await proxied.mounted.store.head(key)
    return info


async def read(proxied: Any, info: ObjectInfo) -> bytes:
    buffer = bytearray(info.size_bytes)
    await proxied.mounted.store.get_range(info.key, 0, memoryview(buffer), etag=info.etag)
    return bytes(buffer)


def inject(proxied: Any, matches: Any, kind: Kind, **settings: Any) -> Fault:
    fault = Fault(kind, matches, **settings)
    proxied.proxy.faults.append(fault)
    return fault


@pytest.mark.parametrize("kind", IN_A_BODY)
async def test_a_broken_read_is_repeated_and_gives_the_right_bytes(proxied: Any, kind: Kind) -> None:
    body = os.urandom(SIZE)
    info = await written(proxied, "key", body)
    fault = inject(proxied, proxied.reads("key"), kind)
    assert await read(proxied, info) == body
    assert fault.injected == 1
    assert len(proxied.waits) == 1


@pytest.mark.parametrize("status", PASSING_STATUS)
async def test_a_status_that_passes_is_waited_for_as_the_store_asks(proxied: Any, status: int) -> None:
    info = await written(proxied, "key", b"bytes")
    fault = inject(proxied, proxied.reads("key"), Kind.STATUS, status=status, times=2, headers={"Retry-After": "7"})
    assert await read(proxied, info) == b"bytes"
    assert fault.injected == 2
    # obstore, which reads from S3, does not show an answer's headers.
    least = 0.05 if proxied.mounted.scheme == "s3" else 7
    assert len(proxied.waits) == 2
    assert all(least <= wait <= 7 * 1.25 for wait in proxied.waits)


@pytest.mark.parametrize(
    ("kind", "status", "expected"),
    [
        (Kind.STALL_AT_ONCE, 0, (Unreachable,)),
        (Kind.RESET, 0, (Unreachable, ShortBody)),
        (Kind.SHORT_BODY, 0, (Unreachable, ShortBody)),
        (Kind.SHORT_LENGTH, 0, (ShortBody,)),
        (Kind.STATUS, 500, (StoreFailed,)),
        (Kind.STATUS, 503, (Throttled,)),
    ],
)
async def test_a_fault_that_stays_ends_in_one_sentence(
    proxied: Any, kind: Kind, status: int, expected: tuple[type[UnderStoreError], ...]
) -> None:
    proxied.mounted.store._policy = RetryPolicy(tries=2)
    info = await written(proxied, "key", os.urandom(SIZE))
    fault = inject(proxied, proxied.reads("key"), kind, status=status, times=99, body=b"canary-of-server")
    with pytest.raises(expected) as error:
        await read(proxied, info)
    assert fault.injected == 2
    message = error.value.message
    assert message.endswith(".") and "\n" not in message and "canary" not in message
    assert error.value.retryable


@pytest.mark.parametrize(
    ("status", "expected"),
    [(401, AccessDenied), (403, AccessDenied), (404, NotFound), (412, Changed), (400, StoreFailed)],
)
async def test_a_refusal_is_final_and_says_which(proxied: Any, status: int, expected: type[UnderStoreError]) -> None:
    if (status, proxied.mounted.scheme) == (412, "webhdfs"):
        expected = StoreFailed  # WebHDFS has no preconditions
    info = await written(proxied, "key", b"bytes")
    fault = inject(proxied, proxied.reads("key"), Kind.STATUS, status=status, times=99, body=b"canary-of-server")
    with pytest.raises(expected) as error:
        await read(proxied, info)
    assert (fault.injected, proxied.waits) == (1, [])
    assert not error.value.retryable
    assert "key" in error.value.message and "canary" not in error.value.message


async def test_an_object_that_changes_while_it_is_read_is_of_one_version_or_an_error(proxied: Any) -> None:
    old, new = b"o" * SIZE, b"n" * SIZE
    info = await written(proxied, "key", old)
    fault = inject(proxied, proxied.reads("key"), Kind.HOOK, hook=lambda: proxied.mounted.write("key", new))
    with contextlib.suppress(Changed):
        assert await read(proxied, info) == old
    assert fault.injected == 1
    with pytest.raises(Changed):
        await read(proxied, info)
    assert await read(proxied, await proxied.mounted.store.head("key")) == new


@pytest.mark.parametrize("kind", [Kind.SHORT_BODY, Kind.RESET, Kind.STALL_AT_ONCE, Kind.STATUS])
async def test_a_broken_listing_goes_on_and_is_whole(proxied: Any, kind: Kind) -> None:
    names = [f"d/{i:03}" for i in range(150)]
    for name in names:
        proxied.mounted.write(name, b"x")
    fault = inject(proxied, proxied.lists(), kind, status=500, times=2)
    found = [info.key async for page in proxied.mounted.store.list() for info in page]
    assert found == names
    assert fault.injected == 2


@pytest.mark.parametrize(
    ("kind", "size"),
    [(Kind.STALL_AT_ONCE, 100_000), (Kind.RESET, 100_000), (Kind.RESET, 6_000_000), (Kind.STATUS, 6_000_000)],
)
async def test_a_broken_write_is_repeated_and_is_whole(
    writable_proxied: Any, kind: Kind, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("s3.PART_BYTES", "s3.MULTIPART_ABOVE_BYTES", "oss.PART_BYTES", "oss.MULTIPART_ABOVE_BYTES"):
        monkeypatch.setattr(f"understores.{name}", 5 << 20)
    monkeypatch.setattr("understores.webhdfs.PART_BYTES", 5 << 20)
    store = writable_proxied.mounted.store
    await store.put("key", io.BytesIO(b"old"), 3)
    body = os.urandom(1000) * (size // 1000)
    fault = inject(writable_proxied, writable_proxied.writes(), kind, status=503)
    info = await store.put("key", io.BytesIO(body), len(body))
    assert fault.injected == 1
    assert await read(writable_proxied, info) == body
    assert [one.key async for page in store.list() for one in page] == ["key"]


async def test_a_write_that_cannot_be_done_leaves_the_old_object(writable_proxied: Any) -> None:
    store = writable_proxied.mounted.store
    old = await store.put("key", io.BytesIO(b"old"), 3)
    fault = inject(writable_proxied, writable_proxied.writes(), Kind.STATUS, status=500, times=99)
    with pytest.raises(StoreFailed):
        await store.put("key", io.BytesIO(b"new"), 3)
    assert fault.injected == RetryPolicy().tries
    fault.times = 0
    assert await store.head("key") == old
    assert [one.key async for page in store.list() for one in page] == ["key"]
