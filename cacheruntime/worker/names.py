"""Names for the node's own clients that have no channel to the metadata service: the Python client in a pod.

Owns the three questions and the size of a page. Caches nothing: the metadata service's answer is the answer.
"""

from typing import Final

from api import byteplane as bp
from api.gen import metadata_pb2 as pb
from cacheruntime.errors import Missing
from cacheruntime.worker.datasets import check_path
from cacheruntime.worker.metadata_client import MetadataClient

PAGE_ENTRIES: Final = 500
"""Paths of 1,000 bytes still fit a frame's meta."""


class Names:
    """Datasets by name, and the entries of their current snapshots."""

    def __init__(self, metadata: MetadataClient) -> None:
        self._metadata = metadata

    async def find(self, wanted: bp.FindDataset) -> bp.DatasetFound:
        """Return the dataset of that name; Missing."""
        for info in await self._metadata.datasets(wanted.namespace):
            if info.name == wanted.name and info.namespace == wanted.namespace:
                return bp.DatasetFound(uid=info.uid, snapshot_version=info.snapshot_version, writable=info.writable)
        raise Missing(f"there is no dataset {wanted.name!r} in namespace {wanted.namespace!r}")

    async def lookup(self, wanted: bp.Lookup) -> bp.FoundEntry:
        """Return the entry of a path; Missing."""
        if not wanted.path:
            return bp.FoundEntry(path="", is_directory=True)
        check_path(wanted.path)
        return _found(await self._metadata.lookup(wanted.uid, wanted.path))

    async def list(self, wanted: bp.List) -> bp.Listed:
        """Return one page of a directory; Missing."""
        if wanted.path:
            check_path(wanted.path)
        page = await self._metadata.read_page(wanted.uid, wanted.path, after=wanted.after, limit=PAGE_ENTRIES)
        return bp.Listed(entries=[_found(entry) for entry in page.entries], more=page.more)


def _found(entry: pb.Entry) -> bp.FoundEntry:
    return bp.FoundEntry(
        path=entry.path,
        is_directory=entry.is_directory,
        size_bytes=entry.size_bytes,
        etag=entry.etag,
        mtime_ns=entry.mtime_ns,
        mode=entry.mode,
    )
