"""Fluid's Datasets and labels as the core sees them: by what a pod would pay on each node."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import names
from kube.fluid_objects import FluidDataset, FluidDatasetStatus, size_bytes
from kube.identity import ObjectMeta
from kube.objects import CachedDataset, CacheWorker, Dataset, DatasetSnapshot, DatasetStatus, NodeCache, NodeCacheStatus
from scheduler.core import events
from scheduler.core.data_request import DataRequest
from scheduler.core.events import Event, FluidDatasetChanged, FluidDatasetGone
from scheduler.core.fluid import FluidView
from scheduler.core.node_table import NodeTable
from scheduler.core.residency_table import ResidencyTable
from tests.builders.scheduler_objects import SPEEDS, a_node

GIB = 1 << 30
LABEL = f"{names.FLUID_STORAGE_LABEL}ml-imagenet"


def fluid_dataset(total: str = "4.00GiB", cached: str = "0.00B", *, uid: str = "u") -> FluidDataset:
    status = FluidDatasetStatus("Bound", total, "[Calculating]", {"cached": cached, "cachedPercentage": "0.0%"})
    return FluidDataset(metadata=ObjectMeta(namespace="ml", name="imagenet", uid=uid), status=status)


class Core:
    """The part of the core that Fluid's objects are for."""

    def __init__(self) -> None:
        self.view, self.table = FluidView(), NodeTable()
        self.residency = ResidencyTable(self.table, SPEEDS)

    def see(self, *batch: Event) -> "Core":
        for event in self.view.translate(batch):
            match event:
                case events.NodeChanged(node):
                    self.table.put(node)
                case events.CacheChanged(cache):
                    self.residency.put_cache(cache)
                case events.CacheGone(name):
                    self.residency.remove_cache(name)
                case events.DatasetChanged(dataset):
                    self.residency.put_dataset(dataset)
                case events.DatasetGone(namespace, name):
                    self.residency.remove_dataset((namespace, name))
                case _:
                    pytest.fail(f"the core knows no {event}")
        return self

    def here(self, node: str) -> int:
        sources = self.residency.sources([DataRequest("ml", "imagenet")])
        return int(sources.local[self.table.row_of[node]].sum())


def node(name: str, *labels: str) -> events.NodeChanged:
    return events.NodeChanged(a_node(name, labels=dict.fromkeys(labels, "true")))


def test_what_is_cached_is_on_the_nodes_with_a_worker_in_equal_parts() -> None:
    core = Core().see(
        node("n0"), node("n1", LABEL), node("n2", LABEL), FluidDatasetChanged(fluid_dataset(cached="2.00GiB"))
    )
    assert [core.here(name) for name in ("n0", "n1", "n2")] == [0, GIB, GIB]
    core.see(node("n2"))
    assert [core.here(name) for name in ("n0", "n1", "n2")] == [0, 2 * GIB, 0], "a worker went: the other has it all"
    core.see(FluidDatasetChanged(fluid_dataset(cached="4.00GiB")))
    assert core.here("n1") == 4 * GIB
    assert core.residency.is_resident(DataRequest("ml", "imagenet"))[core.table.row_of["n1"]]
    core.see(FluidDatasetGone("ml", "imagenet"))
    assert core.residency.size_of(("ml", "imagenet")) is None


def test_a_label_too_long_for_the_name_has_the_uid() -> None:
    core = Core().see(node("n1", f"{names.FLUID_STORAGE_LABEL}u"), FluidDatasetChanged(fluid_dataset(cached="1.00GiB")))
    assert core.here("n1") == GIB


def test_while_fluid_counts_nothing_is_known_to_be_missing() -> None:
    core = Core().see(node("n1", LABEL), FluidDatasetChanged(fluid_dataset("[Calculating]", "1.00GiB")))
    size = core.residency.size_of(("ml", "imagenet"))
    assert size is not None and size.size_bytes == 0


def own_cache(name: str, *, worker: str = "10.0.0.1:7201") -> NodeCache:
    held = CachedDataset("team", "own", "own-uid", 1, {"MEM": 7})
    status = NodeCacheStatus(worker=CacheWorker(worker, 3) if worker else None, datasets=[held])
    return NodeCache(metadata=ObjectMeta(name=name), status=status)


def test_a_nodes_own_cache_stands_beside_it() -> None:
    own = Dataset(
        metadata=ObjectMeta(namespace="team", name="own", uid="own-uid"),
        status=DatasetStatus(snapshot=DatasetSnapshot(version=1, bytes=10)),
    )
    core = Core().see(node("n1", LABEL), FluidDatasetChanged(fluid_dataset(cached="1.00GiB")))
    core.see(events.DatasetChanged(own), events.CacheChanged(own_cache("n1")))

    def mine() -> int:
        return int(core.residency.sources([DataRequest("team", "own")]).local.sum())

    assert (core.here("n1"), mine()) == (GIB, 7)
    core.see(events.CacheChanged(own_cache("n1", worker="")))
    assert (core.here("n1"), mine()) == (GIB, 0), "our worker died, Fluid's did not"
    core.see(events.CacheGone("n1"))
    assert core.here("n1") == GIB
    core.see(node("n1"))
    assert core.here("n1") == 0


def test_a_dataset_of_ours_goes_before_one_of_fluids() -> None:
    ours = Dataset(
        metadata=ObjectMeta(namespace="ml", name="imagenet", uid="ours"),
        status=DatasetStatus(snapshot=DatasetSnapshot(version=5, bytes=3)),
    )
    core = Core().see(
        node("n1", LABEL), FluidDatasetChanged(fluid_dataset(cached="1.00GiB")), events.DatasetChanged(ours)
    )
    core.see(FluidDatasetChanged(fluid_dataset(cached="2.00GiB")))
    size = core.residency.size_of(("ml", "imagenet"))
    assert size is not None and size.uid == "ours" and core.here("n1") == 0
    core.see(events.DatasetGone("ml", "imagenet"))
    assert core.here("n1") == 2 * GIB


@given(st.permutations(range(4)), st.data())
def test_the_order_of_what_is_seen_does_not_matter(order: list[int], data: Any) -> None:
    seen: list[Event] = [
        node("n1", LABEL),
        node("n2", LABEL),
        FluidDatasetChanged(fluid_dataset(cached="2.00GiB")),
        events.CacheChanged(own_cache("n1")),
    ]
    core = Core()
    for index in order:
        core.see(seen[index])
    assert (core.here("n1"), core.here("n2")) == (GIB, GIB)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0.00B", 0),
        ("1.50KiB", 1536),
        ("2.00TiB", 2 << 40),
        ("[Calculating]", None),
        ("", None),
        (None, None),
        ("5", None),
    ],
)
def test_fluids_sizes_are_text_for_people(text: str | None, size: int | None) -> None:
    assert size_bytes(text) == size
