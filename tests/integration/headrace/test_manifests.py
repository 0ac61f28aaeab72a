"""manifests/: the API server takes every object of every overlay, admission lets the pods in, and the processes that
the manifests start answer the probes that the manifests ask.

Not here: what the CSI plugin makes of its settings (../fuse/test_csi_manifests.py), a real kubelet."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import pytest
import yaml

from api.cacheruntime_v1alpha1 import CacheRuntime
from cacheruntime.controller import pool_workers
from headrace.cluster import binaries, manifests, ports
from headrace.cluster.control_plane import ControlPlane
from tests.builders.api_servers import api_server

Body = dict[str, Any]
OVERLAYS = ("local", "local-trust", "trust", "production")
RUN_SECONDS = 120.0
PATIENCE_SECONDS = 180.0
NODE_NAMESPACE = "headrace-node"
#: The CSI plugin's and the launcher's probes are tested with them.
PROBED = {
    "headrace-metadata",
    "headrace-cacheruntime",
    "headrace-jobcontroller",
    "headrace-scheduler",
    "headrace-dashboard",
    "headrace-worker",
}

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def plane(
    control_plane_binaries: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ControlPlane]:
    """An API server of this file's own: the namespaces here are the platform's."""
    with api_server(tmp_path_factory.mktemp("manifests"), control_plane_binaries, "manifests") as plane:
        yield plane


Kubectl = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def kubectl(plane: ControlPlane) -> Kubectl:
    program = binaries.require(["kubectl"])["kubectl"]

    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [str(program), f"--kubeconfig={plane.kubeconfig}", *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)

    return run


@pytest.fixture(scope="module")
def rendered(kubectl: Kubectl) -> Mapping[str, list[Body]]:
    """Every overlay's objects; what others need to be there is applied."""
    made: dict[str, list[Body]] = {}
    for overlay in OVERLAYS:
        done = kubectl("kustomize", str(manifests.MANIFESTS / "overlays" / overlay))
        assert done.returncode == 0, done.stderr
        made[overlay] = list(yaml.safe_load_all(done.stdout))
    first = ("Namespace", "ServiceAccount", "PriorityClass")
    needed = [each for kind in first for each in made["local"] if each["kind"] == kind]
    done = kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(needed))
    assert done.returncode == 0, done.stderr
    return made


def workloads(objects: list[Body]) -> dict[str, Body]:
    return {each["metadata"]["name"]: each for each in objects if each["kind"] in ("Deployment", "DaemonSet")}


def container_of(workload: Body) -> Body:
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_api_server_takes_every_object(overlay: str, kubectl: Kubectl, rendered: Mapping[str, list[Body]]) -> None:
    dry = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-")
    done = kubectl(*dry, stdin=yaml.safe_dump_all(rendered[overlay]))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(rendered[overlay])
    assert not done.stderr, "a warning: " + done.stderr
    assert workloads(rendered[overlay]).keys() == {*PROBED, "headrace-csi", "headrace-fuse"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_admission_lets_every_pod_in(overlay: str, kubectl: Kubectl, rendered: Mapping[str, list[Body]]) -> None:
    pods = []
    for name, workload in workloads(rendered[overlay]).items():
        template = workload["spec"]["template"]
        metadata = {"name": name, "namespace": workload["metadata"]["namespace"], "labels": {"tried": "yes"}}
        pods.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
    done = kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=yaml.safe_dump_all(pods))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(pods)


def test_pod_security_is_enforced_where_the_platform_runs(kubectl: Kubectl, rendered: Mapping[str, list[Body]]) -> None:
    labels = {
        each["metadata"]["name"]: each["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        for each in rendered["production"]
        if each["kind"] == "Namespace"
    }
    assert labels == {"headrace-system": "restricted", NODE_NAMESPACE: "privileged"}
    template = workloads(rendered["local"])["headrace-worker"]["spec"]["template"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "tried", "namespace": "headrace-system"},
        "spec": {**template["spec"], "serviceAccountName": "headrace-metadata"},
    }
    done = kubectl("create", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(pod))
    assert done.returncode != 0 and "violates PodSecurity" in done.stderr, done


def test_only_the_node_agent_is_privileged(rendered: Mapping[str, list[Body]]) -> None:
    for name, workload in workloads(rendered["production"]).items():
        context = container_of(workload)["securityContext"]
        assert context["readOnlyRootFilesystem"], name
        if name in ("headrace-csi", "headrace-fuse"):
            assert context["runAsUser"] == 0, "the image's user may not mount"
            continue
        assert context["allowPrivilegeEscalation"] is False and context["capabilities"] == {"drop": ["ALL"]}, name
        pod = workload["spec"]["template"]["spec"]["securityContext"]
        assert pod["runAsNonRoot"] and pod["seccompProfile"]["type"] == "RuntimeDefault", name


