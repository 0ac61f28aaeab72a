"""Store URL → store. A new database is one module and one line here, and passes tests/conformance/metadata."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from metadata.errors import SettingsError
from metadata.stores import postgres, sqlite
from metadata.stores.base import Reader, Store
from metadata.stores.postgres import PostgresStore
from metadata.stores.sqlite import SqliteStore


def _sqlite_path(url: str) -> Path:
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc or not path.strip("/") or path.endswith("/") or parts.query or parts.fragment:
        raise SettingsError(f"store {url!r} is not usable; write sqlite:///absolute/path.db.")
    # sqlite:////x, as SQLAlchemy writes it, means the same absolute path.
    return Path("/" + path.lstrip("/"))


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a database is opened: to serve it, and to read one state of it beside whoever serves it."""

    store: Callable[[str], Store]
    snapshot: Callable[[str], AbstractContextManager[Reader]]


_POSTGRES = _Kind(PostgresStore, postgres.snapshot_of)
STORES: Final[dict[str, _Kind]] = {
    "postgres": _POSTGRES,
    "postgresql": _POSTGRES,
    "sqlite": _Kind(
        lambda url: SqliteStore(_sqlite_path(url)),
        lambda url: sqlite.snapshot_of(_sqlite_path(url)),
    ),
}


def open_store(url: str) -> Store:
    """Open the database to serve it; SettingsError says what is wrong with the URL or the file."""
    return _kind(url).store(url)


def open_snapshot(url: str) -> AbstractContextManager[Reader]:
    """Open one committed state; whoever serves the database goes on. Raises SettingsError as `open_store` does."""
    return _kind(url).snapshot(url)


def _kind(url: str) -> _Kind:
    found = STORES.get(urlsplit(url).scheme)
    if found is None:
        accepted = ", ".join(f"{scheme}://" for scheme in sorted(STORES))
        raise SettingsError(f"store {url!r} has no usable scheme; accepted are {accepted}.")
    return found
