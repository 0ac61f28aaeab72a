"""Command lines of Fluid's pods: the parts' own parsers take them, and no secret is on them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cacheruntime.fluid import __main__ as entry
from cacheruntime.worker.settings import parse
from metadata.settings import MetadataSettings
from understores.credentials import SecretOptions


class Became(Exception):
    """Where the process would be another one."""

    def __init__(self, words: list[str]) -> None:
        super().__init__(words)
        self.words = words


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pod of Fluid's; its environment is what ours was before, afterwards."""
    secret = tmp_path / "secrets" / "keys"
    secret.mkdir(parents=True)
    # As the kubelet writes a Secret: a link to a folder that is swapped.
    (secret / "..2026").mkdir()
    (secret / "..2026" / "id").write_text("hunter2\n")
    (secret / "..data").symlink_to("..2026")
    (secret / "id").symlink_to("..data/id")
    body: dict[str, Any] = {
        "mounts": [
            {
                "mountPoint": "s3://bucket",
                "name": "data",
                "encryptOptions": {"accessKeyId": f"{tmp_path}/secrets/keys/id"},
            }
        ],
        "targetPath": "/runtime-mnt/cache/team/corpus/cache-fuse",
        "master": {"enabled": True, "name": "corpus-master", "replicas": 1, "service": {"name": "svc-corpus-master"}},
        "worker": {
            "enabled": True,
            "name": "corpus-worker",
            "replicas": 1,
            "tieredStoreLevels": [{"mountPaths": [f"{tmp_path}/c"], "mediumType": "SSD", "quotas": ["1Gi"]}],
        },
    }
    (tmp_path / "runtime.json").write_text(json.dumps(body))
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "introduced").touch()  # a first start runs a service: tests/integration has it
    for name in ("HEADRACE_WORKER_TEMPORARY_PERCENT", "HEADRACE_WORKER_TEMPORARY_BYTES_MIN"):
        monkeypatch.setenv(name, "")
    for name, value in {
        "FLUID_RUNTIME_CONFIG_PATH": str(tmp_path / "runtime.json"),
        "HEADRACE_FLUID_RUN": str(tmp_path / "run"),
        "HEADRACE_FLUID_STATE": str(tmp_path / "state"),
        "HEADRACE_FLUID_SECRETS": str(tmp_path / "secrets"),
        "HEADRACE_WORKER_SPARE_DIRECTORY": "",
        "POD_NAME": "corpus-worker-0",
        "POD_IP": "10.1.2.3",
    }.items():
        monkeypatch.setenv(name, value)

    def become(_: str, words: list[str]) -> None:
        raise Became(words)

    monkeypatch.setattr(os, "execv", become)
    return tmp_path


def became(command: str) -> list[str]:
    with pytest.raises(Became) as caught:
        entry.main([command])
    assert "hunter2" not in " ".join([*caught.value.words, *os.environ.values()])
    return caught.value.words[2:]


def test_a_master_is_the_metadata_service(pod: Path) -> None:
    name, *rest = became("master")
    assert name == "metadata"
    given = dict(zip(rest[::2], rest[1::2], strict=True))
    named = {key[2:].replace("-", "_"): value for key, value in given.items()}
    settings = MetadataSettings.model_validate(named)
    assert settings.store == f"sqlite://{pod}/state/metadata.db" and settings.listen == "0.0.0.0:7100"
    options = SecretOptions(settings.credentials_dir, {"accessKeyId": "keys/id"})
    assert options.values() == {"accessKeyId": "hunter2"}


def test_a_master_may_have_a_database_elsewhere(pod: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_METADATA_STORE", "postgresql://u@host/db?passfile=/f")
    assert "--store" not in became("master")


def test_a_worker_is_our_worker_with_fluids_tiers(pod: Path) -> None:
    name, kind, *rest = became("worker")
    assert (name, kind) == ("cacheruntime", "worker")
    settings = parse(rest)
    assert (settings.node, str(settings.listen), str(settings.control)) == (
        "corpus-worker-0",
        "10.1.2.3:7201",
        "10.1.2.3:7202",
    )
    assert str(settings.metadata) == "corpus-master-0.svc-corpus-master.team:7100"
    (tier,) = settings.tiers
    assert tier.directory == pod / "c" / "headrace" / "team" / "corpus-worker-0"
    assert (settings.credentials_dir / "keys" / "id").read_text() == "hunter2\n"


@pytest.mark.parametrize("command", ["worker", "mount-ufs", "load"])
def test_without_a_config_it_says_what_to_give(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FLUID_RUNTIME_CONFIG_PATH", raising=False)
    assert entry.main([command]) == 1
    assert entry.main(["--config", "/nowhere/runtime.json", command]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert "--config FILE" in first and "/nowhere/runtime.json cannot be read" in second


def test_a_worker_without_tiers_says_so(pod: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = json.loads((pod / "runtime.json").read_text())
    del body["worker"]["tieredStoreLevels"]
    (pod / "runtime.json").write_text(json.dumps(body))
    assert entry.main(["worker"]) == 1
    assert "spec.worker.tieredStore.levels" in capsys.readouterr().err


def test_a_setting_that_is_none_is_named(
    pod: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADRACE_FLUID_BYTE_PORT", "many")
    assert entry.main(["worker"]) == 1
    assert "HEADRACE_FLUID_BYTE_PORT" in capsys.readouterr().err


def test_help_has_every_command_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        entry.main(["--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0 and '{"mounted": ["/minio"]}' in text
    assert all(command in text for command in entry.COMMANDS)
