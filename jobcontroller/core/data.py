"""Whether a job's data is ready enough to create its pods.

Owns the DataReady verdict. Does not load data. Invariant: minCachedPercent holds back only the first attempt:
when a cache is lost later, reading is what fills it again, and waiting would be for nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from api.training_v1alpha1 import JobDataset, TrainingJobSpec
from jobcontroller.core import reasons
from jobcontroller.core.observed import DatasetView

#: phases in which a snapshot can be read
_READABLE_PHASES = ("Bound", "Updating")


@dataclass(frozen=True, slots=True)
class DataVerdict:
    """Condition DataReady: is it true, and why."""

    is_ready: bool
    reason: str
    message: str


def data_ready(spec: TrainingJobSpec, datasets: Mapping[str, DatasetView], attempt: int) -> DataVerdict | None:
    """Return the verdict over all datasets of the job; None when it names none."""
    if not spec.datasets:
        return None
    for wanted in spec.datasets:
        verdict = _problem(wanted, datasets.get(wanted.name), attempt)
        if verdict is not None:
            return verdict
    known = ", ".join(f"{d.name} {datasets[d.name].cached_percent:.0f} % cached" for d in spec.datasets)
    return DataVerdict(True, reasons.DATA_READY, known)


def _problem(wanted: JobDataset, seen: DatasetView | None, attempt: int) -> DataVerdict | None:
    if seen is None:
        text = f"Dataset {wanted.name} does not exist in this namespace; create it or correct spec.datasets"
        return DataVerdict(False, reasons.DATASET_NOT_FOUND, text)
    if seen.phase not in _READABLE_PHASES:
        detail = f": {seen.message}" if seen.message else ""
        text = f"Dataset {wanted.name} is {seen.phase or 'Pending'}{detail}"
        return DataVerdict(False, reasons.DATASET_NOT_BOUND, text)
    minimum = wanted.min_cached_percent
    if attempt == 0 and minimum is not None and seen.cached_percent < minimum:
        text = (
            f"Dataset {wanted.name} is {seen.cached_percent:.1f} % cached and minCachedPercent is {minimum}; "
            "a DataLoad of it brings it there"
        )
        return DataVerdict(False, reasons.DATASET_NOT_CACHED, text)
    return None
