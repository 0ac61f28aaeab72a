"""Retries: which, how many, when they stop. No store, no waiting."""

import io
from collections.abc import AsyncGenerator
from pathlib import Path
from random import Random
from typing import BinaryIO

import pytest

from understores.base import ObjectInfo, Source
from understores.credentials import SecretOptions
from understores.errors import AccessDenied, Changed, NotFound, StoreFailed, Throttled, UnderStoreError, Unreachable
from understores.posix import STREAM_PIECE_BYTES, open_posix
from understores.retrying import RetryBudget, RetryingStore, RetryPolicy

INFO = ObjectInfo("k", 1, "e", 1)


class ScriptedStore:
    """Fails as told, then works."""

    def __init__(self, *failures: UnderStoreError) -> None:
        self.failures = list(failures)
        self.calls = 0
        self.bodies: list[bytes] = []

    def _step(self) -> None:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)

    async def list(self, prefix: str = "", *, start_after: str = "") -> AsyncGenerator[list[ObjectInfo], None]:
        for name in ("a", "b", "c"):
            if name > start_after:
                self._step()
                yield [ObjectInfo(name, 1, "e", 1)]

    async def split_points(self, after: str, until: str) -> tuple[str, ...]:
        self._step()
        return ("b/",)

    async def head(self, key: str) -> ObjectInfo:
        self._step()
        return INFO

    async def get_range(self, key: str, offset_bytes: int, buffer: memoryview, *, etag: str) -> None:
        self._step()

    async def put(self, key: str, source: Source, size_bytes: int) -> ObjectInfo:
        assert not isinstance(source, int)
        self.bodies.append(source.read())
        self._step()
        return INFO

    async def copy(self, source: str, target: str) -> ObjectInfo:
        self._step()
        return INFO

    async def delete(self, key: str) -> None:
        self._step()

    async def make_directory(self, path: str) -> None:
        self._step()

    async def remove_directory(self, path: str) -> None:
        self._step()

    async def close(self) -> None:
        return None


def retrying(
    store: ScriptedStore, policy: RetryPolicy | None = None, secrets: SecretOptions | None = None
) -> tuple[RetryingStore, list[float]]:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    return RetryingStore(store, policy, secrets=secrets, jitter=Random(1), sleep=sleep), waits


async def test_retryable_failures_are_repeated_with_growing_waits() -> None:
    store = ScriptedStore(Unreachable("u"), Unreachable("u"), Unreachable("u"))
    subject, waits = retrying(store)
    assert await subject.head("k") == INFO
    assert store.calls == 4
    assert len(waits) == 3
    assert all(0.05 * 2**i <= wait <= 0.1 * 2**i for i, wait in enumerate(waits))


@pytest.mark.parametrize("error", [NotFound("n"), Changed("c")])
async def test_permanent_failures_are_not_repeated(error: UnderStoreError) -> None:
    store = ScriptedStore(error)
    subject, waits = retrying(store)
    with pytest.raises(type(error)):
        await subject.get_range("k", 0, memoryview(bytearray(1)), etag="e")
    assert (store.calls, waits) == (1, [])


async def test_tries_are_capped() -> None:
    store = ScriptedStore(*[Unreachable("u")] * 50)
    subject, _ = retrying(store, RetryPolicy(tries=3))
    with pytest.raises(Unreachable):
        await subject.delete("k")
    assert store.calls == 3


async def test_the_budget_ends_a_retry_storm() -> None:
    store = ScriptedStore(*[Throttled("slow")] * 100_000)
    subject, _ = retrying(store)
    for _ in range(1_000):
        with pytest.raises(Throttled):
            await subject.head("k")
    assert store.calls <= 1_000 * 1.1 + 20


def test_the_budget_earns_back() -> None:
    budget = RetryBudget(RetryPolicy(budget_ratio=0.5, budget_reserve=1))
    assert budget.spend()
    assert not budget.spend()
    budget.earn()
    assert not budget.spend()
    budget.earn()
    assert budget.spend()


