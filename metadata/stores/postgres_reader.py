"""Queries of the PostgreSQL store. Owns SELECT statements; no transaction begins or ends here."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from psycopg import Connection

from metadata.core import paths
from metadata.core.datasets import Dataset
from metadata.core.entries import Entry, Kind
from metadata.core.held import HeldFile, Turn
from metadata.core.left import LeftObject
from metadata.core.listing_progress import UnfinishedListing
from metadata.core.workers import Registration
from metadata.stores import rows

FETCH_ROWS: Final = 5000
"""Rows of a long answer held here at a time."""
# Of several entries of one path the directory wins, as when they are staged into SQLite.
LISTED: Final = (
    f"SELECT DISTINCT ON (parent, name) {rows.ENTRY_COLUMNS} FROM listing_entries WHERE listing_id = %s"
    " ORDER BY parent, name, kind DESC, mtime_ns"
)


class PostgresReader:
    """`Reader` over a connection that is inside a transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._streams = 0

    def datasets(self) -> list[Dataset]:
        found = self._all(f"SELECT {rows.DATASET_COLUMNS} FROM datasets ORDER BY namespace, name, id")
        # By bytes, whatever the database's collation.
        return sorted(
            map(rows.dataset, found), key=lambda one: (one.specification.namespace, one.specification.name, one.id)
        )

    def dataset(self, uid: str) -> Dataset | None:
        row = self._one(f"SELECT {rows.DATASET_COLUMNS} FROM datasets WHERE uid = %s", (uid,))
        return rows.dataset(row) if row else None

    def dataset_named(self, namespace: str, name: str) -> Dataset | None:
        row = self._one(
            f"SELECT {rows.DATASET_COLUMNS} FROM datasets WHERE namespace = %s AND name = %s ORDER BY id DESC LIMIT 1",
            (namespace, name),
        )
        return rows.dataset(row) if row else None

    def fenced_datasets(self) -> list[Dataset]:
        return [
            rows.dataset(row) for row in self._all(f"SELECT {rows.DATASET_COLUMNS} FROM datasets WHERE fences <> '[]'")
        ]

    def entry(self, dataset_id: int, path: str) -> Entry | None:
        parent, name = paths.split(path)
        row = self._one(
            f"SELECT {rows.ENTRY_COLUMNS} FROM entries WHERE dataset_id = %s AND parent = %s AND name = %s",
            (dataset_id, parent.encode(), name.encode()),
        )
        return _entry(row) if row else None

    def children(self, dataset_id: int, path: str, *, after: str = "", limit: int = -1) -> list[Entry]:
        found = self._all(
            f"SELECT {rows.ENTRY_COLUMNS} FROM entries WHERE dataset_id = %s AND parent = %s AND name > %s"
            " ORDER BY name LIMIT %s",
            (dataset_id, path.encode(), after.encode(), limit if limit >= 0 else None),
        )
        return [_entry(row) for row in found]

    def below(self, dataset_id: int, path: str) -> Iterator[Entry]:
        if path:
            yield from self.children(dataset_id, path)
        condition, parameters = _below(path)
        yield from self._streamed(
            f"SELECT {rows.ENTRY_COLUMNS} FROM entries WHERE dataset_id = %s{condition} ORDER BY parent, name",
            (dataset_id, *parameters),
        )

    def bytes_below(self, dataset_id: int, path: str) -> int:
        condition, parameters = _below(path)
        query = "SELECT coalesce(sum(size_bytes), 0) FROM entries WHERE dataset_id = %s"
        row = self._one(query + condition, (dataset_id, *parameters))
        own = self._one(f"{query} AND parent = %s", (dataset_id, path.encode())) if path else None
        return int(row[0] if row else 0) + int(own[0] if own else 0)

    def etags(self, dataset_id: int, paths: Iterable[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for path in paths:
            entry = self.entry(dataset_id, path) if path else None
            if entry is not None and entry.kind is Kind.FILE:
                found[path] = entry.etag
        return found

    def replaced_since(self, dataset_id: int, version: int) -> set[str]:
        found = self._all(
            "SELECT parent, name FROM removed_entries WHERE dataset_id = %s AND removed_version > %s",
            (dataset_id, version),
        )
        return {paths.join(parent.decode(), name.decode()) for parent, name in found}

    def listed(self, listing_id: int) -> Iterator[Entry]:
        yield from self._streamed(LISTED, (listing_id,))

    def unfinished_listings(self) -> list[UnfinishedListing]:
        found = self._all("SELECT id, origin, progress FROM listings WHERE origin IS NOT NULL ORDER BY id")
        decoded = (rows.unfinished_listing(*row) for row in found)
        return [listing for listing in decoded if listing is not None]

    def request_version(self, request_id: str) -> int | None:
        row = self._one("SELECT version FROM requests WHERE request_id = %s", (request_id,))
        return int(row[0]) if row else None

    def registrations(self) -> list[Registration]:
        found = [rows.registration(blob) for (blob,) in self._all("SELECT registration FROM workers")]
        return sorted(found, key=lambda one: one.node)

    def held(self, dataset_id: int, etag: str) -> HeldFile | None:
        row = self._one("SELECT record FROM held WHERE dataset_id = %s AND etag = %s", (dataset_id, etag))
        return rows.held(row[0]) if row else None

    def turn(self, dataset_id: int, path: str) -> Turn | None:
        row = self._one("SELECT record FROM turns WHERE dataset_id = %s AND path = %s", (dataset_id, path.encode()))
        return rows.turn(row[0]) if row else None

    def left(self, dataset_id: int) -> list[LeftObject]:
        found = self._all("SELECT record FROM left_objects WHERE dataset_id = %s ORDER BY path", (dataset_id,))
        return [rows.left(blob) for (blob,) in found]

    def left_at(self, dataset_id: int, path: str) -> LeftObject | None:
        query = "SELECT record FROM left_objects WHERE dataset_id = %s AND path = %s"
        row = self._one(query, (dataset_id, path.encode()))
        return rows.left(row[0]) if row else None

    def all_left(self) -> dict[str, list[LeftObject]]:
        found: dict[str, list[LeftObject]] = {}
        for uid, blob in self._all(
            "SELECT datasets.uid, record FROM left_objects JOIN datasets ON datasets.id = dataset_id"
        ):
            found.setdefault(uid, []).append(rows.left(blob))
        return found

    def _one(self, query: str, parameters: Sequence[Any] = ()) -> Any:
        return self._connection.execute(query.encode(), parameters, binary=True).fetchone()

    def _all(self, query: str, parameters: Sequence[Any] = ()) -> list[Any]:
        return self._connection.execute(query.encode(), parameters, binary=True).fetchall()

    def _streamed(self, query: str, parameters: Sequence[Any]) -> Iterator[Entry]:
        # Two may be open at once: a listing is compared with what is there.
        self._streams += 1
        with self._connection.cursor(name=f"stream_{self._streams}", binary=True) as cursor:
            cursor.itersize = FETCH_ROWS
            for row in cursor.execute(query.encode(), parameters):
                yield _entry(row)


def _entry(row: Any) -> Entry:
    parent, name, *rest = row
    return rows.entry((parent.decode(), name.decode(), *rest))


def _below(path: str) -> tuple[str, tuple[bytes, ...]]:
    """Condition on `parent` for everything deeper than the directory's own children; of the root, everything."""
    if not path:
        return "", ()
    return " AND parent >= %s AND parent < %s", (f"{path}/".encode(), f"{path}0".encode())  # "0" follows "/"
