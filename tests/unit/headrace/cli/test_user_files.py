"""A user's YAML: what is wrong is said with file, line and column."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.cli import user_files
from headrace.errors import UsageError
from kube.resources import DATASETS, TRAINING_JOBS

JOB = "apiVersion: training.headrace.dev/v1alpha1\nkind: TrainingJob\nmetadata: {name: one}\n"
DATASET = "apiVersion: data.headrace.dev/v1alpha1\nkind: Dataset\nmetadata: {name: two, namespace: other}\n"


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "job.yaml"
    file.write_text(text)
    return file


def test_each_document_is_an_object_in_its_namespace(tmp_path: Path) -> None:
    found = user_files.read(write(tmp_path, f"{JOB}---\n---\n{DATASET}"), "mine")
    assert [(one.resource, one.name, one.namespace) for one in found] == [
        (TRAINING_JOBS, "one", "mine"),
        (DATASETS, "two", "other"),
    ]
    assert found[1].where.endswith("job.yaml:6")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2\nb: 3\n", r"job\.yaml:2:2: this is not YAML: expected ',' or '\]'"),
        ("key: value: x\n", r"job\.yaml:1:11: this is not YAML: mapping values are not allowed here"),
        ("", r"job\.yaml holds no object"),
        ("- 1\n", r"job\.yaml:1: a list stands where an object"),
        ("kind: TrainingJob\n", r"job\.yaml:1: apiVersion is missing"),
        (
            JOB.replace("v1alpha1", "v1"),
            r"TrainingJob has apiVersion 'training\.headrace\.dev/v1'; it should be training",
        ),
        (JOB.replace("TrainingJob", "Job"), r"kind Job .* is not one that submit knows; it knows CacheRuntime, "),
        (JOB.replace("{name: one}", "{}"), r"TrainingJob has no metadata\.name"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        user_files.read(write(tmp_path, text), "default")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.yaml cannot be read: No such file"):
        user_files.read(tmp_path / "none.yaml", "default")


def test_values_of_a_broken_secret_are_not_quoted(tmp_path: Path) -> None:
    text = "kind: Secret\nstringData:\n  password: hunter2: x\n"
    with pytest.raises(UsageError) as caught:
        user_files.read(write(tmp_path, text), "default")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (JOB + "spec: {begins: 2026-02-30}\n", r"job\.yaml: this is not YAML, or holds a value that cannot be read"),
        ("a: " + "[" * 5000, "this is not YAML"),
        (JOB.replace("{name: one}", "{name: one, namespace: 7}"), r"metadata\.namespace 7 of TrainingJob one must be"),
        (JOB.replace("{name: one}", "{name: one, namespace: [a]}"), r"metadata\.namespace \['a'\] of TrainingJob one"),
    ],
)
def test_odd_values_are_said_too(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        user_files.read(write(tmp_path, text), "default")


def test_an_empty_namespace_is_none(tmp_path: Path) -> None:
    (found,) = user_files.read(write(tmp_path, JOB.replace("{name: one}", "{name: one, namespace: }")), "mine")
    assert found.namespace == "mine"
