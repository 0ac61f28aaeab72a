"""Raises fences before pods are deleted by force, and before others take the place of those that were.

Owns the calls, the memory of the last fence that does not stand yet, and that nothing is done then that has to come
after. Decides nothing (core/fencing.py). Invariant: raising a fence is harmless when repeated."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Protocol

import structlog

from api.training_v1alpha1 import CheckpointSpec, TrainingJob
from jobcontroller.core import reasons
from jobcontroller.core.actions import Action, CreatePod, DeletePod, EmitEvent, RaiseFences
from jobcontroller.core.observed import Problem
from jobcontroller.errors import MetadataUnavailable
from jobcontroller.shell import metrics
from jobcontroller.shell.caches import Caches, Key

_log = structlog.get_logger(__name__)

RETRY_SECONDS = 5.0
_KIND = RaiseFences.__name__


class Fencer(Protocol):
    """What is asked of the checkpoint client."""

    async def raise_fences(
        self, namespace: str, spec: CheckpointSpec, pods: Mapping[str, Sequence[str]]
    ) -> float | None:
        """Have changes of the checkpoints refused: uids of pods by node. Return the seconds until they are; None = it
        knows no fences. Raises MetadataUnavailable."""
        ...


class Fences:
    """One for the whole process; `fencer` None = no metadata service, so no cache that could take anything."""

    def __init__(self, fencer: Fencer | None, caches: Caches, *, wall_clock: Callable[[], float] = time.time) -> None:
        self._fencer = fencer
        self._caches = caches
        self._wall_clock = wall_clock
        self._problems: dict[Key, Problem] = {}

    def problem(self, key: Key) -> Problem | None:
        """Return why the job's last fence does not stand yet; None = it does."""
        return self._problems.get(key)

    def forget(self, key: Key) -> None:
        """The job is gone."""
        self._problems.pop(key, None)

    async def perform(self, key: Key, job: TrainingJob, actions: Sequence[Action]) -> Sequence[Action]:
        """Raise the plan's fences; the actions that may be performed now."""
        spec = job.spec.checkpoint
        pods: dict[str, list[str]] = {}
        for action in actions:
            if isinstance(action, RaiseFences):
                for node, some in action.pods.items():
                    pods.setdefault(node, []).extend(some)
        if not pods or spec is None or self._fencer is None:
            known = self._problems.get(key)
            if known is not None and self._wall_clock() >= known.retry_at:
                # The next try was due and nothing asked for it: the pods have ended after all.
                del self._problems[key]
            return actions
        uids = {uid for some in pods.values() for uid in some}
        try:
            settle_seconds = await self._fencer.raise_fences(job.metadata.namespace, spec, pods)
        except MetadataUnavailable as error:
            metrics.ACTIONS.labels(_KIND, "failed").inc()
            _log.warning("fence_not_raised", namespace=key[0], job=key[1], nodes=sorted(pods), error=str(error))
            text = (
                f"{len(uids)} pods may still run on {_listed(pods)}, and the cache cannot be told to take no more"
                f" checkpoints from there: {error}"
            )
            self._wait(key, reasons.FENCE_NOT_RAISED, text, RETRY_SECONDS)
            return _without_what_follows(actions, uids)
        if settle_seconds:
            text = f"{len(uids)} pods may still run on {_listed(pods)}; soon the cache takes no checkpoints from there"
            self._wait(key, reasons.FENCING, text, settle_seconds)
            return _without_what_follows(actions, uids)
        metrics.ACTIONS.labels(_KIND, "refused" if settle_seconds is None else "done").inc()
        self._problems.pop(key, None)
        self._caches.fenced_pods(job.metadata.uid, uids)
        if settle_seconds is None:
            # Jobs go on as they did before there were fences, rather than stand still until the service is upgraded.
            text = "the metadata service is of an older release and knows no fences; upgrade it"
            _log.warning("fence_not_known", namespace=key[0], job=key[1], nodes=sorted(pods), error=text)
            return actions
        note = (
            f"{len(uids)} pods were given up that may still run on {_listed(pods)}; until they have ended there the"
            f" cache takes no changes of {spec.path or 'the checkpoints'} in Dataset {spec.dataset} from there"
        )
        return [EmitEvent(reasons.FENCED, note, "Warning"), *actions]

    def _wait(self, key: Key, reason: str, text: str, seconds: float) -> None:
        self._problems[key] = Problem(reason, text, False, self._wall_clock() + seconds)


def _without_what_follows(actions: Sequence[Action], uids: Container[str]) -> list[Action]:
    """Without what has to come after the fences around these pods."""
    return [
        one for one in actions if not (isinstance(one, CreatePod) or (isinstance(one, DeletePod) and one.uid in uids))
    ]


def _listed(pods: Mapping[str, object]) -> str:
    nodes = sorted(pods)
    more = f" and {len(nodes) - 3} more nodes" if len(nodes) > 3 else ""
    return f"node{'s' if len(nodes) > 1 else ''} {', '.join(nodes[:3])}{more}"
