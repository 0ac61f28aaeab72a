"""`headrace submit, get, describe, explain, suspend, stop, wait, logs --all, delete` against a real API server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import typer
import yaml
from typer.testing import CliRunner

from headrace.cli import jobs, waiting
from headrace.cli.logs import logs
from kube.client import KubeClient
from kube.config import load_config
from kube.events import EventRecorder
from kube.objects import reference_to
from kube.resources import NAMESPACES, PODS, SERVICE_ACCOUNTS, TRAINING_JOBS
from tests.builders.training_jobs import job_body

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[3]


class Cli:
    """The commands, with this cluster and a namespace of its own."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self.kubeconfig = kubeconfig
        self.namespace = namespace
        self._app = typer.Typer()
        jobs.register(self._app)
        waiting.register(self._app)
        self._app.command()(logs)

    def __call__(self, *words: str, succeeds: bool = True) -> str:
        arguments = [*words, "-n", self.namespace, "--kubeconfig", str(self.kubeconfig)]
        result = CliRunner(env={"COLUMNS": "200"}).invoke(self._app, arguments)
        text = result.output + (str(result.exception) if result.exception else "")
        assert (result.exit_code == 0) is succeeds, text
        return text

    def with_client(self, work: Any) -> Any:
        async def connected() -> Any:
            async with KubeClient(load_config(self.kubeconfig), user_agent="tests") as client:
                return await work(client)

        return asyncio.run(connected())


@pytest.fixture
def cli(api_server: Any) -> Iterator[Cli]:
    one = Cli(api_server.kubeconfig, f"cli-{uuid4().hex[:8]}")
    one.with_client(lambda client: client.create(NAMESPACES, {"metadata": {"name": one.namespace}}))
    yield one


def write(tmp_path: Path, *bodies: dict[str, Any]) -> str:
    file = tmp_path / "objects.yaml"
    file.write_text(yaml.safe_dump_all(bodies))
    return str(file)


def test_a_jobs_life_on_the_command_line(cli: Cli, tmp_path: Path) -> None:
    mount = {"name": "d", "mountPoint": "file:///srv/d"}
    dataset = {
        "apiVersion": "data.headrace.dev/v1alpha1",
        "kind": "Dataset",
        "metadata": {"name": "d"},
        "spec": {"mounts": [mount]},
    }
    file = write(tmp_path, dataset, job_body("one"))
    assert cli("submit", "-f", file) == "Dataset d submitted\nTrainingJob one submitted\n"
    assert "TrainingJob one exists already" in cli("submit", "-f", file, succeeds=False)
    assert cli("get", "jobs").splitlines()[1].split()[:3] == ["one", "JAX", "New"]
    assert json.loads(cli("get", "datasets", "d", "-o", "json"))["items"][0]["spec"]["mounts"][0]["name"] == "d"
    assert cli("suspend", "job", "one") == "TrainingJob one suspended\n"
    assert yaml.safe_load(cli("get", "jobs", "one", "-o", "yaml"))["spec"]["runPolicy"]["suspend"] is True
    cli("resume", "job", "one")

    async def tell(client: KubeClient) -> None:
        job = await client.get(TRAINING_JOBS, "one", cli.namespace)
        recorder = EventRecorder(client, "tests", "tests")
        task = asyncio.create_task(recorder.run())
        regarding = reference_to(job, kind=TRAINING_JOBS.kind, api_version=TRAINING_JOBS.api_version)
        recorder.record(regarding, "Restarting", "pod one-worker-0-a0 was killed")
        assert await recorder.drain(10)
        task.cancel()
        await asyncio.wait({task})

    cli.with_client(tell)
    described = cli("describe", "job", "one")
    assert "TrainingJob " in described
    assert "pod one-worker-0-a0 was killed" in described
    assert "one has no pods" in cli("explain", "job", "one")
    assert cli("delete", "job", "one") == "TrainingJob one deleted\n"
    assert "no jobs in namespace" in cli("get", "jobs")


def test_what_the_server_refuses_is_one_sentence_a_field(cli: Cli, tmp_path: Path) -> None:
    wrong = job_body("wrong", framework="Abacus", replicaSpecs={"Worker": {"template": {}, "replicas": -1}})
    lines = cli("submit", "-f", write(tmp_path, wrong), succeeds=False).splitlines()
    assert lines[0].endswith("TrainingJob wrong is not valid:")
    assert any(line.startswith("  spec.framework: ") for line in lines)
    assert any(line.startswith("  spec.replicaSpecs.Worker.replicas: ") for line in lines)
    misspelt = job_body("wrong", checkpoints={})
    text = cli("submit", "-f", write(tmp_path, misspelt), succeeds=False)
    assert "spec.checkpoints: there is no such field; check its spelling" in text
    wrong = job_body("wrong", checkpoint={"dataset": "x"})
    text = cli("submit", "-f", write(tmp_path, wrong), succeeds=False)
    assert "checkpoint.dataset must be the name of one of spec.datasets" in text