def test_who_needs_no_rights_in_the_cluster_has_no_token(rendered: Mapping[str, list[Body]]) -> None:
    bound = {
        subject["name"]
        for each in rendered["production"]
        if each["kind"] in ("RoleBinding", "ClusterRoleBinding")
        for subject in each["subjects"]
        if subject["kind"] == "ServiceAccount"
    }
    for name, workload in workloads(rendered["production"]).items():
        spec = workload["spec"]["template"]["spec"]
        has_token = spec.get("automountServiceAccountToken", True)
        assert has_token == (spec["serviceAccountName"] in bound), name
    assert bound == {"headrace-scheduler", "headrace-jobcontroller", "headrace-cacheruntime", "headrace-dashboard"}


def test_production_has_two_of_what_elects_a_leader(rendered: Mapping[str, list[Body]]) -> None:
    found = workloads(rendered["production"])
    for name in ("headrace-scheduler", "headrace-jobcontroller", "headrace-cacheruntime"):
        spec = found[name]["spec"]["template"]["spec"]
        assert found[name]["spec"]["replicas"] == 2
        (term,) = spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert term["topologyKey"] == "kubernetes.io/hostname"
        assert spec["topologySpreadConstraints"][0]["topologyKey"] == "topology.kubernetes.io/zone"
    metadata = found["headrace-metadata"]
    assert (metadata["spec"]["replicas"], metadata["spec"]["strategy"]["type"]) == (1, "Recreate")
    environment = {each["name"]: each for each in container_of(metadata)["env"]}
    assert "secretKeyRef" in environment["HEADRACE_METADATA_STORE"]["valueFrom"]
    budgets = [each for each in rendered["production"] if each["kind"] == "PodDisruptionBudget"]
    covered = {each["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"] for each in budgets}
    assert covered == {name for name in PROBED if found[name]["kind"] == "Deployment"} - {"headrace-dashboard"}


def test_trust_gives_everybody_an_identity(rendered: Mapping[str, list[Body]]) -> None:
    for overlay in ("trust", "production"):
        for name, workload in workloads(rendered[overlay]).items():
            if name == "headrace-dashboard":
                continue  # it speaks to the API server only
            container = container_of(workload)
            mounted = {each["mountPath"] for each in container["volumeMounts"]}
            told = [each.get("value") for each in container.get("env", []) if each["name"].endswith("_TRUST")]
            told += [word.partition("=")[2] for word in container.get("args", []) if word.startswith("--trust=")]
            assert told == ([] if name == "headrace-scheduler" else ["/etc/headrace/trust"]), name
            assert set(told) <= mounted, name


