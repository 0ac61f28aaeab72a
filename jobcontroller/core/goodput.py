"""Seconds of one attempt by activity, from the times its pods carry.

    decided ─queued→ first pod made ─placing→ all have a node ─staging→ first one runs
            ─starting→ all run ─training→ end (or now); `lost` is the part of training after the last
            complete checkpoint, which the next attempt does again

Owns the arithmetic only. Past attempts are kept in the status, as their pods are gone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from api.training_v1alpha1 import Goodput
from jobcontroller.core.observed import PodView

MAX_ATTEMPTS = 64
#: the seconds of what goes on are rounded down to this, or every look at it would be a status write
GRAIN_SECONDS = 60.0


def measure(
    *,
    attempt: int,
    began_at: float,
    pods: Sequence[PodView],
    wanted_pods: int,
    until: float,
    has_ended: bool,
    last_checkpoint_at: float | None = None,
) -> Goodput:
    """Return the seconds of one attempt from `began_at` to `until`.

    `has_ended` = it failed or finished at `until`; only then is anything lost."""
    marks = [
        min((pod.created_at for pod in pods), default=None),
        _last((pod.scheduled_at for pod in pods), len(pods) >= wanted_pods),
        min((pod.started_at for pod in pods if pod.started_at is not None), default=None),
        _last((pod.started_at for pod in pods), len(pods) >= wanted_pods),
    ]
    spans, start = [], began_at
    for mark in marks:
        end = until if mark is None else min(max(mark, start), until)
        spans.append(max(0.0, end - start))
        start = end
        if mark is None:
            break
    queued, placing, staging, starting = (*spans, 0.0, 0.0, 0.0)[:4]
    is_training = len(spans) == 4 and marks[3] is not None
    training = max(0.0, until - start) if is_training else 0.0
    lost = 0.0
    if has_ended and last_checkpoint_at is not None:
        lost = min(training, max(0.0, until - max(last_checkpoint_at, start)))
    elif not has_ended:
        training = _grains(training)
    return Goodput(
        attempt=attempt,
        queued=_whole(queued, has_ended or len(spans) > 1),
        placing=_whole(placing, has_ended or len(spans) > 2),
        staging=_whole(staging, has_ended or len(spans) > 3),
        starting=_whole(starting, has_ended or is_training),
        training=round(training - lost, 1),
        lost=round(lost, 1),
    )


def record(entries: Iterable[Goodput], new: Goodput) -> list[Goodput]:
    """Return the entries with `new` in its attempt's place, the newest 64."""
    others = [entry for entry in entries if entry.attempt != new.attempt]
    return sorted([*others, new], key=lambda entry: entry.attempt)[-MAX_ATTEMPTS:]


def _last(times: Iterable[float | None], is_whole: bool) -> float | None:
    known = list(times)
    present = [time for time in known if time is not None]
    if not is_whole or not known or len(present) < len(known):
        return None
    return max(present)


def _whole(seconds: float, is_over: bool) -> float:
    return round(seconds, 1) if is_over else _grains(seconds)


def _grains(seconds: float) -> float:
    return math.floor(seconds / GRAIN_SECONDS) * GRAIN_SECONDS
