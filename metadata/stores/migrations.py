"""Schema of the SQLite store, as steps that are applied once each, in order.

Owns the tables. A step that was released is never edited; a change is a new step.
`entries` holds the current version of each name and is clustered by directory, so that a directory is read in
one sweep and a name is found by one descent; `removed_entries` holds what left it, by the version that removed it.
"""

from typing import Final

MIGRATIONS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE datasets (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        uid TEXT NOT NULL UNIQUE,
        namespace TEXT NOT NULL,
        name TEXT NOT NULL,
        specification BLOB NOT NULL,  -- JSON of core.datasets.Specification
        listed_mounts BLOB NOT NULL,  -- JSON of the mounts the snapshot was listed from
        version INTEGER NOT NULL,
        files INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        synced_at_ns INTEGER NOT NULL,
        error TEXT NOT NULL,
        error_reason TEXT NOT NULL
    ) STRICT;
    CREATE INDEX datasets_by_name ON datasets (namespace, name);

    CREATE TABLE entries (
        dataset_id INTEGER NOT NULL,
        parent TEXT NOT NULL,
        name TEXT NOT NULL,
        kind INTEGER NOT NULL,  -- core.entries.Kind
        size_bytes INTEGER NOT NULL,
        etag TEXT NOT NULL,
        mtime_ns INTEGER NOT NULL,
        mode INTEGER NOT NULL,
        added_version INTEGER NOT NULL,
        PRIMARY KEY (dataset_id, parent, name)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE removed_entries (
        dataset_id INTEGER NOT NULL,
        removed_version INTEGER NOT NULL,
        parent TEXT NOT NULL,
        name TEXT NOT NULL,
        kind INTEGER NOT NULL,
        size_bytes INTEGER NOT NULL,
        etag TEXT NOT NULL,
        mtime_ns INTEGER NOT NULL,
        mode INTEGER NOT NULL,
        added_version INTEGER NOT NULL,
        PRIMARY KEY (dataset_id, removed_version, parent, name)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE requests (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        request_id TEXT NOT NULL UNIQUE,
        version INTEGER NOT NULL
    ) STRICT;

    CREATE TABLE workers (
        node TEXT PRIMARY KEY,
        registration BLOB NOT NULL  -- JSON of core.workers.Registration
    ) STRICT, WITHOUT ROWID;
    """,
    """
    ALTER TABLE datasets ADD COLUMN listing BLOB NOT NULL DEFAULT x'7B7D';  -- JSON of core.datasets.LastListing
    """,
    """
    ALTER TABLE datasets ADD COLUMN held BLOB NOT NULL DEFAULT x'7B7D';  -- JSON of core.held.HeldTally

    CREATE TABLE held (
        dataset_id INTEGER NOT NULL,
        etag TEXT NOT NULL,
        record BLOB NOT NULL,  -- JSON of core.held.HeldFile
        forgettable_ns INTEGER NOT NULL,  -- when it ended; 0 = it waits, or a holder is left
        PRIMARY KEY (dataset_id, etag)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE turns (
        dataset_id INTEGER NOT NULL,
        path TEXT NOT NULL,
        turn_id TEXT NOT NULL,
        record BLOB NOT NULL,  -- JSON of core.held.Turn
        PRIMARY KEY (dataset_id, path)
    ) STRICT, WITHOUT ROWID;
    """,
    """
    ALTER TABLE datasets ADD COLUMN fences BLOB NOT NULL DEFAULT x'5B5D';  -- JSON of core.fences.Fence, many
    CREATE INDEX datasets_fenced ON datasets (id) WHERE fences <> x'5B5D';
    """,
    """
    CREATE TABLE left_objects (
        dataset_id INTEGER NOT NULL,
        path TEXT NOT NULL,
        record BLOB NOT NULL,  -- JSON of core.left.LeftObject
        PRIMARY KEY (dataset_id, path)
    ) STRICT, WITHOUT ROWID;
    """,
)
