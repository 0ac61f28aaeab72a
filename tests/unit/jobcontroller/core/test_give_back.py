"""A job that gives its GPUs back to the queue that lent them: what becomes of its attempt, and what both sides read."""

from __future__ import annotations

from typing import Any

from api.training_v1alpha1 import TrainingJob
from jobcontroller.core.actions import CreatePod, DeletePod, EmitEvent, Plan
from jobcontroller.core.observed import Admission, PodView
from jobcontroller.core.queueing import Hold
from jobcontroller.core.quota import claim_of
from jobcontroller.core.reclaiming import Reclaim
from jobcontroller.core.reconcile import reconcile
from tests.builders.training_jobs import CREATED_AT, job, observed, running, state, with_status

NOW = CREATED_AT + 1000
WHY = Reclaim(("ns", "own"), "queue a takes back GPUs it lent")
POLICY: dict[str, Any] = {"schedulingPolicy": {"queue": "b"}}


def borrower(**status: Any) -> TrainingJob:
    return with_status(job(runPolicy=POLICY), **{"admitted_queue": "b", "admitted_gpus": 8, **status})


def look(one: TrainingJob, admission: Admission, *pods: PodView) -> Plan:
    return reconcile(observed(one, *pods, admission=admission), NOW)


def notes(plan: Plan) -> dict[str, str]:
    return {action.reason: action.note for action in plan.actions if isinstance(action, EmitEvent)}


def test_its_whole_gang_ends_and_it_holds_its_gpus_until_the_last_pod_is_gone() -> None:
    first = look(borrower(), Admission("b", 8, reclaim=WHY), running(0), running(1))
    assert first.status is not None
    assert (first.status.attempt, first.status.reclaimed_by, first.status.admitted_gpus) == (1, "ns/own", 8)
    assert sum(isinstance(action, DeletePod) for action in first.actions) == 2
    assert notes(first)["Reclaimed"] == "queue a takes back GPUs it lent; it waits to be admitted again"
    assert first.status.restarts.preemption == 0, "it costs no budget"
    one = borrower().model_copy(update={"status": first.status})
    claim = claim_of(one)
    assert claim is not None
    assert (claim.is_admitted, claim.is_leaving, claim.gpus) == (True, True, 8)

    ending = look(one, Admission("b", 8), running(0, deletion_at=NOW + 30))
    status = ending.status or first.status
    assert (status.admitted_queue, status.reclaimed_by) == ("b", "ns/own")

    gone = look(one, Admission("b", 8))
    assert gone.status is not None
    assert (gone.status.admitted_queue, gone.status.admitted_gpus, gone.status.reclaimed_by) == (None, None, None)
    assert not any(isinstance(action, CreatePod) for action in gone.actions)
    after = one.model_copy(update={"status": gone.status})
    claim = claim_of(after)
    assert claim is not None
    assert not claim.is_admitted

    held = look(after, Admission("b", 8, Hold("WaitingForQuota", "no GPUs")))
    assert state(held) == ("Queued", "WaitingForQuota")
    again = look(after, Admission("b", 8))
    assert {action.name for action in again.actions if isinstance(action, CreatePod)} == {
        "tj-worker-0-a1",
        "tj-worker-1-a1",
    }


def test_who_takes_back_says_so_once() -> None:
    hold = Hold("ReclaimingQuota", "Queue a takes back GPUs it lent: this job needs 8")
    one = with_status(job(runPolicy=POLICY), started_attempt=None, created_attempt=None)
    first = look(one, Admission("b", 8, hold))
    assert notes(first)["ReclaimingQuota"] == hold.message
    assert state(first) == ("Queued", "ReclaimingQuota")
    again = look(one.model_copy(update={"status": first.status}), Admission("b", 8, hold))
    assert notes(again) == {}
