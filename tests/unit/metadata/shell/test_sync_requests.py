"""What a Sync answers, with a database and listings that are made up."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

from api.gen import metadata_pb2 as pb
from metadata.core.datasets import Dataset, LastListing, Mount, Specification
from metadata.shell import convert
from metadata.shell.catalog import Catalog
from metadata.shell.edge import Context
from metadata.shell.namespace_service import NamespaceService

MOUNT = Mount("file:///d")
OLD = Dataset(Specification("u", "ns", "n", (MOUNT,)), 1, 1, listed_mounts=(MOUNT,), listing=LastListing(1, 2))
NEW = replace(OLD, listing=LastListing(3, 4))
CONTEXT = cast(Context, SimpleNamespace(auth_context=lambda: {"transport_security_type": [b"insecure"]}))
REQUEST = pb.SyncRequest(uid="u", namespace="ns", name="n", mounts=[pb.Mount(mount_point="file:///d")], replicas=1)


@dataclass
class Listings:
    ended: int = 0
    started: list[Dataset] = field(default_factory=list)

    async def start(self, dataset: Dataset) -> None:
        self.started.append(dataset)


class Stub:
    """Catalog and database at once; a listing ends while a Sync waits for its commit."""

    def __init__(self) -> None:
        self.listings = Listings()
        self.database = self
        self.stored = OLD

    def dataset(self, uid: str) -> Dataset:
        return self.stored

    async def write(self, work: Callable[[Any], Any]) -> Any:
        answer = work(self)
        self.stored = NEW
        self.listings.ended += 1
        return answer

    async def read(self, work: Callable[[Any], Any]) -> Any:
        return work(self)

    def info(self, dataset: Dataset) -> pb.DatasetInfo:
        return convert.dataset_message(dataset)


async def test_a_listing_that_ends_meanwhile_is_in_the_answer() -> None:
    stub = Stub()
    service = NamespaceService(cast(Catalog, stub))
    info = await service.Sync(REQUEST, CONTEXT)
    assert (info.listing.began_at_ns, info.listing.ended_at_ns) == (3, 4)
    assert stub.listings.started == []
