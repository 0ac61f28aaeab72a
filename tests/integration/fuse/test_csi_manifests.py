"""The CSI driver's manifests: the API server takes every object, and the processes take their settings."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from api import names
from fuse.csi.settings import Settings
from headrace.cluster import binaries, manifests
from tests.conftest import ApiServer

BASE = manifests.MANIFESTS / "base" / "csi"
TRUST = manifests.MANIFESTS / "overlays" / "trust"
EXAMPLE = manifests.MANIFESTS / "examples" / "volumes.yaml"
NAMESPACE = "csi-manifests"
NODE_NAMESPACE = "headrace-node"
RUN_SECONDS = 60.0


def _objects() -> dict[tuple[str, str], dict[str, Any]]:
    files = [BASE / name for name in yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]]
    return {(each["kind"], each["metadata"]["name"]): each for each in manifests.load(files)}


@pytest.mark.cluster
def test_the_api_server_takes_every_object(api_server: ApiServer) -> None:
    program = binaries.require(["kubectl"])["kubectl"]

    def kubectl(*arguments: str) -> str:
        command = [str(program), f"--kubeconfig={api_server.kubeconfig}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    # Objects of a dry run need a namespace that is there, and pods an account, which no controller makes here.
    kubectl("apply", "--server-side", "-f", str(BASE / "namespace-node.yaml"))
    kubectl("create", "namespace", NAMESPACE)
    kubectl("-n", NAMESPACE, "create", "serviceaccount", "default")
    try:
        dry = ("apply", "--server-side", "--dry-run=server", "--validate=strict")
        taken = kubectl(*dry, "-k", str(BASE)).splitlines()
        assert len(taken) == len(_objects())
        # What the API server makes of the whole overlay: ../headrace/test_manifests.py.
        made = [
            each
            for each in yaml.safe_load_all(kubectl("kustomize", str(TRUST)))
            if (each["kind"], each["metadata"]["name"]) in _objects() and each["kind"] == "DaemonSet"
        ]
        for each in made:
            (container,) = each["spec"]["template"]["spec"]["containers"]
            environment = {one["name"]: one.get("value") for one in container["env"]}
            assert environment["HEADRACE_CSI_TRUST"] in [one["mountPath"] for one in container["volumeMounts"]]
            assert environment["HEADRACE_CSI_METADATA"], "what the base has is still there"
        assert len(made) == 2
        taken = kubectl("-n", NAMESPACE, *dry, "-f", str(EXAMPLE)).splitlines()
        assert len(taken) == len(manifests.load([EXAMPLE]))
    finally:
        kubectl("delete", "--wait=false", "namespace", NAMESPACE, NODE_NAMESPACE)


def test_every_file_is_in_the_kustomization() -> None:
    listed = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == sorted(file.name for file in BASE.glob("*.yaml") if file.name != "kustomization.yaml")


def test_the_driver_object_is_what_the_code_relies_on() -> None:
    spec = _objects()["CSIDriver", names.CSI_DRIVER]["spec"]
    assert spec["podInfoOnMount"] and spec["requiresRepublish"]
    assert not spec["attachRequired"]
    assert sorted(spec["volumeLifecycleModes"]) == ["Ephemeral", "Persistent"]
    assert _objects()["StorageClass", names.STORAGE_CLASS]["provisioner"] == names.CSI_DRIVER


@pytest.mark.parametrize(("name", "role"), [("headrace-csi", "plugin"), ("headrace-fuse", "launcher")])
def test_the_processes_take_their_settings(name: str, role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (container,) = _objects()["DaemonSet", name]["spec"]["template"]["spec"]["containers"]
    for variable in container["env"]:
        assert variable["name"].removeprefix("HEADRACE_CSI_").lower() in Settings.model_fields
        monkeypatch.setenv(variable["name"], variable.get("value", "node-1"))
    command = container["command"]
    assert command[:3] == ["python", "-m", "fuse.csi"]
    settings = Settings(_cli_parse_args=command[3:])  # type: ignore[call-arg]
    assert settings.role == role
    mounted = [Path(each["mountPath"]) for each in container["volumeMounts"]]
    used = [settings.state, settings.launcher_socket, settings.worker_socket]
    used += [settings.socket, settings.registration] if role == "plugin" else []
    for path in used:
        assert path is not None and any(path.is_relative_to(folder) for folder in mounted), path
    # What answers there: test_a_probe_finds_a_process_that_does_not_turn. From outside the pod: kubelet asks it.
    (port,) = container["ports"]
    assert settings.metrics == f"0.0.0.0:{port['containerPort']}"
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": port["name"]}


def test_the_plugin_has_no_rights_in_the_cluster() -> None:
    kinds = {kind for kind, _ in _objects()}
    assert not {kind for kind in kinds if "Role" in kind}
    assert _objects()["ServiceAccount", "headrace-csi"]["automountServiceAccountToken"] is False
    for name in ("headrace-csi", "headrace-fuse"):
        assert _objects()["DaemonSet", name]["spec"]["template"]["spec"]["automountServiceAccountToken"] is False
