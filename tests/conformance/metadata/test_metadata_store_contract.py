"""Every rule of `metadata/stores/base.py`, on every store."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest
from msgspec import structs

from api.held import HeldName
from metadata.core.datasets import Dataset, LastListing, Mount, Specification
from metadata.core.entries import Changes, Entry, Kind
from metadata.core.held import HeldFile, HeldState, HeldTally, Turn
from metadata.core.left import LeftObject
from metadata.core.listing import ListingCounts
from metadata.core.listing_progress import ListingOrigin, ListingProgress, UnfinishedListing
from metadata.core.workers import Registration, Tier
from metadata.errors import NotFound, SettingsError, Unavailable
from metadata.stores.base import Store, Transaction
from metadata.stores.registry import open_store
from metadata.stores.sqlite import SqliteStore, require_version

Reopen = Callable[[], Store]
MOUNT = Mount("s3://b/p", "in", "m", {"endpoint": "http://x"}, {"accessKeyId": "ns/s/k"}, True)
SPECIFICATION = Specification("u1", "ns", "name", (MOUNT,), ("n1",), True, True, 2)


@pytest.fixture(params=["sqlite", "postgres"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reopen]:
    opened: list[Store] = []
    url = f"sqlite://{tmp_path}/meta.db"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_server").new_database()

    def open_again() -> Store:
        while opened:
            opened.pop().close()
        opened.append(open_store(url))
        return opened[-1]

    yield open_again
    while opened:
        opened.pop().close()


@pytest.fixture
def store(reopen: Reopen) -> Store:
    return reopen()


def do(store: Store, work: Callable[[Transaction], Any]) -> Any:
    (result,) = store.write([work])
    if isinstance(result, Exception):
        raise result
    return result


def file(path: str, size: int = 1, etag: str = "e") -> Entry:
    return Entry(path, Kind.FILE, size, etag, 7, 0o640)


def directory(path: str) -> Entry:
    return Entry(path, Kind.MADE, mode=0o755)


def apply(store: Store, dataset: Dataset, changes: Changes, version: int) -> None:
    do(store, lambda tx: tx.apply(dataset.id, changes, version))


def new_dataset(store: Store, uid: str = "u1") -> Dataset:
    dataset: Dataset = do(store, lambda tx: tx.put_dataset(Dataset(replace(SPECIFICATION, uid=uid))))
    return dataset


def test_datasets_are_kept_found_and_changed(reopen: Reopen) -> None:
    store = reopen()
    first = new_dataset(store)
    assert first.id
    changed = replace(
        first,
        version=3,
        files=4,
        bytes=5,
        synced_at_ns=6,
        error="E.",
        error_reason="R",
        listed_mounts=(MOUNT,),
        listing=LastListing(1, 2, 3, 4, 5, 6, 7),
    )
    do(store, lambda tx: tx.put_dataset(changed))
    second = new_dataset(store, "u2")
    store = reopen()
    assert store.read(lambda reader: reader.dataset("u1")) == changed
    assert store.read(lambda reader: reader.dataset("u3")) is None
    assert store.read(lambda reader: reader.dataset_named("ns", "name")) == second
    assert store.read(lambda reader: reader.dataset_named("ns", "no")) is None
    assert store.read(lambda reader: reader.datasets()) == [changed, second]


def test_entries_are_found_by_path_by_directory_and_by_subtree(store: Store) -> None:
    one, other = new_dataset(store), new_dataset(store, "u2")
    entries = [directory("a"), file("a/b", 2), directory("a/d"), file("a/d/e", 3), file("a-b", 4), file("ä", 5)]
    assert do(store, lambda tx: tx.apply(one.id, Changes(entries), 1)) == (4, 14)
    do(store, lambda tx: tx.apply(other.id, Changes([file("a")]), 1))
    stored = {entry.path: structs.replace(entry, version=1) for entry in entries}

    def check(reader: Any) -> None:
        assert reader.entry(one.id, "a/d/e") == stored["a/d/e"]
        assert reader.entry(one.id, "a/x") is None
        assert [entry.path for entry in reader.children(one.id, "")] == ["a", "a-b", "ä"]
        assert [entry.path for entry in reader.children(one.id, "", after="a", limit=1)] == ["a-b"]
        assert [entry.path for entry in reader.below(one.id, "a")] == ["a/b", "a/d", "a/d/e"]
        assert list(reader.below(one.id, "")) == [stored[p] for p in ("a", "a-b", "ä", "a/b", "a/d", "a/d/e")]
        assert (reader.bytes_below(one.id, "a"), reader.bytes_below(one.id, "")) == (5, 14)
        assert reader.etags(one.id, ["a", "a/b", "none", ""]) == {"a/b": "e"}

    store.read(check)


def test_changes_replace_remove_and_remember_what_was(store: Store) -> None:
    dataset = new_dataset(store)
    do(store, lambda tx: tx.apply(dataset.id, Changes([file("a", 1), file("b", 2), file("c", 3)]), 1))
    assert do(store, lambda tx: tx.apply(dataset.id, Changes([file("a", 10)], ["b"]), 2)) == (-1, 7)
    assert store.read(lambda reader: reader.entry(dataset.id, "a")) == structs.replace(file("a", 10), version=2)
    assert store.read(lambda reader: reader.replaced_since(dataset.id, 1)) == {"a", "b"}
    assert store.read(lambda reader: reader.replaced_since(dataset.id, 2)) == set()
    do(store, lambda tx: tx.forget_history(dataset.id, 2))
    assert store.read(lambda reader: reader.replaced_since(dataset.id, 0)) == set()


def test_a_staged_listing_is_sorted_deduplicated_adopted_and_dropped(store: Store) -> None:
    dataset = new_dataset(store)
    listing = do(store, lambda tx: tx.begin_listing())
    other = do(store, lambda tx: tx.begin_listing())
    assert other != listing
    do(store, lambda tx: tx.stage(listing, [file("x"), directory("d"), file("d/y", 2)]))
    do(store, lambda tx: tx.stage(listing, [directory("x"), file("d"), file("x/z", 3)]))
    do(store, lambda tx: tx.stage(other, [file("foreign")]))
    listed = store.read(lambda reader: list(reader.listed(listing)))
    assert [(entry.path, entry.is_directory) for entry in listed] == [
        ("d", True),
        ("x", True),
        ("d/y", False),
        ("x/z", False),
    ]
    assert do(store, lambda tx: tx.adopt_listing(dataset.id, listing, 1)) == (2, 5)
    for _ in range(2):
        do(store, lambda tx: tx.drop_listing(listing))
    assert [entry.path for entry in store.read(lambda reader: list(reader.below(dataset.id, "")))] == [
        "d",
        "x",
        "d/y",
        "x/z",
    ]
    assert store.read(lambda reader: reader.entry(dataset.id, "d/y")) == structs.replace(file("d/y", 2), version=1)


def test_a_listing_and_the_namespace_are_read_side_by_side(store: Store) -> None:
    dataset = new_dataset(store)
    names = [f"f{number:05}" for number in range(12_000)]
    apply(store, dataset, Changes([file(name) for name in names]), 1)
    listing = do(store, lambda tx: tx.begin_listing())
    do(store, lambda tx: tx.stage(listing, [file(name) for name in reversed(names)]))

    def check(reader: Any) -> None:
        both = zip(reader.below(dataset.id, ""), reader.listed(listing), strict=True)
        assert [one.path for one, other in both if one.path == other.path] == names

    store.read(check)
    do(store, check)


def test_staged_listings_do_not_outlive_a_restart(reopen: Reopen) -> None:
    store = reopen()
    first = do(store, lambda tx: tx.begin_listing())
    do(store, lambda tx: tx.stage(first, [file("x")]))
    store = reopen()
    again = do(store, lambda tx: tx.begin_listing())
    assert store.read(lambda reader: list(reader.listed(again))) == []


def test_a_listing_that_can_go_on_outlives_a_restart_with_its_progress(reopen: Reopen) -> None:
    store = reopen()
    origin = ListingOrigin("u1", 7, 3, (MOUNT,), 12)
    listing = do(store, lambda tx: tx.begin_listing(origin))
    lost = do(store, lambda tx: tx.begin_listing())
    do(store, lambda tx: tx.stage(lost, [file("lost")]))
    assert store.read(lambda reader: reader.unfinished_listings()) == [
        UnfinishedListing(listing, origin, ListingProgress())
    ]
    progress = ListingProgress(1, (("a", "b/"), ("b/", "")), ListingCounts(5, 6, 7, 8, 9, 10))
    do(store, lambda tx: tx.stage(listing, [file("x"), directory("d")], progress))

    def staged_and_lost(tx: Transaction) -> None:
        tx.stage(listing, [file("y")], ListingProgress(2))
        raise NotFound("no.")

    with pytest.raises(NotFound):
        do(store, staged_and_lost)
    store = reopen()
    assert store.read(lambda reader: reader.unfinished_listings()) == [UnfinishedListing(listing, origin, progress)]
    assert [one.path for one in store.read(lambda reader: list(reader.listed(listing)))] == ["d", "x"]
    again = do(store, lambda tx: tx.begin_listing(origin))
    assert again != listing
    do(store, lambda tx: tx.drop_listing(listing))
    do(store, lambda tx: tx.drop_listing(again))
    store = reopen()
    assert store.read(lambda reader: reader.unfinished_listings()) == []


def test_a_staging_file_that_is_damaged_or_of_another_version_begins_anew(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "meta.db")
    listing = do(store, lambda tx: tx.begin_listing(ListingOrigin("u1", 7, 3, (MOUNT,), 12)))
    store.close()
    connection = apsw.Connection(str(tmp_path / "meta.db.listing"))
    connection.execute("UPDATE unfinished SET origin = x'7b7d'")
    connection.close()
    store = SqliteStore(tmp_path / "meta.db")
    assert store.read(lambda reader: reader.unfinished_listings()) == []
    assert do(store, lambda tx: tx.begin_listing()) == listing
    store.close()
    (tmp_path / "meta.db.listing").write_bytes(b"no database" * 1000)
    store = SqliteStore(tmp_path / "meta.db")
    assert store.read(lambda reader: reader.unfinished_listings()) == []
    assert do(store, lambda tx: tx.begin_listing()) == 1
    store.close()


def test_a_work_that_fails_leaves_nothing_and_does_not_harm_the_others(store: Store) -> None:
    dataset = new_dataset(store)

    def bad(tx: Transaction) -> None:
        tx.apply(dataset.id, Changes([file("bad")]), 1)
        raise NotFound("no.")

    results = store.write(
        [
            lambda tx: tx.apply(dataset.id, Changes([file("one")]), 1),
            bad,
            lambda tx: [entry.path for entry in tx.children(dataset.id, "")],
        ]
    )
    assert results[0] == (1, 1)
    assert isinstance(results[1], NotFound)
    assert results[2] == ["one"]


def test_a_bug_in_one_work_commits_nothing(store: Store) -> None:
    dataset = new_dataset(store)

    def bug(tx: Transaction) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.write([lambda tx: tx.apply(dataset.id, Changes([file("one")]), 1), bug])
    assert store.read(lambda reader: reader.children(dataset.id, "")) == []
    do(store, lambda tx: tx.apply(dataset.id, Changes([file("two")]), 1))


def test_a_snapshot_stays_while_others_write(store: Store) -> None:
    dataset = new_dataset(store)
    with store.snapshot() as snapshot:
        assert snapshot.children(dataset.id, "") == []
        do(store, lambda tx: tx.apply(dataset.id, Changes([file("new")]), 1))
        assert snapshot.children(dataset.id, "") == []
    assert len(store.read(lambda reader: reader.children(dataset.id, ""))) == 1


def test_a_removed_dataset_is_purged_in_portions_also_after_a_restart(reopen: Reopen) -> None:
    store = reopen()
    one, other = new_dataset(store), new_dataset(store, "u2")
    for dataset in (one, other):
        apply(store, dataset, Changes([file(f"f{n}") for n in range(5)]), 1)
        apply(store, dataset, Changes(removals=["f0", "f1"]), 2)
    assert do(store, lambda tx: tx.remove_dataset("u1")) == one.id
    assert do(store, lambda tx: tx.remove_dataset("u1")) is None
    store = reopen()
    assert do(store, lambda tx: tx.orphans()) == [one.id]
    rounds = 0
    while do(store, lambda tx: tx.purge(one.id, 2)):
        rounds += 1
    assert rounds >= 2
    assert do(store, lambda tx: tx.orphans()) == []
    assert new_dataset(store).id not in (one.id, other.id)
    assert len(store.read(lambda reader: reader.children(other.id, ""))) == 3


def test_request_ids_are_remembered_within_bounds(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metadata.stores.sqlite_transaction.REQUESTS_KEPT", 3)
    monkeypatch.setattr("metadata.stores.postgres_transaction.REQUESTS_KEPT", 3)

    def remember(tx: Transaction) -> None:
        for number in range(5):
            tx.remember_request(f"r{number}", number)

    do(store, remember)
    found = store.read(lambda reader: [reader.request_version(f"r{number}") for number in range(5)])
    assert found == [None, None, 2, 3, 4]


def test_registrations_are_the_last_of_each_node(reopen: Reopen) -> None:
    store = reopen()
    last = Registration("n1", 2, "d:2", "c:2", (Tier("SSD", 1, 2, 3),))
    do(store, lambda tx: tx.put_registration(Registration("n1", 1, "d", "c")))
    do(store, lambda tx: tx.put_registration(last))
    assert reopen().read(lambda reader: reader.registrations()) == [last]


def test_a_database_file_has_one_owner_and_a_place(tmp_path: Path) -> None:
    first = SqliteStore(tmp_path / "meta.db")
    with pytest.raises(SettingsError, match="in use by another metadata process"):
        open_store(f"sqlite:///{tmp_path}/meta.db")
    (tmp_path / "noise.db").write_bytes(b"no database" * 1000)
    with pytest.raises(SettingsError, match=r"noise.db cannot be opened"):
        open_store(f"sqlite://{tmp_path}/noise.db")
    for url in ("sqlite://", "sqlite:///", "sqlite://host/x", "mysql://x"):
        with pytest.raises(SettingsError, match="usable"):
            open_store(url)
    first.close()


def test_a_full_disk_changes_nothing_and_is_over_when_there_is_room(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "full.db")
    dataset = new_dataset(store)
    pages: int = store._writer.execute("PRAGMA page_count").get
    store._writer.execute(f"PRAGMA max_page_count = {pages}")
    many = Changes([file(f"f{number:06}") for number in range(20_000)])
    with pytest.raises(Unavailable, match="disk of the metadata database is full; nothing was changed"):
        apply(store, dataset, many, 1)
    assert store.read(lambda reader: reader.children(dataset.id, "", limit=1)) == []
    store._writer.execute("PRAGMA max_page_count = 1000000")
    apply(store, dataset, many, 1)
    assert len(store.read(lambda reader: reader.children(dataset.id, ""))) == 20_000
    store.close()


def test_sqlite_versions_that_lose_commits_are_refused() -> None:
    require_version("3.51.3")
    require_version("3.54.1")
    for version in ("3.40.1", "3.51.2"):
        with pytest.raises(SettingsError, match=r"3\.51\.3 or newer"):
            require_version(version)


def _put_held(dataset_id: int, row: HeldFile, transaction: Transaction) -> None:
    transaction.put_held(dataset_id, row)


def _put_left(dataset_id: int, left: LeftObject, transaction: Transaction) -> None:
    transaction.put_left(dataset_id, left)


def _put_turn(dataset_id: int, path: str, turn: Turn, transaction: Transaction) -> None:
    transaction.put_turn(dataset_id, path, turn)


def test_held_versions_and_turns_are_kept_changed_and_forgotten(reopen: Reopen) -> None:
    store = reopen()
    one, other = new_dataset(store, "u1"), new_dataset(store, "u2")
    etag = HeldName("a" * 32, ("n1", "n2")).etag
    waiting = HeldFile(etag, "dir/ä", 5, left=("n1", "n2"))
    do(store, lambda tx: tx.put_held(one.id, waiting))
    turn = Turn("t1", "n1", 7, is_upload=True)
    for path in ("dir/ä", "b"):
        do(store, partial(_put_turn, one.id, path, turn))
    store = reopen()
    assert store.read(lambda reader: reader.held(one.id, etag)) == waiting
    assert store.read(lambda reader: reader.held(other.id, etag)) is None
    assert store.read(lambda reader: reader.turn(one.id, "dir/ä")) == turn
    assert store.read(lambda reader: reader.turn(other.id, "dir/ä")) is None
    newer = replace(turn, id="t2", is_upload=False)
    do(store, lambda tx: tx.put_turn(one.id, "b", newer))
    do(store, lambda tx: tx.end_turn(one.id, "t1"))
    do(store, lambda tx: tx.end_turn(one.id, "t1"))
    assert store.read(lambda reader: (reader.turn(one.id, "dir/ä"), reader.turn(one.id, "b"))) == (None, newer)
    # Only what ended, and has no holder left, is forgotten.
    gone = replace(waiting, state=HeldState.GONE, ended_at_ns=10)
    for row, is_kept in ((waiting, True), (gone, True), (replace(gone, left=()), False)):
        do(store, partial(_put_held, one.id, row))
        do(store, lambda tx: tx.forget_held(one.id, 10))
        assert store.read(lambda reader: reader.held(one.id, etag)) == row
        do(store, lambda tx: tx.forget_held(one.id, 11))
        assert store.read(lambda reader: reader.held(one.id, etag)) == (row if is_kept else None)
    do(store, lambda tx: tx.put_held(one.id, waiting))
    assert do(store, lambda tx: tx.put_dataset(replace(one, held=HeldTally(1, 5)))).held == HeldTally(1, 5)
    assert reopen().read(lambda reader: reader.dataset("u1")).held == HeldTally(1, 5)  # type: ignore[union-attr]


def test_left_objects_are_kept_changed_and_forgotten(reopen: Reopen) -> None:
    store = reopen()
    one, other = new_dataset(store, "u1"), new_dataset(store, "u2")
    first, second = LeftObject("dir/ä", "e", "n1", 3), LeftObject("b", "f", "n2", 4)
    for left in (first, second, replace(second, etag="g", is_gone=True)):
        do(store, partial(_put_left, one.id, left))
    store = reopen()
    second = replace(second, etag="g", is_gone=True)
    assert store.read(lambda reader: reader.left(one.id)) == [second, first]
    assert store.read(lambda reader: reader.left(other.id)) == []
    assert store.read(lambda reader: (reader.left_at(one.id, "b"), reader.left_at(other.id, "b"))) == (second, None)
    do(store, lambda tx: tx.put_left(other.id, first))
    found = store.read(lambda reader: reader.all_left())
    assert {uid: sorted(left, key=lambda each: each.path) for uid, left in found.items()} == {
        "u1": [second, first],
        "u2": [first],
    }
    for _ in range(2):
        do(store, lambda tx: tx.drop_left(one.id, "dir/ä"))
    assert store.read(lambda reader: reader.left(one.id)) == [second]
    # A dataset that was removed is nobody's concern any more.
    do(store, lambda tx: tx.remove_dataset("u2"))
    assert store.read(lambda reader: list(reader.all_left())) == ["u1"]


def test_an_etag_changes_and_the_entry_stays_the_one_it_was(store: Store) -> None:
    dataset = new_dataset(store)
    apply(store, dataset, Changes([directory("d"), file("d/a", etag="old"), file("b")]), 1)
    apply(store, dataset, Changes([file("b", 2)]), 2)
    do(store, lambda tx: tx.set_etag(dataset.id, "d/a", "new", 3))
    assert store.read(lambda reader: reader.entry(dataset.id, "d/a")) == structs.replace(
        file("d/a", etag="new"), version=1
    )
    assert store.read(lambda reader: reader.replaced_since(dataset.id, 2)) == {"d/a"}
    assert store.read(lambda reader: reader.replaced_since(dataset.id, 3)) == set()


def test_the_rows_of_a_removed_dataset_go_with_it(reopen: Reopen) -> None:
    store = reopen()
    dataset = new_dataset(store)
    etags = [HeldName(f"{number:032x}", ("n1", "n2")).etag for number in range(3)]
    for number, etag in enumerate(etags):
        do(store, partial(_put_held, dataset.id, HeldFile(etag, "a", 1)))
        do(store, partial(_put_turn, dataset.id, f"p{number}", Turn("t", "n1", 1)))
        do(store, partial(_put_left, dataset.id, LeftObject(f"l{number}", "e", "n1", 1)))
    assert do(store, lambda tx: tx.remove_dataset("u1")) == dataset.id
    store = reopen()
    assert do(store, lambda tx: tx.orphans()) == [dataset.id]
    while do(store, lambda tx: tx.purge(dataset.id, 2)):
        pass
    assert do(store, lambda tx: tx.orphans()) == []
    assert store.read(lambda reader: reader.held(dataset.id, etags[0])) is None
    assert store.read(lambda reader: reader.left(dataset.id)) == []
