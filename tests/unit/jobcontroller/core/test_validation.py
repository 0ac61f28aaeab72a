"""Every refusal names the field and says what would be right."""

from __future__ import annotations

from typing import Any

import pytest

from api import names
from jobcontroller.core.validation import first_problem
from jobcontroller.frameworks.registry import FRAMEWORKS
from tests.builders.training_jobs import job, workers


def with_template(**changes: Any) -> dict[str, Any]:
    specs = workers()
    specs["Worker"]["template"]["spec"].update(changes)
    return {"replicaSpecs": specs}


DATA = {"name": "d", "mountPath": "/d"}


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"replicaSpecs": {"Worker": {"template": {}}}}, "spec.replicaSpecs.Worker.template.spec is missing"),
        (with_template(containers=[]), "spec.replicaSpecs.Worker.template.spec.containers is empty"),
        (with_template(containers="x"), "spec.replicaSpecs.Worker.template.spec.containers must be a list"),
        (with_template(hostname="me"), "template.spec.hostname is set by the controller"),
        (with_template(initContainers=[{"env": [{"name": "HEADRACE_ATTEMPT"}]}]), "initContainers[0].env: HEADRACE_"),
        (with_template(containers=[{"env": [{"name": "JAX_PROCESS_ID"}]}]), "containers[0].env: JAX_PROCESS_ID is set"),
        (with_template(containers=[{"env": {}}, {"env": "x"}]), "containers[1].env must be a list"),
        ({"replicaSpecs": workers(0)}, "every role has replicas 0"),
        ({"replicaSpecs": {**workers(), **{"PS": workers()["Worker"]}}}, "has no role PS; its roles are Worker"),
        ({"runPolicy": {"schedulingPolicy": {"minAvailable": 3}}}, "minAvailable 3 is more than the 2 pods"),
        ({"datasets": [{"name": "d", "mountPath": "/"}]}, "spec.datasets[0].mountPath '/' must be an absolute path"),
        ({"datasets": [DATA, {"name": "e", "mountPath": "/d/"}]}, "is used by two datasets"),
        (
            {"datasets": [DATA], "checkpoint": {"dataset": "x"}},
            "checkpoint.dataset 'x' is not one of spec.datasets (d)",
        ),
        ({"datasets": [DATA], "checkpoint": {"dataset": "d"}}, "spec.datasets[0].readOnly must be false"),
        (
            {"replicaSpecs": workers(dependsOn=[{"role": "PS"}])},
            "spec.replicaSpecs.Worker.dependsOn[0].role 'PS' is not a role of this job; its roles are Worker",
        ),
        (
            {"replicaSpecs": workers(dependsOn=[{"role": "Worker"}])},
            "spec.replicaSpecs.Worker.dependsOn[0].role 'Worker' closes the circle Worker → Worker, in which",
        ),
        ({"checkpoint": {"volume": "v"}}, "spec.checkpoint.volume 'v' is not mounted"),
        ({"checkpoint": {"volume": "v", "path": "../x"}}, "spec.checkpoint.path '../x' must be relative"),
    ],
)
def test_the_first_problem_names_its_field(spec: dict[str, Any], text: str) -> None:
    one = job(**spec)
    problem = first_problem(one, FRAMEWORKS[one.spec.framework])
    assert problem is not None
    assert text in problem


@pytest.mark.parametrize("name", ["a.b", "1st", "x" * 64])
def test_a_name_must_do_for_a_service(name: str) -> None:
    problem = first_problem(job(name), FRAMEWORKS["JAX"])
    assert problem is not None
    assert problem.startswith(f"metadata.name {name!r}")


def test_roles_that_differ_only_in_capitals_are_refused() -> None:
    one = job(framework="Custom", replicaSpecs={"PS": workers()["Worker"], "Ps": workers()["Worker"]})
    assert "two roles are spelled 'ps'" in (first_problem(one, FRAMEWORKS["Custom"]) or "")


def test_datasets_and_their_annotation_exclude_each_other() -> None:
    specs = workers()
    specs["Worker"]["template"]["metadata"] = {"annotations": {names.DATASETS_ANNOTATION: "[]"}}
    assert "exclude each other" in (first_problem(job(replicaSpecs=specs, datasets=[DATA]), FRAMEWORKS["JAX"]) or "")


def test_a_good_job_has_no_problem() -> None:
    assert first_problem(job(), FRAMEWORKS["JAX"]) is None
