"""Reads small files of datasets from their under stores, for decisions that rest on what is in them.

Owns the opening of stores and a small memory of what was read; one content a version, so nothing in it gets old.
Blocking work is the stores' own business.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from metadata.core.datasets import Dataset, Mount, mount_of
from metadata.core.entries import Entry
from metadata.errors import Unavailable
from understores.base import UnderStore
from understores.credentials import SecretOptions
from understores.errors import InvalidMount, UnderStoreError

OpenStore = Callable[[str, Mapping[str, str], SecretOptions], UnderStore]
REMEMBERED_BYTES: Final = 64 << 20
READ_SECONDS: Final = 20.0


class SmallFiles:
    """One for the whole process."""

    def __init__(self, open_store: OpenStore, credentials_dir: Path | None) -> None:
        self._open_store = open_store
        self._credentials_dir = credentials_dir
        self._known: OrderedDict[tuple[str, str, str], bytes] = OrderedDict()
        self._held_bytes = 0

    async def read(self, dataset: Dataset, entries: Iterable[Entry]) -> dict[str, bytes]:
        """Return the bytes of each file by path, of exactly the version the entry names. Raises Unavailable."""
        found: dict[str, bytes] = {}
        missing: dict[str, tuple[Mount, list[Entry]]] = {}
        for entry in entries:
            known = self._known.get((dataset.uid, entry.path, entry.etag))
            mount = mount_of(dataset.specification.mounts, entry.path)
            if known is not None:
                self._known.move_to_end((dataset.uid, entry.path, entry.etag))
                found[entry.path] = known
            elif mount is not None:
                missing.setdefault(mount.path, (mount, []))[1].append(entry)
        for mount, wanted in missing.values():
            try:
                async with asyncio.timeout(READ_SECONDS):
                    found.update(await self._fetch(dataset, mount, wanted))
            except (UnderStoreError, InvalidMount, TimeoutError) as error:
                text = str(error) or f"no answer within {READ_SECONDS:.0f} s"
                raise Unavailable(f"{wanted[0].path!r} of dataset {dataset.label} cannot be read: {text}") from error
        return found

    async def _fetch(self, dataset: Dataset, mount: Mount, wanted: Iterable[Entry]) -> dict[str, bytes]:
        store = self._open_store(
            mount.mount_point, mount.options, SecretOptions(self._credentials_dir, mount.secret_options)
        )
        found = {}
        try:
            for entry in wanted:
                buffer = bytearray(entry.size_bytes)
                key = entry.path[len(mount.path) + 1 :] if mount.path else entry.path
                if buffer:
                    await store.get_range(key, 0, memoryview(buffer), etag=entry.etag)
                found[entry.path] = bytes(buffer)
                self._remember((dataset.uid, entry.path, entry.etag), bytes(buffer))
        finally:
            await store.close()
        return found

    def _remember(self, key: tuple[str, str, str], content: bytes) -> None:
        if key not in self._known:
            self._held_bytes += len(content)
        self._known[key] = content
        while self._held_bytes > REMEMBERED_BYTES:
            _, dropped = self._known.popitem(last=False)
            self._held_bytes -= len(dropped)
