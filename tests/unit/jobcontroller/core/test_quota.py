"""What a job claims of its queue, and until when."""

from __future__ import annotations

from typing import Any

import pytest

from api.conditions import Condition
from api.training_v1alpha1 import TrainingJob
from jobcontroller.core.quota import claim_of, gpus_of
from tests.builders.training_jobs import job, with_status, workers


def queued(gpus: Any = 2, **policy: Any) -> TrainingJob:
    roles = workers(3)
    pod = roles["Worker"]["template"]["spec"]
    pod["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": gpus}}
    return job(replicaSpecs=roles, runPolicy={"schedulingPolicy": {"queue": "q"}, **policy})


@pytest.mark.parametrize(("amount", "total"), [(2, 6), ("2", 6), ("x", 0)])
def test_gpus_are_those_of_all_pods(amount: Any, total: int) -> None:
    assert gpus_of(queued(amount).spec) == total


def test_a_larger_init_container_counts() -> None:
    one = queued(2)
    init = {"name": "i", "resources": {"limits": {"nvidia.com/gpu": 5}}}
    one.spec.replica_specs["Worker"].template["spec"]["initContainers"] = [init]
    assert gpus_of(one.spec) == 15


def test_a_job_claims_until_it_ends_and_not_while_it_is_suspended_or_anothers() -> None:
    claim = claim_of(queued())
    assert claim is not None
    assert (claim.queue, claim.gpus, claim.is_admitted) == ("q", 6, False)
    assert claim_of(job()) is None
    assert claim_of(queued(suspend=True)) is None
    assert claim_of(queued(managedBy="kueue.x-k8s.io/multikueue")) is None
    done = [Condition(type="Succeeded", status="True", reason="Succeeded")]
    assert claim_of(with_status(queued(), conditions=done)) is None


def test_an_admitted_job_keeps_its_queue_and_counts_the_larger_of_its_specs() -> None:
    one = with_status(queued(), admitted_queue="before", admitted_gpus=4, started_attempt=None)
    claim = claim_of(one)
    assert claim is not None
    assert (claim.queue, claim.gpus, claim.is_admitted) == ("before", 6, True)
    assert claim_of(with_status(queued(suspend=True), admitted_queue="q", admitted_gpus=9)).gpus == 9  # type: ignore[union-attr]


def test_a_job_that_ran_before_there_were_queues_is_not_stopped() -> None:
    claim = claim_of(with_status(queued()))
    assert claim is not None
    assert claim.is_admitted
