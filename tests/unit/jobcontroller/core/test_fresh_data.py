"""Jobs whose Datasets are to be listed before they start."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from api.conditions import parse_timestamp, timestamp
from api.training_v1alpha1 import TrainingJob
from jobcontroller.core.actions import CreatePod, EmitEvent, Plan, RequestListing
from jobcontroller.core.fresh_data import WAIT_SECONDS
from jobcontroller.core.observed import DatasetView
from jobcontroller.core.reconcile import reconcile
from jobcontroller.shell.caches import dataset_view
from kube import objects
from tests.builders.training_jobs import CREATED_AT, conditions, job, observed, state, with_status

NOW = CREATED_AT + 110.4
SINCE = CREATED_AT + 111
OLD = DatasetView("corpus", "Bound", 100, lists_on_start=True, listed_at=NOW - 50)
LISTED = replace(OLD, listed_at=SINCE)


def a_job(**spec: Any) -> TrainingJob:
    return job(**{"datasets": [{"name": "corpus", "mountPath": "/data"}], **spec})


def decide(one: TrainingJob, now: float, *views: DatasetView) -> Plan:
    return reconcile(observed(one, datasets={view.name: view for view in views}), now)


def after(one: TrainingJob, plan: Plan) -> TrainingJob:
    return one.model_copy(update={"status": plan.status or one.status})


def requests(plan: Plan) -> list[RequestListing]:
    return [action for action in plan.actions if isinstance(action, RequestListing)]


def pods(plan: Plan) -> int:
    return sum(isinstance(action, CreatePod) for action in plan.actions)


def test_a_first_attempt_asks_for_a_listing_and_waits_for_one_that_began_since() -> None:
    one = a_job()
    plan = decide(one, NOW, OLD)
    assert requests(plan) == [RequestListing("corpus", timestamp(SINCE))]
    assert pods(plan) == 0
    assert conditions(plan)["DataReady"] == ("False", "DatasetNotListed")
    assert state(plan) == ("Queued", "WaitingForData")
    assert plan.wake_after_seconds == pytest.approx(SINCE + WAIT_SECONDS - NOW)
    one = after(one, plan)

    # Asked is asked; a listing of the second before does not count, and nothing is written while it is waited for.
    asked = replace(OLD, listing_asked_at=SINCE, listed_at=SINCE - 1)
    plan = decide(one, NOW + 5, asked)
    assert (plan.status, requests(plan), pods(plan)) == (None, [], 0)
    # An annotation that somebody overwrote with an older one is written again.
    assert requests(decide(one, NOW + 5, replace(OLD, listing_asked_at=SINCE - 9)))

    plan = decide(one, NOW + 9, LISTED)
    assert conditions(plan)["DataReady"] == ("True", "DatasetsReady")
    assert (requests(plan), pods(plan)) == ([], 2)


def test_no_job_waits_for_ever() -> None:
    one = after(a_job(), decide(a_job(), NOW, OLD))
    assert pods(decide(one, SINCE + WAIT_SECONDS - 1, OLD)) == 0
    plan = decide(one, SINCE + WAIT_SECONDS, OLD)
    assert pods(plan) == 2
    (warning,) = [action for action in plan.actions if isinstance(action, EmitEvent) and action.kind == "Warning"]
    assert (warning.reason, requests(plan)) == ("DatasetNotListed", [])
    assert warning.note == "Dataset corpus was not listed anew within 300 s; the job begins with its last snapshot"


def test_only_datasets_of_that_policy_are_waited_for_and_all_of_them() -> None:
    assert pods(decide(a_job(), NOW, replace(OLD, lists_on_start=False))) == 2
    both = a_job(datasets=[{"name": name, "mountPath": f"/{name}"} for name in ("corpus", "more", "still")])
    views = (OLD, replace(OLD, name="more"), replace(OLD, name="still", lists_on_start=False))
    plan = decide(both, NOW, *views)
    assert [one.dataset for one in requests(plan)] == ["corpus", "more"]
    both = after(both, plan)
    assert pods(decide(both, NOW + 9, LISTED, *views[1:])) == 0
    assert pods(decide(both, NOW + 9, LISTED, replace(LISTED, name="more"), views[2])) == 2


def test_a_dataset_that_cannot_be_read_yet_is_not_listed_for_a_job_that_cannot_start() -> None:
    plan = decide(a_job(), NOW, replace(OLD, phase="NotBound"))
    assert conditions(plan)["DataReady"] == ("False", "DatasetNotBound")
    assert requests(plan) == []
    assert plan.status is not None and plan.status.data_listed_since is None


def test_later_attempts_see_what_the_first_saw() -> None:
    plan = decide(with_status(a_job(), attempt=1, started_attempt=0), NOW, OLD)
    assert (requests(plan), pods(plan)) == ([], 2)


def test_a_job_that_was_suspended_before_it_began_asks_again() -> None:
    one = after(a_job(), decide(a_job(), NOW, OLD))
    held = one.model_copy(update={"spec": a_job(runPolicy={"suspend": True}).spec})
    held = after(held, decide(held, NOW + 10, OLD))
    assert held.status is not None and held.status.data_listed_since is None
    resumed = held.model_copy(update={"spec": one.spec})
    assert requests(decide(resumed, NOW + 1000, LISTED)) == [RequestListing("corpus", timestamp(SINCE + 1000))]


@pytest.mark.parametrize("annotation", ["2026-03-02T10:00:00Z", "soon", None])
def test_what_a_job_is_told_of_a_dataset(annotation: str | None) -> None:
    annotations = {} if annotation is None else {"data.headrace.dev/sync-requested-at": annotation}
    metadata = objects.ObjectMeta(name="corpus", annotations=annotations)
    bare = dataset_view(objects.Dataset(metadata=metadata, spec={"metadataSync": {"policy": "Once"}}))
    asked = parse_timestamp("2026-03-02T10:00:00Z") if annotation and annotation.startswith("2026") else 0.0
    assert (bare.lists_on_start, bare.listed_at, bare.listing_asked_at) == (False, 0.0, asked)
    status = objects.DatasetStatus(phase="Bound", metadata_sync={"listedAt": timestamp(SINCE)})
    spec: dict[str, Any] = {"metadataSync": {"policy": "OnJobStart"}}
    full = dataset_view(objects.Dataset(metadata=metadata, spec=spec, status=status))
    assert (full.lists_on_start, full.listed_at) == (True, SINCE)
