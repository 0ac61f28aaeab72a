"""Store URL → store. A new database is one module and one line here, and passes tests/conformance/metadata."""

from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from metadata.errors import SettingsError
from metadata.stores.base import Store
from metadata.stores.postgres import PostgresStore
from metadata.stores.sqlite import SqliteStore


def _sqlite(url: str) -> Store:
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc or not path.strip("/") or path.endswith("/") or parts.query or parts.fragment:
        raise SettingsError(f"store {url!r} is not usable; write sqlite:///absolute/path.db.")
    # sqlite:////x, as SQLAlchemy writes it, means the same absolute path.
    return SqliteStore(Path("/" + path.lstrip("/")))


STORES: Final[dict[str, Callable[[str], Store]]] = {
    "postgres": PostgresStore,
    "postgresql": PostgresStore,
    "sqlite": _sqlite,
}


def open_store(url: str) -> Store:
    """Open the database; SettingsError says what is wrong with the URL or the file."""
    factory = STORES.get(urlsplit(url).scheme)
    if factory is None:
        accepted = ", ".join(f"{scheme}://" for scheme in sorted(STORES))
        raise SettingsError(f"store {url!r} has no usable scheme; accepted are {accepted}.")
    return factory(url)
