"""Changes of the PostgreSQL store. Owns INSERT, UPDATE, DELETE and COPY; the commit is `postgres.py`'s."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from metadata.core import paths
from metadata.core.datasets import Dataset
from metadata.core.entries import Changes, Entry, Kind
from metadata.core.held import HeldFile, Turn
from metadata.core.left import LeftObject
from metadata.core.listing_progress import ListingOrigin, ListingProgress
from metadata.core.workers import Registration
from metadata.stores import rows
from metadata.stores.postgres_reader import LISTED, PostgresReader

REQUESTS_KEPT = 100_000
"""As in SQLite's store."""
PURGED = (
    ("entries", "parent, name"),
    ("removed_entries", "removed_version, parent, name"),
    ("held", "etag"),
    ("turns", "path"),
    ("left_objects", "path"),
)
"""Tables of a dataset's rows, and what tells them apart."""
_ENTRY_TYPES = ("bytea", "bytea", "int8", "int8", "text", "int8", "int8", "int8")


class PostgresTransaction(PostgresReader):
    """`Transaction` over the writing connection."""

    def put_dataset(self, dataset: Dataset) -> Dataset:
        specification = dataset.specification
        values = {
            "uid": specification.uid,
            "namespace": specification.namespace,
            "name": specification.name,
            "specification": rows.encode(specification),
            "listed_mounts": rows.encode(dataset.listed_mounts),
            "version": dataset.version,
            "files": dataset.files,
            "bytes": dataset.bytes,
            "synced_at_ns": dataset.synced_at_ns,
            "error": dataset.error,
            "error_reason": dataset.error_reason,
            "listing": rows.encode(dataset.listing),
            "held": rows.encode(dataset.held),
            "fences": rows.encode(dataset.fences),
        }
        if dataset.id:
            assignments = ", ".join(f"{column} = %s" for column in values)
            self._do(f"UPDATE datasets SET {assignments} WHERE id = %s", (*values.values(), dataset.id))
            return dataset
        marks = ", ".join(["%s"] * len(values))
        row = self._one(
            f"INSERT INTO datasets ({', '.join(values)}) VALUES ({marks}) RETURNING id", tuple(values.values())
        )
        return replace(dataset, id=int(row[0]))

    def remove_dataset(self, uid: str) -> int | None:
        row = self._one("DELETE FROM datasets WHERE uid = %s RETURNING id", (uid,))
        return int(row[0]) if row else None

    def purge(self, dataset_id: int, limit: int) -> bool:
        for table, key in PURGED:
            deleted = self._do(
                f"DELETE FROM {table} WHERE dataset_id = %s AND ({key}) IN"
                f" (SELECT {key} FROM {table} WHERE dataset_id = %s LIMIT %s)",
                (dataset_id, dataset_id, limit),
            )
            if deleted == limit:
                return True
        return False

    def orphans(self) -> list[int]:
        found: set[int] = set()
        for table, _ in PURGED:
            # From one dataset to the next along the primary key: few steps however many entries there are.
            last = -1
            while (row := self._one(f"SELECT min(dataset_id) FROM {table} WHERE dataset_id > %s", (last,)))[
                0
            ] is not None:
                last = int(row[0])
                if self._one("SELECT 1 FROM datasets WHERE id = %s", (last,)) is None:
                    found.add(last)
        return sorted(found)

    def apply(self, dataset_id: int, changes: Changes, version: int) -> tuple[int, int]:
        leaving = [*changes.removals, *(entry.path for entry in changes.upserts)]
        files, size = self._retire(dataset_id, leaving, version)
        self._copy("entries", "dataset_id", dataset_id, changes.upserts, version)
        for entry in changes.upserts:
            if entry.kind is Kind.FILE:
                files += 1
                size += entry.size_bytes
        return files, size

    def insert(self, dataset_id: int, entries: Sequence[Entry], version: int) -> None:
        self._copy("entries", "dataset_id", dataset_id, entries, version)

    def adopt_listing(self, dataset_id: int, listing_id: int, version: int) -> tuple[int, int]:
        self._do(
            f"INSERT INTO entries (dataset_id, {rows.ENTRY_COLUMNS})"
            f" SELECT %s, parent, name, kind, size_bytes, etag, mtime_ns, mode, %s FROM ({LISTED}) AS listed",
            (dataset_id, version, listing_id),
        )
        row = self._one(
            "SELECT count(*), coalesce(sum(size_bytes), 0) FROM entries WHERE dataset_id = %s AND kind = %s",
            (dataset_id, int(Kind.FILE)),
        )
        return int(row[0]), int(row[1])

    def forget_history(self, dataset_id: int, up_to_version: int) -> None:
        self._do(
            "DELETE FROM removed_entries WHERE dataset_id = %s AND removed_version <= %s",
            (dataset_id, up_to_version),
        )

    def begin_listing(self, origin: ListingOrigin | None = None) -> int:
        records = (None, None) if origin is None else (rows.encode(origin), rows.encode(ListingProgress()))
        row = self._one("INSERT INTO listings (is_open, origin, progress) VALUES (true, %s, %s) RETURNING id", records)
        return int(row[0])

    def stage(self, listing_id: int, entries: Sequence[Entry], progress: ListingProgress | None = None) -> None:
        self._copy("listing_entries", "listing_id", listing_id, entries, 0)
        if progress is not None:
            self._do("UPDATE listings SET progress = %s WHERE id = %s", (rows.encode(progress), listing_id))

    def drop_listing(self, listing_id: int) -> None:
        self._do("DELETE FROM listing_entries WHERE listing_id = %s", (listing_id,))
        self._do("DELETE FROM listings WHERE id = %s", (listing_id,))

    def remember_request(self, request_id: str, version: int) -> None:
        row = self._one(
            "INSERT INTO requests (request_id, version) VALUES (%s, %s) RETURNING number", (request_id, version)
        )
        self._do("DELETE FROM requests WHERE number <= %s", (int(row[0]) - REQUESTS_KEPT,))

    def put_registration(self, registration: Registration) -> None:
        self._do(
            "INSERT INTO workers (node, registration) VALUES (%s, %s)"
            " ON CONFLICT (node) DO UPDATE SET registration = excluded.registration",
            (registration.node, rows.encode(registration)),
        )

    def set_etag(self, dataset_id: int, path: str, etag: str, version: int) -> None:
        parent, name = paths.split(path)
        key = (dataset_id, parent.encode(), name.encode())
        where = "dataset_id = %s AND parent = %s AND name = %s"
        self._do(
            f"INSERT INTO removed_entries (dataset_id, removed_version, {rows.ENTRY_COLUMNS})"
            f" SELECT dataset_id, %s, {rows.ENTRY_COLUMNS} FROM entries WHERE {where}",
            (version, *key),
        )
        self._do(f"UPDATE entries SET etag = %s WHERE {where}", (etag, *key))

    def put_held(self, dataset_id: int, held: HeldFile) -> None:
        self._do(
            "INSERT INTO held (dataset_id, etag, record, forgettable_ns) VALUES (%s, %s, %s, %s)"
            " ON CONFLICT (dataset_id, etag) DO UPDATE"
            " SET record = excluded.record, forgettable_ns = excluded.forgettable_ns",
            (dataset_id, held.etag, rows.encode(held), 0 if held.left else held.ended_at_ns),
        )

    def forget_held(self, dataset_id: int, before_ns: int) -> None:
        self._do(
            "DELETE FROM held WHERE dataset_id = %s AND forgettable_ns > 0 AND forgettable_ns < %s",
            (dataset_id, before_ns),
        )

    def put_turn(self, dataset_id: int, path: str, turn: Turn) -> None:
        self._do(
            "INSERT INTO turns (dataset_id, path, turn_id, record) VALUES (%s, %s, %s, %s)"
            " ON CONFLICT (dataset_id, path) DO UPDATE SET turn_id = excluded.turn_id, record = excluded.record",
            (dataset_id, path.encode(), turn.id, rows.encode(turn)),
        )

    def end_turn(self, dataset_id: int, turn_id: str) -> None:
        self._do("DELETE FROM turns WHERE dataset_id = %s AND turn_id = %s", (dataset_id, turn_id))

    def put_left(self, dataset_id: int, left: LeftObject) -> None:
        self._do(
            "INSERT INTO left_objects (dataset_id, path, record) VALUES (%s, %s, %s)"
            " ON CONFLICT (dataset_id, path) DO UPDATE SET record = excluded.record",
            (dataset_id, left.path.encode(), rows.encode(left)),
        )

    def drop_left(self, dataset_id: int, path: str) -> None:
        self._do("DELETE FROM left_objects WHERE dataset_id = %s AND path = %s", (dataset_id, path.encode()))

    def _retire(self, dataset_id: int, leaving: Iterable[str], version: int) -> tuple[int, int]:
        """Move current rows to history; returns by how much files and bytes grew (they shrink)."""
        files = size = 0
        where = "dataset_id = %s AND parent = %s AND name = %s"
        delete = f"DELETE FROM entries WHERE {where} RETURNING {rows.ENTRY_COLUMNS}"
        for path in leaving:
            parent, name = paths.split(path)
            row = self._one(delete, (dataset_id, parent.encode(), name.encode()))
            if row is None:
                continue
            self._do(
                f"INSERT INTO removed_entries (dataset_id, removed_version, {rows.ENTRY_COLUMNS})"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                (dataset_id, version, *row),
            )
            if row[2] == Kind.FILE:
                files -= 1
                size -= row[3]
        return files, size

    def _copy(self, table: str, key: str, number: int, entries: Sequence[Entry], version: int) -> None:
        if not entries:
            return
        query = f"COPY {table} ({key}, {rows.ENTRY_COLUMNS}) FROM STDIN (FORMAT BINARY)"
        with self._connection.cursor() as cursor, cursor.copy(query.encode()) as copy:
            copy.set_types(("int8", *_ENTRY_TYPES))
            for entry in entries:
                parent, name, *rest = rows.entry_row(entry, version)
                copy.write_row((number, parent.encode(), name.encode(), *rest))

    def _do(self, query: str, parameters: Sequence[Any]) -> int:
        return self._connection.execute(query.encode(), parameters).rowcount
