"""Which jobs write where."""

from __future__ import annotations

from typing import Any

from jobcontroller.shell.directories import Directories
from tests.builders.training_jobs import job

ENDED = {"conditions": [{"type": "Succeeded", "status": "True"}]}


def _spec(path: str = "runs/a", dataset: str = "c") -> dict[str, Any]:
    return {"checkpoint": {"dataset": dataset, "path": path}}


def test_unfinished_jobs_of_one_directory_know_of_each_other() -> None:
    one = job(datasets=[{"name": "c", "mountPath": "/c", "readOnly": False}], **_spec("runs/a/"))
    seen = Directories()
    seen.job_changed(("ns", "tj"), _spec("runs/a/"), {})
    assert seen.others(one) == ()
    seen.job_changed(("ns", "b"), _spec(), {})
    seen.job_changed(("ns", "elsewhere"), _spec("runs"), {})
    seen.job_changed(("ns", "of-another-dataset"), _spec(dataset="d"), {})
    seen.job_changed(("other-ns", "b"), _spec(), {})
    seen.job_changed(("ns", "none"), {}, {})
    assert seen.others(one) == ("b",)
    seen.job_changed(("ns", "b"), _spec(), ENDED)
    assert seen.others(one) == ()
    seen.job_changed(("ns", "b"), _spec(), {})
    seen.job_changed(("ns", "b"), {}, {})
    assert seen.others(one) == (), "it was deleted"
    assert seen.others(job()) == ()