async def test_a_listing_goes_on_behind_the_last_key() -> None:
    store = ScriptedStore()
    subject, waits = retrying(store)
    keys = []
    async for page in subject.list():
        keys += [info.key for info in page]
        if keys == ["a"]:
            store.failures.append(Unreachable("u"))
    assert keys == ["a", "b", "c"]
    assert len(waits) == 1


async def test_a_repeated_put_begins_at_the_sources_first_byte() -> None:
    store = ScriptedStore(Unreachable("u"))
    subject, _ = retrying(store)
    source: BinaryIO = io.BytesIO(b"..body")
    source.seek(2)
    await subject.put("k", source, 4)
    assert store.bodies == [b"body", b"body"]


async def test_an_operation_ends_at_its_deadline() -> None:
    class Silent(ScriptedStore):
        async def head(self, key: str) -> ObjectInfo:
            import asyncio

            await asyncio.Event().wait()
            return INFO

    subject, _ = retrying(Silent(), RetryPolicy(deadline_seconds=0.01))
    with pytest.raises(Unreachable, match="did not answer"):
        await subject.head("k")


async def test_what_the_store_asks_to_wait_is_waited_and_a_little_more() -> None:
    store = ScriptedStore(
        Throttled("t", retry_after_seconds=7), StoreFailed("s", retryable=True, retry_after_seconds=999)
    )
    subject, waits = retrying(store)
    await subject.head("k")
    assert 7 <= waits[0] <= 7 * 1.25
    assert 30 <= waits[1] <= 30 * 1.25


class SignedStore(ScriptedStore):
    """Refuses all but one key, and looks at the secret files with each request as a real store does."""

    def __init__(self, secrets: SecretOptions, accepted: str) -> None:
        super().__init__()
        self.secrets = secrets
        self.accepted = accepted

    def _step(self) -> None:
        super()._step()
        if self.secrets.values() != {"accessKeyId": self.accepted, "accessKeySecret": self.accepted}:
            raise AccessDenied("refused")


def secret_files(folder: Path, clock: list[float]) -> SecretOptions:
    for name in ("id", "key"):
        (folder / name).write_text("old")
    return SecretOptions(folder, {"accessKeyId": "id", "accessKeySecret": "key"}, clock=lambda: clock[0])


async def test_refusals_while_keys_rotate_are_retried_whatever_the_budget(tmp_path: Path) -> None:
    secrets = secret_files(tmp_path, [0.0])
    store = SignedStore(secrets, "old")
    subject, waits = retrying(store, RetryPolicy(budget_reserve=0, budget_ratio=0), secrets)
    await subject.head("k")
    store.accepted = "new1"
    step = store._step

    def rotate_after_signing() -> None:
        try:
            step()
        finally:
            for name in ("id", "key"):
                (tmp_path / name).write_text("new1")

    store._step = rotate_after_signing  # type: ignore[method-assign]
    await subject.head("k")
    assert (store.calls, waits) == (3, [])


async def test_files_written_one_after_the_other_are_waited_for_and_not_for_ever(tmp_path: Path) -> None:
    clock = [0.0]
    secrets = secret_files(tmp_path, clock)
    store = SignedStore(secrets, "old")
    subject, waits = retrying(store, None, secrets)
    await subject.head("k")
    store.accepted = "new1"
    (tmp_path / "id").write_text("new1")
    with pytest.raises(AccessDenied):
        await subject.head("k")
    assert len(waits) == 3
    clock[0] = 11.0
    waits.clear()
    with pytest.raises(AccessDenied):
        await subject.head("k")
    assert waits == []
    (tmp_path / "key").write_text("new1")
    await subject.head("k")


async def test_a_refusal_without_any_change_is_final(tmp_path: Path) -> None:
    secrets = secret_files(tmp_path, [0.0])
    store = SignedStore(secrets, "other")
    subject, waits = retrying(store, None, secrets)
    with pytest.raises(AccessDenied):
        await subject.head("k")
    assert (store.calls, waits) == (1, [])


def test_how_large_pieces_are_is_the_stores_own_matter(tmp_path: Path) -> None:
    directory = RetryingStore(open_posix(f"file://{tmp_path}", {}, SecretOptions()))
    assert directory.piece_bytes == STREAM_PIECE_BYTES
    assert retrying(ScriptedStore())[0].piece_bytes is None
