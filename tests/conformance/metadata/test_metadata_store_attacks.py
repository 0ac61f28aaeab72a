"""What was thrown at the stores to break them: odd names, values no column holds, damage, a server in trouble.

Each rule is of both stores, unless its name says of which. What a store must do is in test_metadata_store_contract.py.
"""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from psycopg import Connection

from metadata.core.datasets import Dataset
from metadata.core.entries import Changes
from metadata.errors import InvalidRequest, Unavailable
from metadata.stores.base import Reader, Store
from metadata.stores.postgres import PostgresStore
from metadata.stores.registry import open_store
from tests.builders.postgres import PostgresServer
from tests.conformance.metadata.test_metadata_store_contract import (
    apply,
    do,
    file,
    new_dataset,
    reopen,
    store,
)

__all__ = ["reopen", "store"]  # fixtures

ODD = [
    "\U0010ffff",
    "\U0010ffff\U0010ffff",
    "\U0010fffe",
    "\ud7ff",
    "\ue000",
    "A",
    "a",
    "É",
    "e\u0301",
    "\x01",
    "\x7f\n",
]


def everything(reader: Reader, dataset: Dataset) -> list[str]:
    return [entry.path for entry in reader.below(dataset.id, "")]


def test_no_name_is_left_out_of_what_lies_below_the_root(store: Store) -> None:
    dataset = new_dataset(store)
    names = [*ODD, *(f"{top}/{name}" for top in ODD for name in ODD)]
    listing = do(store, lambda tx: tx.begin_listing())
    apply(store, dataset, Changes([file(name) for name in names]), 1)
    do(store, lambda tx: tx.stage(listing, [file(name) for name in names]))
    in_order = sorted(names, key=lambda path: path.rpartition("/")[::2])
    assert store.read(lambda reader: everything(reader, dataset)) == in_order
    assert store.read(lambda reader: [entry.path for entry in reader.listed(listing)]) == in_order
    assert store.read(lambda reader: reader.bytes_below(dataset.id, "")) == len(names)


def refused_values() -> dict[str, Callable[[Any, Dataset], Any]]:
    """Works with values that PostgreSQL has no room for; SQLite takes them."""
    segments = "/".join(os.urandom(100).hex() for _ in range(20))
    return {
        "NUL in an etag": lambda tx, dataset: tx.apply(dataset.id, Changes([file("n", 1, "e\0")]), 5),
        "NUL in a request id": lambda tx, _: tx.remember_request("r\0", 1),
        "a request id of a megabyte": lambda tx, _: tx.remember_request(os.urandom(500_000).hex(), 1),
        "NUL in a turn's id": lambda tx, dataset: tx.end_turn(dataset.id, "t\0"),
        # 4,019 bytes that cannot be packed: an index row holds 2,704.
        "a long path": lambda tx, dataset: tx.apply(dataset.id, Changes([file(segments)]), 5),
    }


@pytest.mark.parametrize("what", refused_values())
def test_a_value_that_postgres_cannot_hold_is_the_fault_of_its_own_work_alone(
    postgres_server: PostgresServer, what: str
) -> None:
    store = open_store(postgres_server.new_database())
    try:
        dataset = new_dataset(store)
        work = refused_values()[what]
        before, refused, after = store.write(
            [
                lambda tx: tx.apply(dataset.id, Changes([file("before")]), 1),
                lambda tx: work(tx, dataset),
                lambda tx: tx.apply(dataset.id, Changes([file("after")]), 2),
            ]
        )
        assert (before, after) == ((1, 1), (1, 1))
        # Not Unavailable: a client would send it again and again.
        assert isinstance(refused, InvalidRequest)
        assert "the metadata database cannot hold that" in refused.message
        assert store.read(lambda reader: everything(reader, dataset)) == ["after", "before"]
    finally:
        store.close()


def test_a_question_with_a_value_that_postgres_cannot_hold_is_refused(postgres_server: PostgresServer) -> None:
    store = open_store(postgres_server.new_database())
    try:
        for ask in (
            lambda reader: reader.dataset("\0"),
            lambda reader: reader.dataset_named("\0", "x"),
            lambda reader: reader.request_version("\0"),
            lambda reader: reader.held(1, "\0"),
        ):
            with pytest.raises(InvalidRequest, match="the metadata database cannot hold that"):
                store.read(ask)
        assert store.read(lambda reader: reader.datasets()) == []
    finally:
        store.close()


