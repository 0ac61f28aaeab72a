"""Reads of held versions, from whoever has them.

Owns the order in which that is tried: this node, the other holder, which the etag names; when they have it no more,
metadata says as which object the under store has it. Invariant: what is given is exactly that version, or an error.
"""

from collections.abc import Awaitable, Callable

from api.byteplane import ReadHeld
from api.gen import metadata_pb2 as pb
from api.held import held_name
from cacheruntime.core.blocks import Version
from cacheruntime.errors import CacheError, NotResident, PeerFailed, VersionChanged, from_store
from cacheruntime.worker.datasets import Datasets
from cacheruntime.worker.metadata_client import MetadataClient
from cacheruntime.worker.peers import CorruptAnswer, PeerRefused, Peers
from cacheruntime.worker.workers import Peer, Workers
from understores.errors import UnderStoreError


class HeldReader:
    """Reads for the readers of this node, who ask by version."""

    def __init__(
        self,
        *,
        me: Peer,
        read_here: Callable[[ReadHeld], Awaitable[tuple[memoryview, int]]],
        workers: Workers,
        peers: Peers,
        datasets: Datasets,
        metadata: MetadataClient,
    ) -> None:
        """`read_here` gives what this node holds, NotResident when it holds nothing of it."""
        self._me = me
        self._read_here = read_here
        self._workers = workers
        self._peers = peers
        self._datasets = datasets
        self._metadata = metadata

    async def fill(self, version: Version, offset_bytes: int, data: memoryview) -> None:
        """Fill the buffer with a range of a held version, from whoever has it. CacheError."""
        name = held_name(version.etag)
        assert name is not None, "only held versions are read from holders"
        request = ReadHeld(uid=version.uid, etag=version.etag, offset_bytes=offset_bytes, length_bytes=len(data))
        trouble: CacheError | None = None
        for node in sorted(name.holders, key=lambda node: node != self._me.node):
            peer = self._workers.leased().get(node)
            try:
                if node == self._me.node:
                    data[:], _ = await self._read_here(request)
                    return
                if peer is not None:
                    await self._peers.read_held(peer, request, data)
                    return
            except NotResident:
                continue
            except PeerFailed as error:
                if peer is not None and not isinstance(error, PeerRefused | CorruptAnswer):
                    self._workers.suspect(peer, error.message)
                trouble = error
            except CacheError as error:
                trouble = error
        await self._fill_from_object(version, offset_bytes, data, trouble)

    async def _fill_from_object(
        self, version: Version, offset_bytes: int, data: memoryview, trouble: CacheError | None
    ) -> None:
        """Of a version its holders do not give: the under store may have it by now."""
        found = await self._metadata.find_held(version.uid, version.etag)
        if found.state == pb.HeldState.UPLOADED:
            location = await self._datasets.locate(version.uid, found.path)
            try:
                await location.store.get_range(location.key, offset_bytes, data, etag=found.object_etag)
            except UnderStoreError as error:
                raise from_store(error) from error
            return
        if found.state == pb.HeldState.GONE:
            raise VersionChanged(f"{version.path!r} was replaced or removed before the under store had this version")
        reason = trouble.message if trouble is not None else "they are away, or have it not"
        raise CacheError(f"no holder of {version.path!r} ({version.etag}) gives it: {reason}", is_retryable=True)
