"""What watchers are told: all of it at first, then what changes, each read once for everybody."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.gen import metadata_pb2 as pb
from metadata.core.datasets import Dataset, Specification
from metadata.errors import Unavailable
from metadata.shell import watchers as module
from metadata.shell.watchers import Subscription, Watchers
from metadata.stores.base import Reader

T = TypeVar("T")


@dataclass
class Store:
    """A database of records, whose reads take a while."""

    records: dict[str, Dataset] = field(default_factory=dict)
    reads: int = 0
    fails: bool = False

    async def read(self, work: Callable[[Reader], T]) -> T:
        self.reads += 1
        await asyncio.sleep(0)
        if self.fails:
            raise Unavailable("the database does not answer")
        found = work(cast(Reader, self))
        await asyncio.sleep(0)
        return found

    def datasets(self) -> list[Dataset]:
        return list(self.records.values())

    def dataset(self, uid: str) -> Dataset | None:
        return self.records.get(uid)

    def put(self, uid: str, version: int) -> None:
        self.records[uid] = Dataset(Specification(uid=uid, namespace="ns", name=uid, mounts=()), version=version)


@asynccontextmanager
async def running(store: Store) -> AsyncIterator[Watchers]:
    watchers = Watchers()
    task = asyncio.create_task(watchers.run(cast(Any, store.read)))
    try:
        yield watchers
    finally:
        task.cancel()
        await asyncio.wait({task})


async def told(subscription: Subscription, known: dict[str, int]) -> list[pb.DatasetStates]:
    """Take one answer of the subscription into what its watcher knows."""
    async with asyncio.timeout(5):
        messages = await subscription.next_messages()
    for message in messages:
        for state in message.datasets:
            if state.removed:
                known.pop(state.uid, None)
            else:
                known[state.uid] = state.snapshot_version
    return messages


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_change_is_read_once_for_all_watchers() -> None:
    store = Store()
    store.put("a", 1)
    async with running(store) as watchers:
        contexts = [watchers.subscribe() for _ in range(50)]
        subscriptions = [context.__enter__() for context in contexts]
        known: list[dict[str, int]] = [{} for _ in subscriptions]
        for subscription, its in zip(subscriptions, known, strict=True):
            await told(subscription, its)
        assert store.reads == 1
        store.put("a", 2)
        store.put("b", 1)
        watchers.changed("a")
        watchers.changed("b")
        for subscription, its in zip(subscriptions, known, strict=True):
            await told(subscription, its)
        assert store.reads == 2
        assert known == [{"a": 2, "b": 1}] * 50
        for context in contexts:
            context.__exit__(None, None, None)
        watchers.changed("a")
        await settle()
        assert store.reads == 2, "nobody watches"


async def test_the_first_state_says_where_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MESSAGE_STATES", 2)
    store = Store()
    async with running(store) as watchers:
        with watchers.subscribe() as subscription:
            assert await told(subscription, {}) == [pb.DatasetStates()]
        for number in range(5):
            store.put(f"d{number}", 1)
            watchers.changed(f"d{number}")
        with watchers.subscribe() as subscription:
            known: dict[str, int] = {}
            messages = await told(subscription, known)
            assert [message.more for message in messages] == [True, True, False]
            assert known == dict.fromkeys(store.records, 1)
            store.put("d0", 2)
            watchers.changed("d0")
            (message,) = await told(subscription, known)
            assert not message.more


async def test_what_mounts_need_not_know_is_not_told() -> None:
    store = Store()
    store.put("a", 1)
    async with running(store) as watchers:
        with watchers.subscribe() as subscription:
            await told(subscription, {})
            store.records["a"] = replace(store.records["a"], error="the listing failed")
            watchers.changed("a")
            store.put("b", 1)
            await settle()
            watchers.changed("b")
            (message,) = await told(subscription, {})
            assert [state.uid for state in message.datasets] == ["b"]


async def test_watches_end_when_nothing_can_be_read_and_the_next_begins_anew() -> None:
    store = Store()
    store.put("a", 1)
    async with running(store) as watchers:
        with watchers.subscribe() as subscription:
            await told(subscription, {})
            store.fails = True
            watchers.changed("a")
            with pytest.raises(Unavailable):
                await told(subscription, {})
            assert subscription.is_closed
        with watchers.subscribe() as another, pytest.raises(Unavailable):
            await told(another, {})
        store.fails = False
        store.put("a", 7)
        with watchers.subscribe() as subscription:
            (message,) = await told(subscription, {})
            assert [state.snapshot_version for state in message.datasets] == [7]


async def test_a_stop_ends_watches_those_to_come_too() -> None:
    async with running(Store()) as watchers:
        with watchers.subscribe() as subscription:
            watchers.close()
            assert await told(subscription, {}) == [] and subscription.is_closed
        with watchers.subscribe() as subscription:
            assert await told(subscription, {}) == [] and subscription.is_closed


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 3)),
        st.tuples(st.just("remove"), st.integers(0, 3)),
        st.tuples(st.just("watch"), st.integers(0, 2)),
        st.tuples(st.just("leave"), st.integers(0, 2)),
        st.tuples(st.just("listen"), st.integers(0, 2)),
        st.tuples(st.just("turn"), st.integers(1, 4)),
    ),
    max_size=60,
)


@given(STEPS)
async def test_in_the_end_every_watcher_knows_what_there_is(steps: list[tuple[str, int]]) -> None:
    store, version = Store(), 0
    open_: dict[int, tuple[Any, Subscription, dict[str, int]]] = {}

    async def listen(number: int) -> None:
        _, subscription, known = open_[number]
        while subscription._wake.is_set():
            before = dict(known)
            await told(subscription, known)
            assert all(known.get(uid, one) >= one for uid, one in before.items()), "never back to an older one"

    async with running(store) as watchers:
        for what, number in steps:
            if what == "put":
                version += 1
                store.put(f"d{number}", version)
                watchers.changed(f"d{number}")
            elif what == "remove":
                store.records.pop(f"d{number}", None)
                watchers.changed(f"d{number}")
            elif what == "watch" and number not in open_:
                context = watchers.subscribe()
                open_[number] = (context, context.__enter__(), {})
            elif what == "leave" and number in open_:
                open_.pop(number)[0].__exit__(None, None, None)
            elif what == "listen" and number in open_:
                await listen(number)
            elif what == "turn":
                for _ in range(number):
                    await asyncio.sleep(0)
        await settle()
        for number, (context, _, known) in open_.items():
            await listen(number)
            assert known == {uid: each.version for uid, each in store.records.items()}
            context.__exit__(None, None, None)