def test_what_is_not_there_is_named(cli: Cli) -> None:
    assert 'trainingjobs.training.headrace.dev "none" not found' in cli("describe", "job", "none", succeeds=False)
    assert 'pods "none" not found' in cli("explain", "pod", "none", succeeds=False)


def test_a_schedule_is_submitted_and_listed(cli: Cli) -> None:
    assert "nightly" in cli("submit", "-f", str(ROOT / "manifests" / "examples" / "crontrainingjob.yaml"))
    header, row = cli("get", "crons").splitlines()
    assert header.split()[:5] == ["NAME", "SCHEDULE", "ZONE", "POLICY", "STATE"]
    assert row.split()[:8] == ["nightly", "0", "2", "*", "*", "*", "Europe/Berlin", "Forbid"]
    assert '"kind": "CronTrainingJob"' in cli("get", "cron", "nightly", "-o", "json")
    cli("delete", "cron", "nightly")


def set_state(cli: Cli, name: str, state: str) -> None:
    """As the job controller does."""
    condition = {
        "type": state, "status": "True", "reason": "Told", "message": "by the test",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    patch = {"status": {"conditions": [condition]}}
    cli.with_client(lambda client: client.patch(TRAINING_JOBS, name, patch, cli.namespace, subresource="status"))


def test_a_job_is_waited_for(cli: Cli, tmp_path: Path) -> None:
    cli("submit", "-f", write(tmp_path, job_body("one"), job_body("two")))
    assert "TrainingJob one is not there after 0.1 s" in cli("wait", "job", "one", "--timeout", "0.1", succeeds=False)
    set_state(cli, "one", "Running")
    assert cli("wait", "job", "one", "--for", "Running").endswith("one: Running\n")
    set_state(cli, "one", "Succeeded")
    assert "one: Succeeded" in cli("wait", "job", "one")
    cli("wait", "job", "one", "--for", "Running", succeeds=False)
    set_state(cli, "two", "Failed")
    assert "two: Failed" in cli("wait", "job", "two", succeeds=False)
    cli("wait", "job", "two", "--for", "Failed")
    assert "not found" in cli("wait", "job", "none", succeeds=False)
    assert "--for 'Ready' is no state of a job" in cli("wait", "job", "one", "--for", "Ready", succeeds=False)
    assert "'pod' cannot be waited for" in cli("wait", "pod", "one", succeeds=False)


def test_a_job_is_stopped_once(cli: Cli, tmp_path: Path) -> None:
    cli("submit", "-f", write(tmp_path, job_body("one")))
    assert cli("stop", "job", "one") == "TrainingJob one is being stopped\n"
    assert "training.headrace.dev/stop" in cli("get", "jobs", "one", "-o", "yaml")
    set_state(cli, "one", "Failed")
    assert cli("stop", "job", "one") == "TrainingJob one had ended before: Failed\n"
    assert "not found" in cli("stop", "job", "none", succeeds=False)
    assert "'cron' cannot be stopped" in cli("stop", "cron", "one", succeeds=False)


def test_names_that_no_path_can_hold_are_refused_with_a_sentence(cli: Cli) -> None:
    for words in (
        ("describe", "job"),
        ("wait", "job"),
        ("stop", "job"),
        ("suspend", "job"),
        ("delete", "job"),
        ("logs",),
    ):
        assert "cannot be part of a path" in cli(*words, "a/b", succeeds=False), words
    assert "cannot be part of a path" in cli("logs", "a/b", "--all", succeeds=False)


def test_logs_of_a_jobs_pods_say_which_pods_have_none(cli: Cli, tmp_path: Path) -> None:
    cli("submit", "-f", write(tmp_path, job_body("one")))
    assert "has no pods" in cli("logs", "one", "--all", succeeds=False)
    assert "no log of job" in cli("logs", "none", "--all", succeeds=False)
    uid = cli.with_client(lambda client: client.get(TRAINING_JOBS, "one", cli.namespace))["metadata"]["uid"]
    pod = {
        "metadata": {"name": "odd", "labels": {"training.headrace.dev/job-uid": uid}},
        "spec": {"containers": [{"name": "main", "image": "x"}]},
    }
    account = {"metadata": {"name": "default"}}
    cli.with_client(lambda client: client.create(SERVICE_ACCOUNTS, account, cli.namespace))
    cli.with_client(lambda client: client.create(PODS, pod, cli.namespace))
    text = cli("logs", "one", "--all", succeeds=False)
    assert "[odd] " in text and "no log of job" in text
    assert "odd" in cli("describe", "job", "one"), "a pod with the job's label and nothing else"
