"""Changes of the SQLite store. Owns INSERT, UPDATE and DELETE; the commit is `sqlite.py`'s."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain

from metadata.core import paths
from metadata.core.datasets import Dataset
from metadata.core.entries import Changes, Entry, Kind
from metadata.core.held import HeldFile, Turn
from metadata.core.left import LeftObject
from metadata.core.listing_progress import ListingOrigin, ListingProgress
from metadata.core.workers import Registration
from metadata.stores import rows
from metadata.stores.sqlite_reader import SqliteReader

REQUESTS_KEPT = 100_000
"""A worker retries within minutes; at 1,000 mutations a second this is more than one and a half."""

PURGED = (
    ("entries", "parent, name"),
    ("removed_entries", "removed_version, parent, name"),
    ("held", "etag"),
    ("turns", "path"),
    ("left_objects", "path"),
)
"""Tables of a dataset's rows, and what tells them apart."""

STAGE_ROWS = 250
"""Rows a statement: each one gives the interpreter's lock away and waits for whoever parses the next page."""


class SqliteTransaction(SqliteReader):
    """`Transaction` over the writing connection."""

    def put_dataset(self, dataset: Dataset) -> Dataset:
        specification = dataset.specification
        values = (
            specification.uid,
            specification.namespace,
            specification.name,
            rows.encode(specification),
            rows.encode(dataset.listed_mounts),
            dataset.version,
            dataset.files,
            dataset.bytes,
            dataset.synced_at_ns,
            dataset.error,
            dataset.error_reason,
            rows.encode(dataset.listing),
            rows.encode(dataset.held),
            rows.encode(dataset.fences),
        )
        columns = (
            "uid, namespace, name, specification, listed_mounts, version, files, bytes, synced_at_ns,"
            " error, error_reason, listing, held, fences"
        )
        marks = ", ".join("?" * len(values))
        if dataset.id:
            self._connection.execute(f"UPDATE datasets SET ({columns}) = ({marks}) WHERE id = ?", (*values, dataset.id))
            return dataset
        number = self._connection.execute(f"INSERT INTO datasets ({columns}) VALUES ({marks}) RETURNING id", values).get
        return replace(dataset, id=number)

    def remove_dataset(self, uid: str) -> int | None:
        row = self._connection.execute("DELETE FROM datasets WHERE uid = ? RETURNING id", (uid,)).fetchone()
        return int(row[0]) if row else None

    def purge(self, dataset_id: int, limit: int) -> bool:
        for table, key in PURGED:
            self._connection.execute(
                f"DELETE FROM {table} WHERE dataset_id = ? AND ({key}) IN"
                f" (SELECT {key} FROM {table} WHERE dataset_id = ? LIMIT ?)",
                (dataset_id, dataset_id, limit),
            )
            if self._connection.changes() == limit:
                return True
        return False

    def orphans(self) -> list[int]:
        """Ids whose entries outlived their dataset: a purge that a restart interrupted."""
        found: list[int] = []
        for table, _ in PURGED:
            # Skips from one dataset to the next along the primary key: few steps however many entries there are.
            cursor = self._connection.execute(
                f"WITH RECURSIVE ids (id) AS (SELECT min(dataset_id) FROM {table} UNION ALL"
                f" SELECT (SELECT min(dataset_id) FROM {table} WHERE dataset_id > ids.id) FROM ids"
                " WHERE ids.id IS NOT NULL)"
                " SELECT id FROM ids WHERE id IS NOT NULL AND id NOT IN (SELECT id FROM datasets)"
            )
            found += [int(row[0]) for row in cursor]
        return sorted(set(found))

    def apply(self, dataset_id: int, changes: Changes, version: int) -> tuple[int, int]:
        leaving = [*changes.removals, *(entry.path for entry in changes.upserts)]
        files, size = self._retire(dataset_id, leaving, version)
        self._insert(dataset_id, changes.upserts, version)
        for entry in changes.upserts:
            if entry.kind is Kind.FILE:
                files += 1
                size += entry.size_bytes
        return files, size

    def insert(self, dataset_id: int, entries: Sequence[Entry], version: int) -> None:
        self._insert(dataset_id, entries, version)

    def adopt_listing(self, dataset_id: int, listing_id: int, version: int) -> tuple[int, int]:
        table = f"staging.listing_{int(listing_id)}"
        self._connection.execute(
            f"INSERT INTO entries (dataset_id, {rows.ENTRY_COLUMNS})"
            " SELECT ?, parent, name, kind, size_bytes, etag, mtime_ns, mode, ?"
            f" FROM {table} ORDER BY parent, name",
            (dataset_id, version),
        )
        files, size = self._connection.execute(
            f"SELECT count(*), coalesce(sum(size_bytes), 0) FROM {table} WHERE kind = ?", (int(Kind.FILE),)
        ).get
        return files, size

    def forget_history(self, dataset_id: int, up_to_version: int) -> None:
        self._connection.execute(
            "DELETE FROM removed_entries WHERE dataset_id = ? AND removed_version <= ?",
            (dataset_id, up_to_version),
        )

    def begin_listing(self, origin: ListingOrigin | None = None) -> int:
        listing_id: int = self._connection.execute(
            "SELECT coalesce(max(CAST(substr(name, 9) AS INTEGER)), 0) + 1 FROM staging.sqlite_schema"
            " WHERE name LIKE 'listing\\_%' ESCAPE '\\'"
        ).get
        self._connection.execute(
            f"CREATE TABLE staging.listing_{listing_id} (parent TEXT NOT NULL, name TEXT NOT NULL,"
            " kind INTEGER NOT NULL, size_bytes INTEGER NOT NULL, etag TEXT NOT NULL, mtime_ns INTEGER NOT NULL,"
            " mode INTEGER NOT NULL, added_version INTEGER NOT NULL, PRIMARY KEY (parent, name))"
            " STRICT, WITHOUT ROWID"
        )
        if origin is not None:
            self._connection.execute(
                "INSERT INTO staging.unfinished VALUES (?, ?, ?)",
                (listing_id, rows.encode(origin), rows.encode(ListingProgress())),
            )
        return listing_id

    def stage(self, listing_id: int, entries: Sequence[Entry], progress: ListingProgress | None = None) -> None:
        table = f"listing_{int(listing_id)}"
        for start in range(0, len(entries), STAGE_ROWS):
            portion = entries[start : start + STAGE_ROWS]
            marks = ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?)"] * len(portion))
            self._connection.execute(
                f"INSERT INTO staging.{table} VALUES {marks}"
                " ON CONFLICT DO UPDATE SET kind = excluded.kind, size_bytes = 0, etag = '',"
                f" mtime_ns = excluded.mtime_ns, mode = excluded.mode WHERE excluded.kind > {table}.kind",
                list(chain.from_iterable(rows.entry_row(entry, 0) for entry in portion)),
            )
        if progress is not None:
            # In the same file as the entries: two files of one transaction may end differently when we are killed.
            self._connection.execute(
                "UPDATE staging.unfinished SET progress = ? WHERE listing_id = ?", (rows.encode(progress), listing_id)
            )

    def drop_listing(self, listing_id: int) -> None:
        self._connection.execute("DELETE FROM staging.unfinished WHERE listing_id = ?", (listing_id,))
        self._connection.execute(f"DROP TABLE IF EXISTS staging.listing_{int(listing_id)}")

    def remember_request(self, request_id: str, version: int) -> None:
        number = self._connection.execute(
            "INSERT INTO requests (request_id, version) VALUES (?, ?) RETURNING number", (request_id, version)
        ).get
        self._connection.execute("DELETE FROM requests WHERE number <= ?", (number - REQUESTS_KEPT,))

    def put_registration(self, registration: Registration) -> None:
        self._connection.execute(
            "INSERT INTO workers VALUES (?, ?) ON CONFLICT DO UPDATE SET registration = excluded.registration",
            (registration.node, rows.encode(registration)),
        )

    def set_etag(self, dataset_id: int, path: str, etag: str, version: int) -> None:
        key = (dataset_id, *paths.split(path))
        where = "dataset_id = ? AND parent = ? AND name = ?"
        self._connection.execute(
            f"INSERT INTO removed_entries (dataset_id, removed_version, {rows.ENTRY_COLUMNS})"
            f" SELECT dataset_id, ?, {rows.ENTRY_COLUMNS} FROM entries WHERE {where}",
            (version, *key),
        )
        self._connection.execute(f"UPDATE entries SET etag = ? WHERE {where}", (etag, *key))

    def put_held(self, dataset_id: int, held: HeldFile) -> None:
        self._connection.execute(
            "INSERT INTO held VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE"
            " SET record = excluded.record, forgettable_ns = excluded.forgettable_ns",
            (dataset_id, held.etag, rows.encode(held), 0 if held.left else held.ended_at_ns),
        )

    def forget_held(self, dataset_id: int, before_ns: int) -> None:
        self._connection.execute(
            "DELETE FROM held WHERE dataset_id = ? AND forgettable_ns > 0 AND forgettable_ns < ?",
            (dataset_id, before_ns),
        )

    def put_turn(self, dataset_id: int, path: str, turn: Turn) -> None:
        self._connection.execute(
            "INSERT INTO turns VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE"
            " SET turn_id = excluded.turn_id, record = excluded.record",
            (dataset_id, path, turn.id, rows.encode(turn)),
        )

    def end_turn(self, dataset_id: int, turn_id: str) -> None:
        self._connection.execute("DELETE FROM turns WHERE dataset_id = ? AND turn_id = ?", (dataset_id, turn_id))

    def put_left(self, dataset_id: int, left: LeftObject) -> None:
        self._connection.execute(
            "INSERT INTO left_objects VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET record = excluded.record",
            (dataset_id, left.path, rows.encode(left)),
        )

    def drop_left(self, dataset_id: int, path: str) -> None:
        self._connection.execute("DELETE FROM left_objects WHERE dataset_id = ? AND path = ?", (dataset_id, path))

    def _retire(self, dataset_id: int, leaving: Iterable[str], version: int) -> tuple[int, int]:
        """Move current rows to history; returns by how much files and bytes grew (they shrink)."""
        files = size = 0
        for path in leaving:
            key = (dataset_id, *paths.split(path))
            row = self._connection.execute(
                f"DELETE FROM entries WHERE dataset_id = ? AND parent = ? AND name = ? RETURNING {rows.ENTRY_COLUMNS}",
                key,
            ).fetchone()
            if row is None:
                continue
            self._connection.execute(
                f"INSERT INTO removed_entries (dataset_id, removed_version, {rows.ENTRY_COLUMNS})"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (dataset_id, version, *row),
            )
            if row[2] == Kind.FILE:
                files -= 1
                size -= row[3]
        return files, size

    def _insert(self, dataset_id: int, entries: Sequence[Entry], version: int) -> None:
        self._connection.executemany(
            f"INSERT INTO entries (dataset_id, {rows.ENTRY_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            ((dataset_id, *rows.entry_row(entry, version)) for entry in entries),
        )
