"""Bytes to seconds: scheduler/core/residency_table.py."""

from typing import Any

import pytest
from msgspec import structs
from msgspec.structs import replace

from kube.objects import DatasetStatus
from scheduler.core.data_request import DataRequest
from scheduler.core.node_table import NodeTable
from scheduler.core.residency_table import ORIGIN_FILE_SECONDS, PEER_FILE_SECONDS, ResidencyTable
from tests.builders.scheduler_objects import MIB, SPEEDS, a_cache, a_dataset, a_node

DATA = (DataRequest("default", "d"),)


def _table(*nodes: str) -> tuple[NodeTable, ResidencyTable]:
    table = NodeTable()
    for name in nodes:
        table.put(a_node(name))
    return table, ResidencyTable(table, SPEEDS)


def test_local_then_peers_then_origin_each_at_its_speed() -> None:
    table, residency = _table("warm", "half", "cold")
    residency.put_dataset(a_dataset("d", 1000 * MIB))
    residency.put_cache(a_cache("warm", mem={"d": 400 * MIB}))
    residency.put_cache(a_cache("half", ssd={"d": 200 * MIB}))
    sources = residency.sources(DATA)
    warm, half, cold = (table.row_of[name] for name in ("warm", "half", "cold"))
    assert sources.seconds[warm] == pytest.approx(400 / 1000 + 200 / 200 + 400 / 10)
    assert sources.seconds[half] == pytest.approx(200 / 500 + 400 / 200 + 400 / 10)
    assert sources.seconds[cold] == pytest.approx(600 / 200 + 400 / 10)
    assert sources.origin.tolist() == [400 * MIB] * 3


def test_many_small_files_cost_by_their_number_unless_they_are_here() -> None:
    table, residency = _table("warm", "cold")
    residency.put_dataset(a_dataset("d", 10 * MIB, files=1000))
    residency.put_cache(a_cache("warm", mem={"d": 10 * MIB}))
    seconds = residency.sources(DATA).seconds
    assert seconds[table.row_of["warm"]] == pytest.approx(10 / 1000)
    assert seconds[table.row_of["cold"]] == pytest.approx(10 / 200 + 1000 * PEER_FILE_SECONDS)
    residency.remove_cache("warm")
    assert residency.sources(DATA).seconds[0] == pytest.approx(10 / 10 + 1000 * ORIGIN_FILE_SECONDS)
    assert residency.cold_seconds(DATA, ()) == pytest.approx(10 / 10 + 1000 * ORIGIN_FILE_SECONDS)


def test_measured_speeds_win_over_defaults() -> None:
    _, residency = _table("n")
    residency.put_dataset(a_dataset("d", 100 * MIB))
    residency.put_cache(a_cache("n", mem={"d": 50 * MIB}, speeds={"MEM": 50 * MIB}, origin=25 * MIB))
    assert residency.sources(DATA).seconds[0] == pytest.approx(1.0 + 2.0)


def test_datasets_add_up_and_the_checkpoint_is_one_more() -> None:
    table, residency = _table("a", "b")
    residency.put_dataset(a_dataset("d", 100 * MIB))
    residency.put_dataset(a_dataset("e", 50 * MIB))
    sources = residency.sources((*DATA, DataRequest("default", "e")), (("a", 20 * MIB),))
    assert sources.seconds[table.row_of["a"]] == pytest.approx(15 + 20 / 500)
    assert sources.seconds[table.row_of["b"]] == pytest.approx(15 + 20 / 200)


def test_copies_never_count_for_more_than_the_dataset() -> None:
    _, residency = _table("a", "b")
    residency.put_dataset(a_dataset("d", 100 * MIB))
    residency.put_cache(a_cache("a", mem={"d": 100 * MIB}, ssd={"d": 100 * MIB}))
    sources = residency.sources(DATA)
    assert sources.local[0].sum() == pytest.approx(100 * MIB)
    assert sources.origin.tolist() == [0, 0]


def test_a_dead_workers_bytes_vanish_at_once() -> None:
    _, residency = _table("a")
    residency.put_dataset(a_dataset("d", 100 * MIB))
    residency.put_cache(a_cache("a", mem={"d": 100 * MIB}))
    assert residency.put_cache(a_cache("a", mem={"d": 100 * MIB}, serving=False))
    assert residency.sources(DATA).seconds[0] == pytest.approx(10.0)


def test_bytes_of_an_older_dataset_of_the_same_name_do_not_count() -> None:
    _, residency = _table("a")
    residency.put_dataset(a_dataset("d", 100 * MIB, uid="new"))
    residency.put_cache(a_cache("a", mem={"d": 100 * MIB}))
    assert residency.sources(DATA).seconds[0] == pytest.approx(10.0)


def test_required_takes_the_current_snapshot_only() -> None:
    _, residency = _table("a")
    residency.put_dataset(a_dataset("d", 100 * MIB, version=2))
    residency.put_cache(a_cache("a", mem={"d": 100 * MIB}, version=1))
    assert residency.is_resident(DATA[0]).tolist() == [False]
    assert residency.sources(DATA).seconds[0] == pytest.approx(0.1)
    residency.put_cache(a_cache("a", mem={"d": 100 * MIB}, version=2))
    assert residency.is_resident(DATA[0]).tolist() == [True]


