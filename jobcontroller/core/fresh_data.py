"""Listings before a job's first attempt, of Datasets whose metadataSync.policy is OnJobStart.

Owns what is asked for, how long it is waited for, and what is said. The cache controller lists
(cacheruntime/controller/listings.py). Invariants: only the first attempt waits, later ones see what it saw; no job
waits longer than `WAIT_SECONDS`: then it begins with the snapshot there is."""

from __future__ import annotations

from math import floor

from api.conditions import parse_timestamp, timestamp
from jobcontroller.core import reasons
from jobcontroller.core.actions import RequestListing
from jobcontroller.core.data import DataVerdict
from jobcontroller.core.observed import DatasetView
from jobcontroller.core.turn import Turn

#: 10 million objects are listed in 100 s; a store that does not answer is not waited for any longer than this
WAIT_SECONDS = 300.0


def not_listed(turn: Turn) -> DataVerdict | None:
    """Ask for what is to be listed; return what is waited for, or None when the attempt may begin."""
    wanted = _wanted(turn)
    if not wanted:
        return None
    if turn.status.data_listed_since is None:
        # Times of Kubernetes are whole seconds: a listing of this second may have begun before the job could start.
        turn.status.data_listed_since = timestamp(floor(turn.now) + 1)
    since_text = turn.status.data_listed_since
    since = parse_timestamp(since_text)
    missing = [view for view in wanted if view.listed_at < since]
    if not missing:
        return None
    named = ", ".join(view.name for view in missing)
    deadline = since + WAIT_SECONDS
    if turn.now >= deadline:
        text = f"Dataset {named} was not listed anew within {WAIT_SECONDS:.0f} s; the job begins with its last snapshot"
        turn.event(reasons.DATASET_NOT_LISTED, text, "Warning")
        return None
    turn.act(RequestListing(view.name, since_text) for view in missing if view.listing_asked_at < since)
    turn.wake_at(deadline)
    text = f"Dataset {named} is listed anew, as its metadataSync.policy is OnJobStart"
    return DataVerdict(False, reasons.DATASET_NOT_LISTED, text)


def _wanted(turn: Turn) -> list[DatasetView]:
    if turn.attempt > 0:
        return []
    seen = (turn.observed.datasets.get(one.name) for one in turn.job.spec.datasets)
    return [view for view in seen if view is not None and view.lists_on_start]
