"""Tables of `headrace get`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headrace.cli import tables
from headrace.errors import UsageError

JOB: dict[str, Any] = {
    "metadata": {"name": "one", "namespace": "ns", "creationTimestamp": "2023-11-14T22:13:20Z"},
    "spec": {"framework": "JAX"},
    "status": {
        "attempt": 2,
        "restarts": {"infrastructure": 1, "preemption": 1},
        "conditions": [{"type": "Created"}, {"type": "Running", "reason": "AllPodsRunning"}],
    },
}


def test_a_table_has_the_state_and_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_objects(tables.listing("tj"), [JOB], "table", with_namespace=True)
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == [
        *("NAMESPACE", "NAME", "FRAMEWORK", "STATE", "REASON", "ATTEMPT", "RESTARTS", "RESUMED", "AT", "AGE")
    ]
    assert row.split()[:8] == ["ns", "one", "JAX", "Running", "AllPodsRunning", "2", "2", "-"]


def test_json_is_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_objects(tables.listing("jobs"), [JOB], "json", with_namespace=False)
    assert json.loads(capsys.readouterr().out)["items"] == [JOB]


def test_what_is_not_known_is_said_with_what_is() -> None:
    with pytest.raises(UsageError, match="choose jobs, crons, queues, datasets, loads, runtimes, nodes"):
        tables.listing("pods")
    with pytest.raises(UsageError, match="choose table, json or yaml"):
        tables.print_objects(tables.listing("jobs"), [], "xml", with_namespace=False)


@pytest.mark.parametrize(("seconds", "text"), [(5, "5s"), (119, "119s"), (120, "2m"), (7200, "2h"), (200_000, "2d")])
def test_age(seconds: int, text: str) -> None:
    assert tables.age(JOB, 1_700_000_000 + seconds) == text


def test_a_node_shows_its_tiers_and_what_is_resident() -> None:
    node = {
        "metadata": {"name": "n1"},
        "status": {
            "tiers": [{"medium": "SSD", "used": 1 << 30, "capacity": 2 << 30}],
            "datasets": [{"namespace": "ns", "name": "d", "residentBytes": {"SSD": 1 << 20, "MEM": 1 << 20}}],
        },
    }
    cells = {title: cell(node) for title, cell in tables.LISTINGS["nodes"].columns}
    assert cells["TIERS"] == "SSD 1.0 GiB of 2.0 GiB"
    assert cells["RESIDENT"] == "ns/d 2.0 MiB"


def test_a_pool_shows_its_workers_and_how_full_they_are() -> None:
    states = {"cached": "1.0 GiB", "cacheCapacity": "4.0 GiB"}
    status = {"workerNumberReady": 2, "desiredWorkerNumberScheduled": 3, "workerPhase": "PartialReady"}
    body = {"metadata": {"name": "default"}, "status": {**status, "cacheStates": states}}
    for word in ("runtimes", "runtime", "cacheruntime"):
        cells = {title: cell(body) for title, cell in tables.listing(word).columns}
        assert (cells["WORKERS"], cells["PHASE"]) == ("2 of 3", "PartialReady")
        assert (cells["CACHED"], cells["CAPACITY"]) == ("1.0 GiB", "4.0 GiB")
