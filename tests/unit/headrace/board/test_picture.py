"""The picture of `headrace top` and `headrace dashboard`."""

import io
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from api.conditions import parse_timestamp
from headrace.board.picture import BYTES_MAX, DATASETS_MAX, Objects, Wanted, picture
from headrace.board.terminal import bar, duration, screen
from tests.builders.board_objects import CREATED, GIB, a_cluster, a_dataset, a_node_cache, a_pod

NOW = parse_timestamp(CREATED) + 600


def test_bytes_of_a_dataset_are_summed_over_nodes_and_media() -> None:
    caches = [
        a_node_cache("b", {"d": {"MEM": 1, "SSD": 2}}),
        a_node_cache("a", {"d": {"SSD": 4}, "other": {"SSD": 8}}),
        a_node_cache("c", {"d": {}}),
    ]
    seen = picture(Objects(caches, [a_dataset("d", 10), a_dataset("none", 5, "Pending")]), NOW)
    assert [node.name for node in seen.nodes] == ["a", "b", "c"]
    held, none = seen.datasets
    assert (held.key, held.resident_bytes, held.nodes, held.total_bytes) == ("ml/d", 7, 2, 10)
    assert (none.key, none.resident_bytes, none.phase) == ("ml/none", 0, "Pending")


def test_a_job_shows_its_share_of_time_that_was_not_lost() -> None:
    running, queued, failed = picture(a_cluster(), NOW).jobs
    assert (running.key, running.attempt, running.resume_step, running.restarts) == ("ml/llama-sft", 2, 1200, 1)
    assert running.goodput == pytest.approx(13000 / 13540)
    assert queued.goodput == 0
    assert failed.state == "Failed", "what has ended comes last"


def test_who_waits_is_said_once_and_why() -> None:
    member = a_pod("member", message="0/3 nodes are available.")
    member["metadata"]["labels"] = {"scheduling.x-k8s.io/pod-group": "g"}
    objects = a_cluster()
    seen = picture(Objects(pod_groups=objects.pod_groups, pods=[*objects.pods, member, a_pod("new")]), NOW)
    assert {(row.key, row.kind, row.why[:9]) for row in seen.waiting} == {
        ("ml/resnet-big", "gang", "0/40 node"),
        ("ml/p1", "pod", "0/40 node"),
        ("ml/new", "pod", "not looke"),
    }
    assert {row.since_seconds for row in seen.waiting} == {600}


def test_sources_are_of_our_decisions_only() -> None:
    foreign = a_pod("foreign", node="n")
    foreign["metadata"]["annotations"] = {"scheduling.headrace.dev/decision": "not json"}
    seen = picture(Objects(pods=[*a_cluster().pods, foreign]), NOW).arrived
    assert (seen.pods, seen.local_bytes, seen.peer_bytes, seen.origin_bytes) == (1, 700 * GIB, 120 * GIB, 15 * GIB)


def test_what_is_left_out_is_counted() -> None:
    seen = picture(Objects(datasets=[a_dataset(f"d{index}", 1) for index in range(DATASETS_MAX + 3)]), NOW)
    assert len(seen.datasets) == DATASETS_MAX
    assert seen.more == {"datasets": 3}


def test_what_only_workers_hold_is_said() -> None:
    seen = picture(a_cluster(), NOW)
    assert [(row.key, row.files, row.bytes) for row in seen.held] == [("ml/images-00", 12, 90 * GIB)]
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(screen(seen, []))
    assert "not uploaded yet" in (text := console.export_text()) and "90.0 GiB" in text


HUGE = "9" * 400


@pytest.mark.parametrize(
    "annotation",
    [
        "[]",
        "null",
        "{",
        '{"bytesBySource": [1]}',
        '{"bytesBySource": {"local": [1]}}',
        '{"bytesBySource": {"local": {"SSD": "x"}}}',
        '{"bytesBySource": {"peers": -5}}',
        '{"bytesBySource": {"origin": 1e300}}',
        f'{{"bytesBySource": {{"origin": {HUGE}}}}}',
    ],
)
def test_what_a_pods_author_writes_spoils_nothing(annotation: str) -> None:
    hostile = a_pod("hostile", node="n", message="x" * 100_000)
    hostile["metadata"]["annotations"] = {"scheduling.headrace.dev/decision": annotation}
    largest = a_pod("largest", node="n", sources={"peers": (1 << 63) - 1})
    waits = a_pod("waits", message="y" * 100_000)
    seen = picture(Objects(pods=[hostile, largest, largest, *a_cluster().pods, waits]), NOW)
    assert seen.arrived.local_bytes == 700 * GIB and seen.arrived.peer_bytes == BYTES_MAX
    assert len(msgspec.json.encode(seen)) < 20_000


def test_a_thousand_nodes_with_a_thousand_datasets_each_make_a_small_page() -> None:
    names = [f"d{index}" for index in range(1000)]
    nodes = [a_node_cache(f"n{index:04}", {name: {"SSD": 1} for name in names}) for index in range(130)]
    seen = picture(Objects(node_caches=nodes, datasets=[a_dataset(name, 1) for name in names]), NOW)
    assert seen.totals.nodes == seen.totals.serving == 130 and seen.more == {"nodes": 10, "datasets": 940}
    assert len(msgspec.json.encode(seen)) < 500_000
    assert all(row.resident_bytes == row.nodes == 130 for row in seen.datasets), "counted over all nodes"


def test_what_is_looked_for_is_found_behind_the_limits() -> None:
    nodes = [a_node_cache(f"n{index:04}", {"d999": {"SSD": 5}}) for index in range(1000)]
    datasets = [a_dataset(f"d{index}", 1) for index in range(1000)]
    seen = picture(Objects(node_caches=nodes, datasets=datasets), NOW, Wanted(" N0999", "d999"))
    assert [node.name for node in seen.nodes] == ["n0999"] and [row.key for row in seen.datasets] == ["ml/d999"]
    assert seen.nodes[0].resident == {"ml/d999": {"SSD": 5}} and seen.more == {} and seen.totals.nodes == 1000


bare = st.fixed_dictionaries(
    {"metadata": st.just({"name": "x"}), "spec": st.just({})},
    optional={"status": st.one_of(st.none(), st.just({}), st.just({"conditions": None, "goodput": None}))},
)


@given(st.lists(bare, max_size=3))
def test_half_made_objects_are_shown_with_what_they_have(bodies: list[dict[str, Any]]) -> None:
    seen = picture(Objects(bodies, bodies, bodies, bodies, bodies, bodies), NOW)
    assert len(seen.nodes) == len(seen.datasets) == len(seen.jobs) == len(bodies)
    Console(file=io.StringIO()).print(screen(seen, ["pods"]))


def test_the_terminal_says_what_the_picture_says() -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(screen(picture(a_cluster(), NOW), []))
    text = console.export_text()
    for said in (
        "39 of 40 caches serve",
        "84 % local, 14 % from peers, 2 % from under stores",
        "ml/warm-images",
        "1m35s",
        "96 %",
        "0/40 nodes are available: 40 Insufficient nvidia.com/gpu.",
    ):
        assert said in text, said


def test_bars_and_times_are_readable() -> None:
    assert bar(0) == "·" * 20
    assert bar(0.001).startswith("█·")
    assert bar(2) == "█" * 20
    assert [duration(seconds) for seconds in (0, 59, 60, 200, 3600, 18600, 183600)] == [
        "0s", "59s", "1m", "3m20s", "1h", "5h10m", "2d3h",
    ]  # fmt: skip