def test_an_unchanged_cache_is_no_change() -> None:
    _, residency = _table("a")
    assert residency.put_cache(a_cache("a", mem={"d": 1}))
    assert not residency.put_cache(a_cache("a", mem={"d": 1}))


def test_reports_that_share_entries_with_the_last_one_say_the_same_as_the_newest_alone() -> None:
    first = a_cache("a", mem={"d": 30 * MIB, "e": 5 * MIB}, ssd={"d": 10 * MIB})
    kept, other = first.status.datasets[0], a_cache("a", mem={"d": 50 * MIB}).status.datasets[0]
    datasets: tuple[list[Any], ...] = (
        [kept, other],
        [other, kept],
        [kept],
        [],
        [other],
        [other, first.status.datasets[1]],
    )
    reports = [replace(first, status=replace(first.status, datasets=held)) for held in datasets]
    _, followed = _table("a", "b")
    followed.put_dataset(a_dataset("d", 100 * MIB))
    for report in (first, *reports):
        followed.put_cache(report)
        _, fresh = _table("a", "b")
        fresh.put_dataset(a_dataset("d", 100 * MIB))
        fresh.put_cache(report)
        assert followed.sources(DATA).local.tolist() == fresh.sources(DATA).local.tolist()
    assert followed.remove_cache("a")
    assert followed.sources(DATA).local.sum() == 0


def test_an_unknown_dataset_costs_nothing_and_is_resident_nowhere() -> None:
    _, residency = _table("a")
    assert residency.sources(DATA).seconds.tolist() == [0.0]
    assert residency.is_resident(DATA[0]).tolist() == [False]


def _part(*paths: str, required: bool = False) -> DataRequest:
    return DataRequest("default", "d", paths, required)


def test_paths_count_the_directories_they_are_in() -> None:
    table, residency = _table("train", "test")
    residency.put_dataset(a_dataset("d", 1000 * MIB, files=10, groups={"train": 800 * MIB, "test": 200 * MIB}))
    residency.put_cache(a_cache("train", ssd={"d": 800 * MIB}, groups={"train": 800 * MIB}))
    residency.put_cache(a_cache("test", ssd={"d": 500 * MIB}, groups={"train": 300 * MIB, "test": 200 * MIB}))
    rows = [table.row_of["train"], table.row_of["test"]]
    found = residency.sources([_part("/test/easy")])
    assert found.local[rows, 1].tolist() == [0, 200 * MIB]
    assert found.peers[rows].tolist() == [200 * MIB, 0]
    assert found.seconds[rows].tolist() == pytest.approx([200 / 200 + 2 * PEER_FILE_SECONDS, 200 / 500])
    both = residency.sources([_part("train/", "test/")])
    assert both.local[rows, 1].tolist() == [800 * MIB, 500 * MIB]
    assert residency.is_resident(_part("test", required=True))[rows].tolist() == [False, True]
    assert residency.is_resident(_part("train", required=True))[rows].tolist() == [True, False]
    assert not residency.is_resident(_part(required=True)).any()
    assert residency.cold_seconds([_part("test")], ()) == pytest.approx(200 / 10 + 2 * ORIGIN_FILE_SECONDS)


@pytest.mark.parametrize("paths", [("top-file",), ("train", "nowhere"), ("/",)])
def test_paths_of_unknown_size_count_as_the_whole_dataset(paths: tuple[str, ...]) -> None:
    _, residency = _table("warm")
    residency.put_dataset(a_dataset("d", 1000 * MIB, groups={"train": 800 * MIB}))
    residency.put_cache(a_cache("warm", ssd={"d": 500 * MIB}, groups={"train": 500 * MIB}))
    assert residency.sources([_part(*paths)]).seconds.tolist() == residency.sources(DATA).seconds.tolist()


def test_a_node_that_tells_nothing_by_directory_holds_nothing_of_it() -> None:
    _, residency = _table("old")
    residency.put_dataset(a_dataset("d", 1000 * MIB, groups={"train": 800 * MIB}))
    residency.put_cache(a_cache("old", ssd={"d": 500 * MIB}))
    assert residency.sources([_part("train")]).local.sum() == 0


def test_of_a_dataset_that_shows_another_one_the_others_bytes_count_while_it_is_granted() -> None:
    _, residency = _table("warm", "cold")
    residency.put_dataset(a_dataset("d", 100 * MIB, groups={"train": 60 * MIB, "val": 40 * MIB}))
    residency.put_cache(a_cache("warm", mem={"d": 60 * MIB}, groups={"train": 60 * MIB}))
    for path, seconds in (("", [0.06 + 4.0, 0.3 + 4.0]), ("/train", [0.06, 0.3])):
        mounts = [{"name": "theirs", "mountPoint": f"dataset://default/d{path}"}]
        view = structs.replace(a_dataset("view", 100 * MIB, namespace="guest"), spec={"mounts": mounts})
        assert residency.put_dataset(view)
        asked = DataRequest("guest", "view")
        assert residency.sources((asked,)).seconds.tolist() == pytest.approx(seconds)
        assert residency.is_resident(asked).tolist() == [path != "", False]
    assert residency.put_dataset(structs.replace(view, status=DatasetStatus(phase="Failed")))
    assert residency.is_resident(asked).tolist() == [False, False]
    assert residency.sources((asked,)).seconds.tolist() == [0.0, 0.0]
