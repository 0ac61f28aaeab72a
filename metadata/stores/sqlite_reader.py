"""Queries of the SQLite store. Owns SELECT statements; no transaction begins or ends here."""

from collections.abc import Iterable, Iterator

import apsw

from metadata.core import paths
from metadata.core.datasets import Dataset
from metadata.core.entries import Entry, Kind
from metadata.core.held import HeldFile, Turn
from metadata.core.left import LeftObject
from metadata.core.listing_progress import UnfinishedListing
from metadata.core.workers import Registration
from metadata.stores import rows


class SqliteReader:
    """`Reader` over a connection that is inside a transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def datasets(self) -> list[Dataset]:
        cursor = self._connection.execute(f"SELECT {rows.DATASET_COLUMNS} FROM datasets ORDER BY namespace, name, id")
        return [rows.dataset(row) for row in cursor]

    def dataset(self, uid: str) -> Dataset | None:
        row = self._connection.execute(f"SELECT {rows.DATASET_COLUMNS} FROM datasets WHERE uid = ?", (uid,)).fetchone()
        return rows.dataset(row) if row else None

    def dataset_named(self, namespace: str, name: str) -> Dataset | None:
        row = self._connection.execute(
            f"SELECT {rows.DATASET_COLUMNS} FROM datasets WHERE namespace = ? AND name = ? ORDER BY id DESC LIMIT 1",
            (namespace, name),
        ).fetchone()
        return rows.dataset(row) if row else None

    def fenced_datasets(self) -> list[Dataset]:
        cursor = self._connection.execute(f"SELECT {rows.DATASET_COLUMNS} FROM datasets WHERE fences <> x'5B5D'")
        return [rows.dataset(row) for row in cursor]

    def entry(self, dataset_id: int, path: str) -> Entry | None:
        row = self._connection.execute(
            f"SELECT {rows.ENTRY_COLUMNS} FROM entries WHERE dataset_id = ? AND parent = ? AND name = ?",
            (dataset_id, *paths.split(path)),
        ).fetchone()
        return rows.entry(row) if row else None

    def children(self, dataset_id: int, path: str, *, after: str = "", limit: int = -1) -> list[Entry]:
        cursor = self._connection.execute(
            f"SELECT {rows.ENTRY_COLUMNS} FROM entries"
            " WHERE dataset_id = ? AND parent = ? AND name > ? ORDER BY name LIMIT ?",
            (dataset_id, path, after, limit),
        )
        return [rows.entry(row) for row in cursor]

    def below(self, dataset_id: int, path: str) -> Iterator[Entry]:
        if path:
            yield from self.children(dataset_id, path)
        condition, parameters = _below(path)
        cursor = self._connection.execute(
            f"SELECT {rows.ENTRY_COLUMNS} FROM entries WHERE dataset_id = ?{condition} ORDER BY parent, name",
            (dataset_id, *parameters),
        )
        for row in cursor:
            yield rows.entry(row)

    def bytes_below(self, dataset_id: int, path: str) -> int:
        query = "SELECT coalesce(sum(size_bytes), 0) FROM entries WHERE dataset_id = ?"
        condition, parameters = _below(path)
        total: int = self._connection.execute(query + condition, (dataset_id, *parameters)).get
        if path:
            total += self._connection.execute(f"{query} AND parent = ?", (dataset_id, path)).get
        return total

    def etags(self, dataset_id: int, paths: Iterable[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for path in paths:
            entry = self.entry(dataset_id, path) if path else None
            if entry is not None and entry.kind is Kind.FILE:
                found[path] = entry.etag
        return found

    def replaced_since(self, dataset_id: int, version: int) -> set[str]:
        cursor = self._connection.execute(
            "SELECT parent, name FROM removed_entries WHERE dataset_id = ? AND removed_version > ?",
            (dataset_id, version),
        )
        return {paths.join(parent, name) for parent, name in cursor}

    def listed(self, listing_id: int) -> Iterator[Entry]:
        cursor = self._connection.execute(
            f"SELECT {rows.ENTRY_COLUMNS} FROM staging.listing_{int(listing_id)} ORDER BY parent, name"
        )
        for row in cursor:
            yield rows.entry(row)

    def unfinished_listings(self) -> list[UnfinishedListing]:
        cursor = self._connection.execute(
            "SELECT listing_id, origin, progress FROM staging.unfinished ORDER BY listing_id"
        )
        found = (rows.unfinished_listing(*row) for row in cursor)
        return [listing for listing in found if listing is not None]

    def request_version(self, request_id: str) -> int | None:
        row = self._connection.execute("SELECT version FROM requests WHERE request_id = ?", (request_id,)).fetchone()
        return int(row[0]) if row else None

    def registrations(self) -> list[Registration]:
        cursor = self._connection.execute("SELECT registration FROM workers ORDER BY node")
        return [rows.registration(blob) for (blob,) in cursor]

    def held(self, dataset_id: int, etag: str) -> HeldFile | None:
        row = self._connection.execute(
            "SELECT record FROM held WHERE dataset_id = ? AND etag = ?", (dataset_id, etag)
        ).fetchone()
        return rows.held(row[0]) if row else None

    def turn(self, dataset_id: int, path: str) -> Turn | None:
        row = self._connection.execute(
            "SELECT record FROM turns WHERE dataset_id = ? AND path = ?", (dataset_id, path)
        ).fetchone()
        return rows.turn(row[0]) if row else None

    def left(self, dataset_id: int) -> list[LeftObject]:
        cursor = self._connection.execute(
            "SELECT record FROM left_objects WHERE dataset_id = ? ORDER BY path", (dataset_id,)
        )
        return [rows.left(blob) for (blob,) in cursor]

    def left_at(self, dataset_id: int, path: str) -> LeftObject | None:
        row = self._connection.execute(
            "SELECT record FROM left_objects WHERE dataset_id = ? AND path = ?", (dataset_id, path)
        ).fetchone()
        return rows.left(row[0]) if row else None

    def all_left(self) -> dict[str, list[LeftObject]]:
        found: dict[str, list[LeftObject]] = {}
        for uid, blob in self._connection.execute(
            "SELECT datasets.uid, record FROM left_objects JOIN datasets ON datasets.id = dataset_id"
        ):
            found.setdefault(uid, []).append(rows.left(blob))
        return found


def _below(path: str) -> tuple[str, tuple[str, ...]]:
    """Condition on `parent` for everything deeper than the directory's own children; of the root, everything."""
    if not path:
        return "", ()  # no name sorts behind all others
    return " AND parent >= ? AND parent < ?", (f"{path}/", f"{path}0")  # "0" follows "/"
