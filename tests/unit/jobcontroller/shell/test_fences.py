"""Fences before deletions by force: what may be done while they cannot be raised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import cast

from api.training_v1alpha1 import CheckpointSpec, TrainingJob
from jobcontroller.core.actions import Action, CreatePod, DeletePod, EmitEvent, RaiseFences
from jobcontroller.errors import MetadataUnavailable
from jobcontroller.shell.caches import Caches
from jobcontroller.shell.fences import RETRY_SECONDS, Fences
from kube.client import KubeClient
from tests.builders.training_jobs import job

KEY = ("ns", "tj")
NOW = 1000.0
FENCE = RaiseFences({"n1": ("u1", "u2")})
FORCED: list[Action] = [DeletePod("p1", "u1", 0), DeletePod("p2", "u2", 0)]
OTHER = DeletePod("p3", "u3")


class Metadata:
    def __init__(self) -> None:
        self.is_away = self.is_old = False
        self.settle_seconds = 0.0
        self.raised: list[tuple[str, str | None, Mapping[str, Sequence[str]]]] = []

    async def raise_fences(
        self, namespace: str, spec: CheckpointSpec, pods: Mapping[str, Sequence[str]]
    ) -> float | None:
        if self.is_away:
            raise MetadataUnavailable("the metadata service answered UNAVAILABLE")
        self.raised.append((namespace, spec.dataset, pods))
        return None if self.is_old else self.settle_seconds


def no_caches() -> Caches:
    return Caches(cast(KubeClient, None), lambda _: None, lambda: 0.0, Random(0))


def saving() -> TrainingJob:
    return job(
        datasets=[{"name": "ckpt", "mountPath": "/ckpt", "readOnly": False}],
        checkpoint={"dataset": "ckpt", "path": "run"},
    )


async def test_pods_are_deleted_by_force_once_their_fence_is_up() -> None:
    metadata = Metadata()
    caches = no_caches()
    fences = Fences(metadata, caches, wall_clock=lambda: NOW)
    plan: list[Action] = [OTHER, FENCE, *FORCED, CreatePod("p4", {})]
    metadata.is_away = True
    assert list(await fences.perform(KEY, saving(), plan)) == [OTHER, FENCE]
    problem = fences.problem(KEY)
    assert problem is not None and problem.retry_at == NOW + RETRY_SECONDS and not problem.is_permanent
    assert problem.message.startswith("2 pods may still run on node n1, and the cache cannot be told")
    assert "UNAVAILABLE" in problem.message

    metadata.is_away = False
    event, *left = await fences.perform(KEY, saving(), plan)
    assert isinstance(event, EmitEvent) and event.reason == "Fenced" and "changes of run in Dataset ckpt" in event.note
    assert left == plan
    assert metadata.raised == [("ns", "ckpt", {"n1": ["u1", "u2"]})]
    assert fences.problem(KEY) is None


async def test_what_has_to_come_after_a_fence_waits_until_it_stands() -> None:
    metadata = Metadata()
    metadata.settle_seconds = 3.5
    fences = Fences(metadata, no_caches(), wall_clock=lambda: NOW)
    plan: list[Action] = [OTHER, FENCE, *FORCED, CreatePod("p4", {})]
    assert list(await fences.perform(KEY, saving(), plan)) == [OTHER, FENCE]
    problem = fences.problem(KEY)
    assert problem is not None and (problem.reason, problem.retry_at) == ("Fencing", NOW + 3.5)
    metadata.settle_seconds = 0.0
    event, *left = await fences.perform(KEY, saving(), plan)
    assert isinstance(event, EmitEvent) and left == plan
    assert fences.problem(KEY) is None


async def test_an_older_metadata_service_holds_nothing_up() -> None:
    metadata = Metadata()
    metadata.is_old = True
    plan: list[Action] = [FENCE, *FORCED]
    assert list(await Fences(metadata, no_caches()).perform(KEY, saving(), plan)) == plan


async def test_without_a_cache_nothing_is_held_up() -> None:
    plan: list[Action] = [FENCE, *FORCED]
    assert list(await Fences(None, no_caches()).perform(KEY, saving(), plan)) == plan
    metadata = Metadata()
    assert list(await Fences(metadata, no_caches()).perform(KEY, saving(), [OTHER])) == [OTHER]
    assert metadata.raised == []


async def test_a_fence_that_is_not_needed_any_more_is_no_problem_any_more() -> None:
    """The node came back and confirmed the end: nothing asks for the fence again, and nothing is to be looked at."""
    metadata, now = Metadata(), NOW
    metadata.is_away = True
    fences = Fences(metadata, no_caches(), wall_clock=lambda: now)
    await fences.perform(KEY, saving(), [FENCE, *FORCED])
    await fences.perform(KEY, saving(), [OTHER])
    assert fences.problem(KEY) is not None, "nobody asks while the next try is not due"
    now = NOW + RETRY_SECONDS
    assert list(await fences.perform(KEY, saving(), [OTHER])) == [OTHER]
    assert fences.problem(KEY) is None