TROUBLE = {
    "25006": "a server that only reads: a standby that was made from it",
    "25P03": "a transaction that was idle for too long",
    "40P01": "a deadlock",
    "53100": "a full disk",
    "53200": "no memory",
    "54001": "a stack that is too deep",
    "57014": "a statement that took too long",
    "57P01": "a shutdown",
    "58030": "a disk that fails",
    "42501": "a right that was taken away",
    "XX000": "a bug of the server",
    "XX001": "a damaged table",
    "XX002": "a damaged index",
}


def fail(connection: Connection, code: str) -> None:
    connection.execute(f"DO $$ BEGIN RAISE EXCEPTION 'trouble' USING ERRCODE='{code}'; END $$".encode())


@pytest.mark.parametrize("code", TROUBLE)
def test_a_postgres_in_trouble_is_unavailable_and_changes_nothing(postgres_server: PostgresServer, code: str) -> None:
    store = open_store(postgres_server.new_database())
    assert isinstance(store, PostgresStore)
    try:
        dataset = new_dataset(store)

        def work(tx: Any) -> None:
            tx.apply(dataset.id, Changes([file("half")]), 1)
            fail(tx._connection, code)

        with pytest.raises(Unavailable, match=r"the (disk of the )?metadata database"):
            store.write([work])
        with pytest.raises(Unavailable, match="the metadata database cannot be read: trouble"):
            store.read(lambda reader: fail(reader._connection, code))  # type: ignore[attr-defined]
        assert store.read(lambda reader: everything(reader, dataset)) == []
        apply(store, dataset, Changes([file("next")]), 1)
    finally:
        store.close()


def test_a_writer_whose_postgres_became_a_standby_looks_for_the_new_one(postgres_server: PostgresServer) -> None:
    store = open_store(postgres_server.new_database())
    assert isinstance(store, PostgresStore)
    assert store._writer is not None
    try:
        dataset = new_dataset(store)
        # Its own session alone: as after a failover, the next one comes to a server that writes.
        store._writer.execute("SET default_transaction_read_only = on")
        with pytest.raises(Unavailable, match=r"cannot be written: .*read-only transaction"):
            apply(store, dataset, Changes([file("x")]), 1)
        apply(store, dataset, Changes([file("x")]), 1)
        assert store.read(lambda reader: everything(reader, dataset)) == ["x"]
    finally:
        store.close()


def damaged(path: Path, chance: random.Random, kind: str) -> None:
    """Break a file as disks and people do."""
    body = bytearray(path.read_bytes())
    page = chance.randrange(1, len(body) // 4096) * 4096
    if kind == "noise":
        body[page : page + 4096] = chance.randbytes(4096)
    elif kind == "zeros":
        body[page : page + 4096] = bytes(4096)
    else:
        del body[chance.randrange(4096, len(body)) :]
    path.write_bytes(body)


@pytest.mark.parametrize("kind", ["noise", "zeros", "cut"])
def test_a_damaged_database_file_is_said_and_never_read_wrongly(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "good.db"
    store = open_store(f"sqlite://{path}")
    dataset = new_dataset(store)
    files = [file(f"dir{number % 10}/f{number:05}") for number in range(2_000)]
    apply(store, dataset, Changes(files), 1)
    store.close()
    good, whole = path.read_bytes(), {entry.path for entry in files}
    chance = random.Random(kind)
    said = 0
    for trial in range(25):
        broken = tmp_path / f"{trial}.db"
        broken.write_bytes(good)
        damaged(broken, chance, kind)
        try:
            store = open_store(f"sqlite://{broken}")
        except ValueError:  # SettingsError
            said += 1
            continue
        try:
            found = set(store.read(lambda reader: everything(reader, dataset)))
            assert found == whole
            apply(store, dataset, Changes([file(f"dir{number}/new") for number in range(10)]), 2)
        except Unavailable as error:
            assert "is damaged" in error.message
            assert "restore a backup" in error.message
            said += 1
        finally:
            store.close()
    assert said


def test_a_database_file_that_was_taken_away_is_not_made_anew_by_a_read(tmp_path: Path) -> None:
    path = tmp_path / "meta.db"
    store = open_store(f"sqlite://{path}")
    try:
        path.unlink()
        with pytest.raises(Unavailable, match="cannot be read: unable to open database file"):
            store.read(lambda reader: reader.datasets())
        assert not path.exists()
    finally:
        store.close()


def test_a_disk_that_cannot_be_read_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(f"sqlite://{tmp_path}/meta.db")
    try:

        def fails(_: Reader) -> None:
            raise apsw.IOError("disk I/O error")

        with pytest.raises(Unavailable, match="the metadata database cannot be read: disk I/O error"):
            store.read(fails)
        with pytest.raises(Unavailable, match="cannot be read: disk I/O error"), store.snapshot() as reader:
            fails(reader)
    finally:
        store.close()
