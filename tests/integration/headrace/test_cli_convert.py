"""`headrace convert`: what it prints passes a real API server's strict validation."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from headrace.__main__ import app
from headrace.cluster.binaries import require
from tests.builders.foreign_objects import DATA, JOBS

pytestmark = pytest.mark.cluster


def test_every_converted_object_is_accepted_by_the_api_server_unknown_fields_forbidden(
    api_server: Any, tmp_path: Path
) -> None:
    file = tmp_path / "theirs.yaml"
    file.write_text(f"{JOBS}---\n{DATA}".replace(", namespace: nlp", ""))
    result = CliRunner().invoke(app, ["convert", "-f", str(file)])
    assert result.exit_code == 0, result.output
    assert len(list(yaml.safe_load_all(result.stdout))) == 7
    kubectl = [str(require(["kubectl"])["kubectl"]), "--kubeconfig", str(api_server.kubeconfig)]
    created = subprocess.run(
        [*kubectl, "create", "--dry-run=server", "--validate=strict", "-f", "-"],
        input=result.stdout, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert created.returncode == 0, created.stderr
    assert created.stdout.count("created (server dry run)") == 7


def test_a_list_from_kubectl_is_read_from_standard_input() -> None:
    items = list(yaml.safe_load_all(DATA))
    text = yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": items})
    result = CliRunner().invoke(app, ["convert", "-f", "-"], input=text)
    assert result.exit_code == 0
    kinds = [one["kind"] for one in yaml.safe_load_all(result.stdout)]
    assert kinds == ["Dataset", "CacheRuntime", "DataLoad"]
    assert "# JindoRuntime imagenet spec.jindoVersion has no counterpart and was left out" in result.stderr


@pytest.mark.parametrize(
    ("text", "said"), [("a: [", "is not valid YAML"), ("kind: Pod", "is of no kind that can be converted")]
)
def test_nothing_convertible_fails_with_a_sentence(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    result = CliRunner().invoke(app, ["convert", "-f", str(file)])
    assert result.exit_code == 1
    assert said in result.stderr + str(result.exception)
    assert result.stdout == ""
