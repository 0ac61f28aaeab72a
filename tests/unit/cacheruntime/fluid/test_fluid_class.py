"""manifests/fluid and its example: they say what the entry points and Fluid's controllers take."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cacheruntime.fluid.__main__ import COMMANDS
from cacheruntime.fluid.core import config, plan
from cacheruntime.fluid.settings import FluidSettings

Body = dict[str, Any]
MANIFESTS = Path(__file__).resolve().parents[4] / "manifests"
CLASS: Body = yaml.safe_load((MANIFESTS / "fluid" / "cacheruntimeclass.yaml").read_text())
EXAMPLE: list[Body] = list(yaml.safe_load_all((MANIFESTS / "examples" / "fluid-runtime.yaml").read_text()))
COMPONENTS = ("master", "worker", "client")
CRD = "HEADRACE_FLUID_CRD"


def of_kind(kind: str) -> Body:
    (found,) = [each for each in EXAMPLE if each["kind"] == kind]
    return found


def container(component: str) -> Body:
    (found,) = CLASS["topology"][component]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def commands() -> Iterator[tuple[str, list[str]]]:
    for component in COMPONENTS:
        yield component, container(component)["command"]
    entries = CLASS["topology"]["master"]["executionEntries"]
    yield "mount-ufs", entries["mountUFS"]["command"]
    yield "report-summary", entries["reportSummary"]["command"]
    (load,) = CLASS["dataOperationSpecs"]
    assert load["name"] == "DataLoad"
    yield "load", load["command"]


def test_every_entry_point_is_named_once() -> None:
    found = dict(commands())
    assert found.keys() == COMMANDS.keys()
    for name, command in found.items():
        assert command == ["python", "-m", "cacheruntime.fluid", name], "and no shell characters, which Fluid refuses"


def test_ports_folders_and_deadlines_are_the_settings() -> None:
    settings = FluidSettings.model_fields
    ports = {port["name"]: port["containerPort"] for part in COMPONENTS for port in container(part).get("ports", [])}
    assert ports["grpc"] == settings["metadata_port"].default
    assert (ports["bytes"], ports["control"]) == (settings["byte_port"].default, settings["control_port"].default)
    assert {port["containerPort"] for port in container("master")["ports"]} >= {
        settings["metadata_metrics_port"].default
    }
    assert {port["containerPort"] for port in container("worker")["ports"]} >= {settings["worker_metrics_port"].default}
    for component in COMPONENTS:
        paths = {one["mountPath"] for one in container(component)["volumeMounts"]}
        assert {str(settings["run"].default), "/tmp"} <= paths
    assert str(settings["state"].default) in {one["mountPath"] for one in container("master")["volumeMounts"]}
    entries = CLASS["topology"]["master"]["executionEntries"]
    assert entries["mountUFS"]["timeout"] >= settings["wait_seconds"].default + settings["call_seconds"].default
    assert all(entry["timeout"] >= 20 for entry in entries.values()), "Fluid takes no less"


def test_fluid_finds_our_mounts_and_gives_secrets_as_files() -> None:
    assert CLASS["fileSystemType"] == plan.FILE_SYSTEM
    for component in COMPONENTS:
        part = CLASS["topology"][component]
        assert part["dependencies"] == {"secretMount": {"enabled": True}}
        assert "metadata" not in part["template"], "Fluid's CRD keeps no labels of a template"
        names = [one["name"] for one in container(component).get("env", [])]
        assert not [name for name in names if "KEY" in name or "SECRET" in name]
    assert CLASS["topology"]["master"]["service"] == {"headless": {}}, "others find the master by it"


def test_only_the_client_is_privileged() -> None:
    for component in COMPONENTS:
        spec = CLASS["topology"][component]["template"]["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        context = container(component)["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        if component == "client":
            assert context["privileged"] is True, "Kubernetes lets nobody else hand mounts on to the node"
            continue
        # Pod Security `restricted`, as far as it is ours: a tiered store of hostPath is not.
        assert context["allowPrivilegeEscalation"] is False and context["capabilities"] == {"drop": ["ALL"]}
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert all("emptyDir" in volume for volume in spec["volumes"])


def config_of_the_example() -> config.RuntimeConfig:
    """What Fluid's controller makes of the example's objects."""
    dataset, runtime = of_kind("Dataset")["spec"], of_kind("CacheRuntime")["spec"]
    levels = []
    for index, level in enumerate(runtime["worker"]["tieredStore"]["levels"]):
        memory = level.get("processMemory")
        quota = (memory or level["emptyDir"])["quota"]
        path = "/dev/shm" if memory else f"/etc/fluid/mount/tiered-store/level-{index}-index-0-emptydir"
        levels.append(
            {
                "mountPaths": [path],
                "mediumType": "MEM" if memory else "HDD",
                "quotas": [quota],
                **{mark: level[mark] for mark in ("high", "low") if mark in level},
            }
        )
    mounts = []
    for mount in dataset["mounts"]:
        secrets = {
            one["name"]: "/etc/fluid/secrets/{name}/{key}".format(**one["valueFrom"]["secretKeyRef"])
            for one in mount["encryptOptions"]
        }
        mounts.append({**mount, "encryptOptions": secrets})
    body = {
        "mounts": mounts,
        "accessModes": dataset["accessModes"],
        "targetPath": "/runtime-mnt/cache/default/corpus/cache-fuse",
        "master": {"enabled": True, "name": "corpus-master", "replicas": 1, "service": {"name": "svc-corpus-master"}},
        "worker": {
            "enabled": True,
            "name": "corpus-worker",
            "replicas": runtime["worker"]["replicas"],
            "options": runtime["worker"]["options"],
            "tieredStoreLevels": levels,
        },
        "client": {"enabled": True, "name": "corpus-client"},
    }
    return config.parse_config(json.dumps(body))


def test_the_example_can_be_served() -> None:
    found = config_of_the_example()
    who = config.dataset_name(found, {})
    assert str(who) == "default/corpus" and of_kind("CacheRuntime")["metadata"]["name"] == who.name
    item = plan.dataset_of(found, who, "/etc/fluid/secrets")
    secret = of_kind("Secret")
    for option in item.spec.mounts[0].encrypt_options:
        reference = option.value_from.secret_key_ref
        assert reference.name == secret["metadata"]["name"] and reference.key in secret["stringData"]
    assert len(plan.tier_arguments(found.worker, who, "corpus-worker-0")) == 2
    assert of_kind("CacheRuntime")["spec"]["runtimeClassName"] == CLASS["metadata"]["name"]
    labels = of_kind("CacheRuntime")["spec"]["podMetadata"]["labels"]
    assert of_kind("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels


def crd_file() -> Path | None:
    """Fluid's CRD, from HEADRACE_FLUID_CRD or from a Go module cache; it is in no module version before 1.1."""
    given = os.environ.get(CRD)
    if given:
        return Path(given)
    try:
        asked = subprocess.run(["go", "env", "GOMODCACHE"], capture_output=True, text=True, timeout=20, check=False)
    except OSError:
        return None
    pattern = "fluid@*/config/crd/bases/data.fluid.io_cacheruntimeclasses.yaml"
    found = sorted((Path(asked.stdout.strip() or "/nowhere") / "github.com" / "fluid-cloudnative").glob(pattern))
    return found[-1] if found else None


def closed(schema: Any) -> Any:
    """A schema that refuses what the API server would drop."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    is_open = found.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in found
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not is_open:
        found["additionalProperties"] = False
    return found


def test_fluids_own_crd_takes_the_class() -> None:
    file = crd_file()
    if file is None:
        pytest.skip(
            f"Fluid's CRD is not here: give its file as {CRD}, or have Fluid 1.1's Go module in the module cache"
        )
    jsonschema: Any = pytest.importorskip("jsonschema")
    crd = yaml.safe_load(file.read_text())
    (version,) = [each for each in crd["spec"]["versions"] if each["name"] == CLASS["apiVersion"].partition("/")[2]]
    jsonschema.validate(CLASS, closed(version["schema"]["openAPIV3Schema"]))
