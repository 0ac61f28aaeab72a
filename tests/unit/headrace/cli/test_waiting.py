"""What is shown of a job while it is waited for."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.cli.follow import pod_order
from headrace.cli.waiting import progress_of
from tests.builders.training_jobs import job_body


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (None, (0, 2, "0 of 2 pods, attempt 0")),
        ({}, (0, 2, "0 of 2 pods, attempt 0")),
        (
            {
                "attempt": 3,
                "startedReplicas": {"Worker": 4},
                "replicaStatuses": {"Worker": {"active": 3, "ready": 2, "succeeded": 1, "failed": 0}},
                "checkpoints": [{"step": 9, "complete": False}, {"step": 7, "complete": True}],
            },
            (3, 4, "3 of 4 pods, checkpoint of step 7, attempt 3"),
        ),
        ({"replicaStatuses": {"Worker": {"ready": 9}}}, (2, 2, "9 of 2 pods, attempt 0")),
    ],
)
def test_pods_and_the_newest_complete_checkpoint(status: dict[str, Any] | None, expected: tuple[int, int, str]) -> None:
    assert progress_of(job_body() | {"status": status}) == expected


def test_pods_are_in_order_of_role_attempt_and_number_also_odd_ones() -> None:
    def pod(name: str, **labels: str) -> dict[str, Any]:
        return {"metadata": {"name": name, "labels": {f"training.headrace.dev/{k}": v for k, v in labels.items()}}}

    odd = {"metadata": {"name": "z"}}
    ten = pod("c", role="Worker", attempt="0", index="10")
    nine = pod("d", role="Worker", attempt="0", index="9")
    later = pod("a", role="Worker", attempt="1", index="0")
    strange = pod("b", role="Worker", attempt="x", index="²")
    assert sorted([later, ten, nine, strange, odd], key=pod_order) == [odd, strange, nine, ten, later]