class Machine:
    """Runs what manifests say on this machine: other ports, folders of the test, no images."""

    def __init__(self, folder: Path, kubeconfig: Path, objects: list[Body]) -> None:
        self._folder = folder
        self._kubeconfig = kubeconfig
        self._ports: dict[str, int] = {}
        self._config = {each["metadata"]["name"]: each["data"] for each in objects if each["kind"] == "ConfigMap"}
        self._processes: list[subprocess.Popen[bytes]] = []

    def port(self, number: str) -> int:
        if number not in self._ports:
            self._ports[number] = ports.pick_free(self._ports.values())
        return self._ports[number]

    def here(self, text: str) -> str:
        """A manifest's word, as it is right on this machine."""
        for address in ("0.0.0.0", "127.0.0.1", "headrace-metadata.headrace-system"):
            head, found, rest = text.partition(f"{address}:")
            if found:
                number = rest[: len(rest) - len(rest.lstrip("0123456789"))]
                return f"{head}127.0.0.1:{self.port(number)}{rest[len(number) :]}"
        for folder in ("/var/lib/headrace", "/etc/headrace", "/run/headrace", "/cache"):
            text = text.replace(folder, f"{self._folder}{folder}")
        return text

    def environment(self, container: Body) -> dict[str, str]:
        fields = {"spec.nodeName": "node-1", "status.podIP": "127.0.0.1"}
        values: dict[str, str] = {}
        for each in container.get("env", []):
            source = each.get("valueFrom", {})
            if "fieldRef" in source:
                values[each["name"]] = fields[source["fieldRef"]["fieldPath"]]
            elif "configMapKeyRef" in source:
                reference = source["configMapKeyRef"]
                values[each["name"]] = self._config[reference["name"]][reference["key"]]
            else:
                values[each["name"]] = self.here(each["value"])
        return values

    def argv(self, words: list[str], values: Mapping[str, str] = {}) -> list[str]:
        for name, value in values.items():
            words = [word.replace(f"$({name})", value) for word in words]
        program = {"python": sys.executable, "headrace": str(Path(sys.executable).with_name("headrace"))}
        return [program[words[0]], *(self.here(word) for word in words[1:])]

    def start(self, name: str, workload: Body) -> subprocess.Popen[bytes]:
        container = container_of(workload)
        for each in container["volumeMounts"]:
            if each["mountPath"] != "/tmp":
                Path(self.here(each["mountPath"])).mkdir(parents=True, exist_ok=True)
        values = self.environment(container)
        argv = self.argv([*container["command"], *container.get("args", [])], values)
        env = {**os.environ, **values, "KUBECONFIG": str(self._kubeconfig)}
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(argv, env=env, stdout=log, stderr=subprocess.STDOUT)
        self._processes.append(process)
        return process

    def probe(self, container: Body, kind: str) -> str:
        """Ask once; "" when the answer is yes, else why not."""
        named = {each["name"]: str(each["containerPort"]) for each in container["ports"]}
        get = container[kind]["httpGet"]
        url = f"http://127.0.0.1:{self.port(named[get['port']])}{get['path']}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return "" if answer.status == 200 else str(answer.status)
        except HTTPError as error:
            return str(error)
        except URLError as error:
            return str(error.reason)

    def stop(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(15)


def test_what_the_manifests_start_answers_their_probes(
    plane: ControlPlane, rendered: Mapping[str, list[Body]], tmp_path: Path
) -> None:
    found = workloads(rendered["local"])
    machine = Machine(tmp_path, plane.kubeconfig, rendered["local"])
    try:
        running = {name: machine.start(name, found[name]) for name in sorted(PROBED)}
        waits = [
            (name, kind)
            for name in running
            for kind in ("startupProbe", "readinessProbe", "livenessProbe")
            if kind in container_of(found[name])
        ]
        assert {name for name, kind in waits if kind == "livenessProbe"} == PROBED
        deadline = time.monotonic() + PATIENCE_SECONDS
        while waits:
            name, kind = waits[0]
            why = machine.probe(container_of(found[name]), kind)
            if not why:
                waits.pop(0)
                continue
            log = (tmp_path / f"{name}.log").read_text(errors="replace")
            assert running[name].poll() is None, f"{name} ended:\n{log[-3000:]}"
            assert time.monotonic() < deadline, f"{name} {kind}: {why}\n{log[-3000:]}"
            time.sleep(0.2)
    finally:
        machine.stop()
    assert {
        name: process.returncode for name, process in running.items() if name != "headrace-dashboard"
    } == dict.fromkeys(PROBED - {"headrace-dashboard"}, 0)


def test_a_pools_worker_starts_with_its_tiers_and_is_let_in(
    plane: ControlPlane, kubectl: Kubectl, rendered: Mapping[str, list[Body]], tmp_path: Path
) -> None:
    found = workloads(rendered["local"])
    levels = [
        {"mediumtype": "MEM", "path": "memory", "quota": "16Mi"},
        {"mediumtype": "SSD", "path": "/var/lib/headrace/cache", "quota": "32Mi", "high": "0.9"},
    ]
    spec = {"tieredstore": {"levels": levels}}
    runtime = CacheRuntime.model_validate({"metadata": {"namespace": "team", "name": "fast"}, "spec": spec})
    pool = pool_workers.daemon_set("team.fast", found["headrace-worker"], runtime)
    dry = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-")
    done = kubectl(*dry, stdin=yaml.safe_dump(pool))
    assert done.returncode == 0 and not done.stderr, done.stderr
    machine = Machine(tmp_path, plane.kubeconfig, rendered["local"])
    try:
        machine.start("headrace-metadata", found["headrace-metadata"])
        worker = machine.start("worker", pool)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while why := machine.probe(container_of(pool), "readinessProbe"):
            log = (tmp_path / "worker.log").read_text(errors="replace")
            assert worker.poll() is None and time.monotonic() < deadline, f"{why}\n{log[-3000:]}"
            time.sleep(0.2)
    finally:
        machine.stop()
    tiers = {str(one.relative_to(tmp_path)) for one in (tmp_path / "cache").rglob("tier*") if one.is_dir()}
    assert {"cache/memory/tier-0", "cache/tiers/1/tier"} <= tiers


def test_admission_lets_the_pods_of_fluids_class_in(kubectl: Kubectl, rendered: Mapping[str, list[Body]]) -> None:
    done = kubectl("kustomize", str(manifests.MANIFESTS / "fluid"))
    assert done.returncode == 0, done.stderr
    (found,) = yaml.safe_load_all(done.stdout)

    def create(component: str, namespace: str, account: str) -> subprocess.CompletedProcess[str]:
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"fluid-{component}", "namespace": namespace},
            "spec": {**found["topology"][component]["template"]["spec"], "serviceAccountName": account},
        }
        return kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=yaml.safe_dump(pod))

    # Fluid makes them in the Dataset's namespace; ours stand for one that is restricted, and one that is not.
    for component in ("master", "worker"):
        done = create(component, "headrace-system", "headrace-metadata")
        assert done.returncode == 0 and not done.stderr, (component, done.stderr)
    assert "violates PodSecurity" in create("client", "headrace-system", "headrace-metadata").stderr
    done = create("client", NODE_NAMESPACE, "headrace-worker")
    assert done.returncode == 0 and not done.stderr, done.stderr
