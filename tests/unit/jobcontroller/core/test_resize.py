"""Elastic jobs: who stays, who joins, and when."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from api import names
from api.training_v1alpha1 import TrainingJob
from jobcontroller.core import elastic, gang, indexes
from jobcontroller.core.actions import AnnotatePod, CreatePod, DeletePod, EmitEvent, Plan
from jobcontroller.core.observed import Checkpoints, CheckpointView, DatasetView, PodView
from jobcontroller.core.quota import gpus_of
from jobcontroller.core.reconcile import reconcile
from jobcontroller.core.resize import CHECKPOINT_WAIT_SECONDS
from jobcontroller.core.start_gate import GATE_CONTAINER
from jobcontroller.core.validation import first_problem
from jobcontroller.frameworks.registry import FRAMEWORKS
from tests.builders.training_jobs import CREATED_AT, ended, job, observed, pod, running, state, with_status, workers

COOL = 60
NOW = CREATED_AT + 1000


def _job(framework: str = "PyTorch", replicas: int = 4, low: int = 2, high: int = 4, **spec: Any) -> TrainingJob:
    options = {"elastic": {"min": low, "max": high, "coolDownSeconds": COOL}}
    own: dict[str, Any] = {"framework": framework, "replicaSpecs": workers(replicas), framework.lower(): options}
    return job(**{**own, **spec})


def _checkpointed(**more: Any) -> TrainingJob:
    datasets = [{"name": "c", "mountPath": "/c", "readOnly": False}]
    return _job("JAX", datasets=datasets, checkpoint={"dataset": "c", "path": "runs"}, **more)


def _started(one: TrainingJob, **changes: Any) -> TrainingJob:
    begun = with_status(one, created_attempt=0)
    assert begun.status is not None
    elastic.begin(begun, begun.status)
    assert begun.status.elastic is not None
    begun.status.elastic = begun.status.elastic.model_copy(update=changes)
    begun.status.started_replicas["Worker"] = len(elastic.workers(begun.status))
    return begun


def _look(one: TrainingJob, *pods: PodView, now: float = NOW, **fields: Any) -> Plan:
    return reconcile(observed(one, *pods, groups=frozenset({"tj-a0"}), has_service=True, **fields), now)


def _after(one: TrainingJob, plan: Plan) -> TrainingJob:
    assert plan.status is not None
    return one.model_copy(update={"status": plan.status})


def _events(plan: Plan) -> dict[str, str]:
    return {one.reason: one.note for one in plan.actions if isinstance(one, EmitEvent)}


def _members(plan: Plan) -> str:
    assert plan.status is not None
    assert plan.status.elastic is not None
    return plan.status.elastic.members


def test_a_set_of_indexes_is_written_in_runs() -> None:
    assert indexes.text([3, 0, 1, 2, 6]) == "0-3,6"
    assert indexes.parse("0-3,6") == {0, 1, 2, 3, 6}
    assert indexes.text([]) == ""
    assert indexes.parse("") == frozenset()


def test_torchrun_goes_on_without_a_lost_member() -> None:
    one = _started(_job())
    plan = _look(one, *(running(index) for index in (0, 1, 3)), ended(137, 2, at=NOW))
    assert plan.status is not None
    assert (plan.status.attempt, _members(plan), plan.status.started_replicas) == (0, "0-1,3", {"Worker": 3})
    assert plan.status.restarts.infrastructure == 0
    assert state(plan) == ("Running", "AllPodsRunning")
    assert "3 workers of 2 to 4" in _events(plan)["Shrunk"]
    assert [one.name for one in plan.actions if isinstance(one, DeletePod)] == ["tj-worker-2-a0"]


def test_a_framework_that_is_not_elastic_restarts_with_those_that_are_left() -> None:
    one = _started(_checkpointed())
    seen = Checkpoints((CheckpointView(7, "runs/7", True, completed_at=NOW - 5),))
    plan = _look(one, *(running(index) for index in (0, 1, 3)), ended(137, 2, at=NOW), checkpoints=seen)
    assert state(plan) == ("Restarting", "InfrastructureFailure")
    assert "with 3 workers of 2 to 4" in _events(plan)["Restarting"]
    bound = {"c": DatasetView("c", "Bound", 0.0)}
    again = _look(_after(one, plan), checkpoints=seen, datasets=bound, now=NOW + 1)
    assert again.status is not None
    assert (again.status.started_replicas, again.status.resume_step) == ({"Worker": 3}, 7)
    created = [action for action in again.actions if isinstance(action, CreatePod)]
    assert [action.name for action in created] == [f"tj-worker-{index}-a1" for index in range(3)]
    environment = {entry["name"]: entry["value"] for entry in created[0].body["spec"]["containers"][0]["env"]}
    assert environment["JAX_NUM_PROCESSES"] == "3"


@pytest.mark.parametrize("lost", [(0,), (1, 2, 3)], ids=["the-rendezvous", "more-than-min-allows"])
def test_what_the_members_cannot_do_without_restarts_the_attempt(lost: tuple[int, ...]) -> None:
    one = _started(_job())
    pods = [ended(137, index, at=NOW) if index in lost else running(index) for index in range(4)]
    plan = _look(one, *pods)
    assert plan.status is not None
    assert state(plan) == ("Restarting", "InfrastructureFailure")
    assert plan.status.restarts.infrastructure == 1


def test_an_outside_store_or_a_master_makes_worker_0_one_of_many() -> None:
    options = {"elastic": {"min": 1, "rdzvBackend": "etcd-v2", "rdzvEndpoint": "etcd:2379"}}
    one = _started(_job(pytorch=options))
    plan = _look(one, ended(137, 0, at=NOW), *(running(index) for index in (1, 2, 3)))
    assert _members(plan) == "1-3"


def test_an_error_of_the_program_is_no_loss() -> None:
    one = _started(_job())
    plan = _look(one, *(running(index) for index in (0, 1, 3)), ended(1, 2, at=NOW - 10))
    assert state(plan) == ("Failed", "UserError")


def test_members_that_break_down_after_a_loss_are_not_to_blame() -> None:
    one = _started(_job(), members="0-1,3", lost_at="2023-11-14T22:29:55Z")  # NOW - 5
    plan = _look(one, running(0), running(1), ended(1, 3, at=NOW - 4))
    assert state(plan) == ("Restarting", "InfrastructureFailure")


def test_a_program_that_fails_again_and_again_is_not_excused_by_its_own_failures() -> None:
    one = _started(_job(replicaSpecs=workers(4, restartPolicy="OnFailure")))
    plan = _look(one, *(running(index) for index in (0, 1, 3)), ended(1, 2, at=NOW - 10))
    assert state(plan) == ("Restarting", "UserError")
    one = _after(one, plan)
    again = _look(one, now=NOW + 1)
    pods = [running(index, 1) for index in (0, 1, 3)]
    failed = _look(_after(one, again), *pods, ended(1, 2, 1, at=NOW + 20), now=NOW + 40)
    assert failed.status is not None
    assert (failed.status.restarts.user_error, failed.status.restarts.infrastructure) == (2, 0)


def test_a_lost_members_place_is_taken_by_a_new_one_when_there_is_room_again() -> None:
    one = _started(_job(), members="0-1,3", resized_at="2023-11-14T22:29:00Z")  # NOW - 60
    pods = [running(index) for index in (0, 1, 3)]
    early = _look(one, *pods, now=NOW - 1)
    assert early.wake_after_seconds == pytest.approx(1)
    appointed = _look(one, *pods)
    assert appointed.status is not None
    assert appointed.status.elastic is not None
    assert (appointed.status.elastic.reserves, appointed.status.elastic.next_index) == ("4", 5)
    assert not [action for action in appointed.actions if isinstance(action, CreatePod)], "stored first"
    one = _after(one, appointed)
    made = _look(one, *pods)
    body = next(action.body for action in made.actions if isinstance(action, CreatePod))
    assert body["metadata"]["name"] == "tj-worker-4-a0"
    assert body["spec"]["initContainers"][0]["name"] == GATE_CONTAINER
    held = pod(4, is_held=True, created_at=NOW)
    waiting = _look(one, *pods, held)
    assert _members(waiting) == "0-1,3", "it has no node yet"
    assert state(waiting)[0] == "Running"
    one = _after(one, waiting)
    joined = _look(one, *pods, replace(held, node="n9", scheduled_at=NOW))
    assert _members(joined) == "0-1,3-4"
    assert "4 workers of 2 to 4" in _events(joined)["Grown"]
    released = [action for action in joined.actions if isinstance(action, AnnotatePod)]
    assert [(action.name, names.START_ANNOTATION in action.annotations) for action in released] == [
        ("tj-worker-4-a0", True)
    ]


def test_losses_soon_after_a_change_double_the_pause() -> None:
    one = _started(_job(high=6), members="0-3", next_index=5, setbacks=1, resized_at="2023-11-14T22:29:58Z")
    plan = _look(one, *(running(index) for index in range(3)), ended(137, 3, at=NOW))
    assert plan.status is not None
    assert plan.status.elastic is not None
    assert plan.status.elastic.setbacks == 2
    calm = _look(one, *(running(i) for i in range(3)), ended(137, 3, at=NOW + 7200), now=NOW + 7200)
    assert calm.status is not None
    assert calm.status.elastic is not None
    assert calm.status.elastic.setbacks == 0


def test_growth_by_a_new_attempt_waits_for_a_checkpoint_but_not_for_ever() -> None:
    one = _started(_checkpointed(), members="0-2", replicas=3, reserves="3", reserves_created=True, next_index=4)
    pods = [*(running(index) for index in range(3)), pod(3, is_held=True, node="n9", scheduled_at=NOW)]
    old = Checkpoints((CheckpointView(7, "runs/7", True, completed_at=NOW - 30),))
    waits = _look(one, *pods, checkpoints=old, now=NOW + 5)
    assert state(waits)[0] == "Running"
    fresh = Checkpoints((CheckpointView(8, "runs/8", True, completed_at=NOW + 3), *old.found))
    grown = _look(one, *pods, checkpoints=fresh, now=NOW + 5)
    assert state(grown) == ("Restarting", "Grown")
    assert "with 4 workers of 2 to 4" in _events(grown)["Grown"]
    assert grown.status is not None
    assert (grown.status.attempt, grown.status.restarts.infrastructure) == (1, 0)
    late = _look(one, *pods, checkpoints=old, now=NOW + CHECKPOINT_WAIT_SECONDS)
    assert state(late) == ("Restarting", "Grown")


def test_a_job_without_checkpoints_does_not_begin_again_to_grow() -> None:
    one = _started(_job("JAX"), members="0-2", replicas=3, next_index=4)
    plan = _look(one, *(running(index) for index in range(3)))
    assert plan.status is not None
    assert plan.status.elastic is not None
    assert plan.status.elastic.reserves == ""


@pytest.mark.parametrize(("framework", "attempt"), [("PyTorch", 0), ("JAX", 1)])
def test_what_finds_no_room_is_done_without(framework: str, attempt: int) -> None:
    one = _started(_job(framework))
    placed = [running(index, scheduled_at=NOW - 59) for index in range(3)]
    unplaced = pod(3, created_at=NOW - 100, unschedulable="0/3 nodes")
    assert state(_look(one, *placed, unplaced))[0] == "Queued"
    plan = _look(one, *placed, unplaced, now=NOW + 1)
    assert plan.status is not None
    assert plan.status.attempt == attempt
    assert plan.status.elastic is not None
    assert plan.status.elastic.replicas == (3 if attempt else 4)
    assert _members(plan) == ("0-3" if attempt else "0-2")


def test_nobody_is_given_up_while_fewer_than_min_have_a_node() -> None:
    one = _started(_job())
    plan = _look(one, running(0), *(pod(index, created_at=CREATED_AT) for index in (1, 2, 3)))
    assert _members(plan) == "0-3"
    assert "3 of 4 pods have no node" in (plan.status.message or "" if plan.status else "")


def test_reserves_end_with_the_job_and_count_as_nobody() -> None:
    one = _started(_job(high=6), reserves="4-5", reserves_created=True, next_index=6)
    pods = [*(ended(0, index) for index in range(4)), pod(4, is_held=True), pod(5, is_held=True)]
    done = _look(one, *pods)
    assert state(done)[0] == "Succeeded"
    cleaned = _look(_after(one, done), *pods)
    assert {one.name for one in cleaned.actions if isinstance(one, DeletePod)} == {"tj-worker-4-a0", "tj-worker-5-a0"}


def test_the_gang_needs_min_and_the_queue_lends_max() -> None:
    one = _job(high=8)
    assert gang.min_member(one, {"Master": 1, "Worker": 4}) == 3
    gpu = {"containers": [{"name": "main", "image": "x", "resources": {"limits": {names.GPU_RESOURCE: 2}}}]}
    one.spec.replica_specs["Worker"].template = {"spec": gpu}
    assert gpus_of(one.spec) == 16


def test_replaced_members_stay_on_the_capacity_they_were_asked_for() -> None:
    one = _job(replicaSpecs=workers(4, spotReplicaSpec={"spotReplicaNumber": 2, "priorityClassName": "spot"}))
    begun = _started(one, members="1-3", resized_at="2023-11-14T22:20:00Z")
    assert begun.status is not None
    assert begun.status.elastic is not None
    assert begun.status.elastic.spot == "2-3"
    plan = _look(begun, *(running(index) for index in (1, 2, 3)))
    assert plan.status is not None
    assert plan.status.elastic is not None
    assert (plan.status.elastic.reserves, plan.status.elastic.spot) == ("4", "2-3")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"replicas": 5},
            "spec.replicaSpecs.Worker.replicas is 5; it must be from spec.pytorch.elastic.min 2 to max 4",
        ),
        ({"runPolicy": {"schedulingPolicy": {"minAvailable": 2}}}, "exclude each other"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(changes: dict[str, Any], said: str) -> None:
    assert said in (first_problem(_job(**changes), FRAMEWORKS["PyTorch"]) or "")
