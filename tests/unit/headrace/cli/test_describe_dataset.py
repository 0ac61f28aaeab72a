"""`headrace describe dataset`, `load`, `runtime` and `node`: what stands on the screen."""

from typing import Any

import pytest

from headrace.cli.describe import print_dataset, print_load, print_node, print_runtime


def dataset(states: dict[str, str]) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "ns", "name": "data"},
        "spec": {
            "mounts": [{"name": "data", "mountPoint": "s3://bucket/data"}],
            "cache": {"priority": 3, "guaranteed": "1Gi", "pinned": ["val"]},
        },
        "status": {"phase": "Bound", "ufsTotal": "4.0 GiB", "fileNum": "9", "cacheStates": states},
    }


def test_measured_and_expected_hit_ratio_are_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    states = {"cached": "1.0 GiB", "cachedPercentage": "25.0%", "expectedHitRatio": "25.0%"}
    hits = {"cacheHitRatio": "24.9%", "localHitRatio": "20.0%", "remoteHitRatio": "4.9%"}
    print_dataset(dataset(states | hits), [])
    text = capsys.readouterr().out
    assert "24.9% measured (20.0% on the node, 4.9% from peers); expected 25.0% of an epoch's bytes" in text
    assert "priority 3, guaranteed 1Gi, maximum -" in text and "Pinned     val" in text
    print_dataset(dataset(states), [])
    assert "not measured: nothing was read; expected 25.0%" in capsys.readouterr().out


def test_a_load_says_how_far_it_is_what_it_waits_for_and_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    progress = {"bytesLoaded": 1 << 20, "bytesTotal": 4 << 20, "filesLoaded": 1, "filesTotal": 4}
    progress |= {"bytesPerSecond": 1 << 20, "etaSeconds": 3}
    body = {
        "metadata": {"namespace": "ns", "name": "warm"},
        "spec": {
            "dataset": {"name": "data"},
            "target": [{"path": "/train", "replicas": 2, "priority": 5}],
            "runAfter": {"name": "first"},
        },
        "status": {"phase": "Executing", "progress": progress | {"failed": [{"path": "x", "error": "gone [1]"}]}},
    }
    print_load(body, [])
    text = capsys.readouterr().out
    assert "Dataset    ns/data" in text and "1.0 MiB of 4.0 MiB, 1 of 4 files" in text and "1.0 MiB/s, 3 s left" in text
    assert "Once, after ns/first" in text and "/train" in text and "gone [1]" in text
    print_load({**body, "status": {}}, [])
    assert "Phase      New" in capsys.readouterr().out


def test_a_pool_and_a_node_say_what_lives_and_what_is_cached(capsys: pytest.CaptureFixture[str]) -> None:
    status = {"workerNumberReady": 2, "desiredWorkerNumberScheduled": 3, "workerPhase": "PartialReady"}
    print_runtime({"metadata": {"namespace": "ns", "name": "default"}, "status": status}, [])
    assert "Workers    2 of 3 ready (PartialReady)" in capsys.readouterr().out
    node = {
        "metadata": {"name": "n1"},
        "status": {
            "worker": {"endpoint": "10.0.0.1:7201", "epoch": 1},
            "tiers": [{"medium": "SSD", "used": 1 << 30, "capacity": 2 << 30, "readBytesPerSecond": 1 << 30}],
            "datasets": [{"namespace": "ns", "name": "d", "snapshot": 4, "residentBytes": {"SSD": 1 << 20}}],
        },
    }
    print_node(node)
    text = capsys.readouterr().out
    assert "10.0.0.1:7201" in text and "1.0 GiB/s" in text and "ns/d" in text and "1.0 MiB" in text
    print_node({"metadata": {"name": "n1"}})
    assert "none is alive" in capsys.readouterr().out
