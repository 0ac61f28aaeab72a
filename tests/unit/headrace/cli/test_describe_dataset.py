"""`headrace describe dataset`: the expected hit ratio stands beside the measured one."""

from typing import Any

import pytest

from headrace.cli.describe import print_dataset


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
