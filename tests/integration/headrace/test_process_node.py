"""A real process node on a real API server: what users see of their pods.

Pods are bound by hand (spec.nodeName), so no scheduler is needed. Where the words of
kubelet matter they are compared literally. Timing is never asserted, only awaited."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from api import names
from headrace.cli.logs import logs
from headrace.cluster.binaries import require
from headrace.errors import UsageError
from jobcontroller.core import start_gate

#: A read-only file system of one file, /default/imagenet/label, until its mount is taken away.
TINY_FUSE = """
import errno, os, stat, sys
import pyfuse3, trio
NAMES = {1: (b"default", 2), 2: (b"imagenet", 3), 3: (b"label", 4)}
TEXT = b"cat\\n"
class Files(pyfuse3.Operations):
    async def getattr(self, inode, ctx=None):
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = stat.S_IFREG | 0o644 if inode == 4 else stat.S_IFDIR | 0o755
        entry.st_size = len(TEXT) if inode == 4 else 0
        return entry
    async def lookup(self, parent, name, ctx=None):
        if parent not in NAMES or NAMES[parent][0] != name:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return await self.getattr(NAMES[parent][1])
    async def opendir(self, inode, ctx):
        return inode
    async def readdir(self, inode, start, token):
        if start == 0:
            name, child = NAMES[inode]
            pyfuse3.readdir_reply(token, name, await self.getattr(child), 1)
    async def open(self, inode, flags, ctx):
        return pyfuse3.FileInfo(fh=inode)
    async def read(self, handle, offset, size):
        return TEXT[offset : offset + size]
pyfuse3.init(Files(), sys.argv[1], {"fsname=tiny", "allow_other"})
trio.run(pyfuse3.main)
"""

pytestmark = [pytest.mark.cluster, pytest.mark.mount]

DEADLINE_SECONDS = 60.0
NAMESPACE = "default"


@dataclass
class Kubectl:
    """kubectl against the test's API server."""

    binary: Path
    kubeconfig: Path

    def run(self, *arguments: str, text: str | None = None) -> str:
        argv = [str(self.binary), f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def apply(self, *objects: dict[str, Any]) -> None:
        self.run("apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        argv = [str(self.binary), f"--kubeconfig={self.kubeconfig}", "get", kind, name, "-o", "json"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        body: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
        return body

    def events(self, name: str) -> list[str]:
        found = json.loads(self.run("get", "events.events.k8s.io", "-o", "json"))["items"]
        return [f"{event['reason']}: {event['note']}" for event in found if event["regarding"].get("name") == name]


@dataclass
class Node:
    """A node agent as a process."""

    name: str
    folder: Path
    kubectl: Kubectl
    flags: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        argv = [sys.executable, "-m", "headrace.node", "--name", self.name]
        argv += ["--kubeconfig", str(self.kubectl.kubeconfig), "--dir", str(self.folder)]
        argv += ["--mount", str(self.folder / "mnt"), "--taint-patience-seconds", "0", *self.flags]
        with (self.folder.parent / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for(lambda: condition(self.kubectl.get("node", self.name), "Ready") == "True", "the Node to be Ready")

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(timeout=60)

    @property
    def log(self) -> str:
        return (self.folder.parent / f"{self.name}.log").read_text()


@pytest.fixture(scope="module")
def kubectl(api_server: Any) -> Kubectl:
    client = Kubectl(require(["kubectl"])["kubectl"], api_server.kubeconfig)
    # Without a controller-manager nobody makes the account every pod has.
    client.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": NAMESPACE}}
    )
    return client


@pytest.fixture(scope="module")
def node(kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    name = f"n-{secrets.token_hex(3)}"
    folder = tmp_path_factory.mktemp("node") / "dir"
    folder.mkdir()
    flags = ["--cpu", "8", "--memory", "16Gi", "--gpus", "2", "--network-index", "3", "--mount-wait-seconds", "1"]
    agent = Node(name, folder, kubectl, flags)
    agent.start()
    try:
        yield agent
    finally:
        agent.signal(signal.SIGTERM)


def wait_for(check: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        found = check()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited {DEADLINE_SECONDS:.0f} s for {what}")


def condition(body: dict[str, Any], kind: str) -> str:
    found = (body.get("status") or {}).get("conditions") or ()
    return next((one["status"] for one in found if one["type"] == kind), "")


def sh(script: str, name: str = "main", **more: Any) -> dict[str, Any]:
    return {"name": name, "image": "any", "command": ["/bin/sh", "-c", script], **more}


class PodMaker:
    """Makes pods on the node; every pod is removed at the end of its test."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.made: list[str] = []

    def __call__(self, *containers: dict[str, Any], name: str = "pod", meta: Any = None, **spec: Any) -> str:
        name = f"{name}-{secrets.token_hex(3)}"
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": NAMESPACE, **(meta or {})},
            "spec": {
                "nodeName": self.node.name,
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 5,
                "containers": list(containers),
                **spec,
            },
        }
        self.node.kubectl.apply(body)
        self.made.append(name)
        return name

    def get(self, name: str) -> dict[str, Any]:
        return self.node.kubectl.get("pod", name)

    def wait_phase(self, name: str, *phases: str) -> dict[str, Any]:
        def ended() -> Any:
            body = self.get(name)
            return body if body.get("status", {}).get("phase") in phases else None

        try:
            return dict(wait_for(ended, f"pod {name} to be {phases}"))
        except AssertionError as error:
            raise AssertionError(
                f"{error}: {json.dumps(self.get(name).get('status'))}\n{self.node.log[-4000:]}"
            ) from None

    def output(self, name: str, container: str = "main", attempt: int = 0) -> list[str]:
        uid = self.get(name)["metadata"]["uid"]
        text = (self.node.folder / "pods" / uid / container / f"{attempt}.log").read_text()
        return [line.split(" ", 3)[3] for line in text.splitlines()]


@pytest.fixture
def pods(node: Node) -> Iterator[PodMaker]:
    yield from pods_of(node)


def pods_of(node: Node) -> Iterator[PodMaker]:
    maker = PodMaker(node)
    yield maker
    if maker.made:
        node.kubectl.run("delete", "pod", "--ignore-not-found", "--grace-period=1", "--wait=true", *maker.made)


def test_the_node_offers_what_it_was_told(node: Node) -> None:
    body = node.kubectl.get("node", node.name)
    assert body["metadata"]["labels"]["headrace.dev/node-kind"] == "process"
    assert body["metadata"]["labels"]["kubernetes.io/hostname"] == node.name
    allocatable = body["status"]["allocatable"]
    assert (allocatable["cpu"], allocatable["memory"], allocatable["nvidia.com/gpu"]) == ("8", "16Gi", "2")
    assert body["status"]["nodeInfo"]["kernelVersion"] == os.uname().release
    wait_for(lambda: not node.kubectl.get("node", node.name)["spec"].get("taints"), "the taint to be lifted")


def test_environment_of_every_kind_reaches_the_program(node: Node, pods: PodMaker) -> None:
    node.kubectl.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "env-secret"}, "stringData": {"token": "hunter2"}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "env-map"}, "data": {"LEVEL": "7", "mode": "x"}},
    )
    env = [
        {"name": "PLAIN", "value": "one"},
        {"name": "COMPOSED", "value": "$(PLAIN)-$(MISSING)-$$(PLAIN)"},
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "CPUS", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
        {"name": "MIB", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "env-secret", "key": "token"}}},
        {"name": "NONE", "valueFrom": {"secretKeyRef": {"name": "no", "key": "no", "optional": True}}},
        {"name": "MODE", "valueFrom": {"configMapKeyRef": {"name": "env-map", "key": "mode"}}},
    ]
    container = sh(
        'env; echo ARG=$0; python -c "import sys; print(sys.prefix)"',
        args=["$(PLAIN)!"],
        env=env,
        envFrom=[{"prefix": "CM_", "configMapRef": {"name": "env-map"}}],
        resources={"limits": {"cpu": "1500m", "memory": "64Mi", "nvidia.com/gpu": "1"}},
    )
    name = pods(container, meta={"labels": {"app": "trainer"}})
    body = pods.wait_phase(name, "Succeeded")
    lines = pods.output(name)
    seen = dict(line.split("=", 1) for line in lines if "=" in line)
    assert seen["COMPOSED"] == "one-$(MISSING)-$(PLAIN)"
    assert (seen["POD"], seen["APP"], seen["NODE"]) == (name, "trainer", node.name)
    assert seen["IP"] == body["status"]["podIP"]
    assert seen["IP"].startswith("127.19.")
    assert (seen["CPUS"], seen["MIB"]) == ("2", "64")
    assert (seen["TOKEN"], seen["MODE"], seen["CM_LEVEL"]) == ("hunter2", "x", "7")
    assert "NONE" not in seen
    assert (seen["HOSTNAME"], seen["ARG"], seen["CUDA_VISIBLE_DEVICES"]) == (name, "one!", "0")
    assert lines[-1] == sys.prefix
    assert "PYTEST_CURRENT_TEST" not in seen


def test_volumes_are_where_the_pod_wants_them_and_not_on_the_host(node: Node, pods: PodMaker, tmp_path: Path) -> None:
    unseen = f"/data-{secrets.token_hex(4)}"
    node.kubectl.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "vol-secret"}, "stringData": {"key": "s3cret"}},
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "vol-map"},
            "data": {"a.txt": "A", "b.txt": "B"},
        },
    )
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_text("from the host")
    mounts = [
        {"name": "scratch", "mountPath": unseen},
        {"name": "map", "mountPath": "/etc/config-of-pod", "readOnly": True},
        {"name": "secret", "mountPath": f"{unseen}/nested/secret"},
        {"name": "host", "mountPath": "/opt/input", "readOnly": True, "subPath": "in"},
        {"name": "memory", "mountPath": "/opt/memory"},
        {"name": "info", "mountPath": "/opt/info"},
    ]
    script = (
        f"cat /etc/config-of-pod/renamed {unseen}/nested/secret/key /opt/input/file; echo; "
        f"touch /opt/input/x || echo refused; echo hello > {unseen}/greeting; echo bye > /dev/termination-log; "
        "cat /opt/info/labels; echo; stat -c %a " + unseen + "/nested/secret/key; touch /opt/memory/f /at-the-root"
    )
    volumes = [
        {"name": "scratch", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
        {"name": "map", "configMap": {"name": "vol-map", "items": [{"key": "b.txt", "path": "renamed"}]}},
        {"name": "secret", "secret": {"secretName": "vol-secret", "defaultMode": 0o400}},
        {"name": "host", "hostPath": {"path": str(tmp_path), "type": "Directory"}},
        {"name": "info", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
    ]
    reader = sh(
        f"until cat {unseen}/greeting; do sleep 0.1; done",
        "reader",
        volumeMounts=[{"name": "scratch", "mountPath": unseen}],
    )
    name = pods(sh(script, volumeMounts=mounts), reader, volumes=volumes, meta={"labels": {"k": "v"}})
    body = pods.wait_phase(name, "Succeeded", "Failed")
    lines = pods.output(name)
    assert "Bs3cretfrom the host" in lines
    assert "refused" in lines
    assert 'k="v"' in lines
    assert "400" in lines
    assert pods.output(name, "reader")[-1] == "hello"
    assert not Path(unseen).exists()
    assert not Path("/at-the-root").exists()
    assert not Path("/dev/termination-log").exists()
    status = next(one for one in body["status"]["containerStatuses"] if one["name"] == "main")
    assert status["state"]["terminated"]["message"] == "bye\n"


def test_init_containers_run_in_order_before_the_rest(pods: PodMaker) -> None:
    mount: dict[str, Any] = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    name = pods(
        sh("echo main >> /v/order; cat /v/order", **mount),
        initContainers=[
            sh("sleep 0.3; echo first >> /v/order", "first", **mount),
            sh("echo up >> /v/order; exec sleep 1000", "sidecar", restartPolicy="Always", **mount),
            sh("until grep up /v/order; do sleep 0.1; done; echo second >> /v/order", "second", **mount),
        ],
        volumes=[{"name": "v", "emptyDir": {}}],
    )
    body = pods.wait_phase(name, "Succeeded", "Failed")
    assert body["status"]["phase"] == "Succeeded"
    assert pods.output(name) == ["first", "up", "second", "main"]
    assert [one["name"] for one in body["status"]["initContainerStatuses"]] == ["first", "sidecar", "second"]
    assert condition(body, "Initialized") == "True"


def test_a_held_pod_starts_when_its_annotation_says_so(node: Node, pods: PodMaker) -> None:
    spec: dict[str, Any] = {"containers": [sh("echo started")]}
    metadata: dict[str, Any] = {"annotations": {}}
    start_gate.close(metadata, spec)
    gate = spec["initContainers"][0]
    name = pods(*spec["containers"], initContainers=[gate], volumes=spec["volumes"], meta=metadata)

    def is_held() -> bool:
        statuses = pods.get(name).get("status", {}).get("initContainerStatuses", [])
        return any(one["name"] == start_gate.GATE_CONTAINER and "running" in one["state"] for one in statuses)

    wait_for(is_held, "the gate to run")
    node.kubectl.run("annotate", "--overwrite", "pod", name, f"{names.START_ANNOTATION}=released")
    assert pods.wait_phase(name, "Succeeded", "Failed")["status"]["phase"] == "Succeeded"
    assert pods.output(name) == ["started"]


def test_an_exit_code_fails_the_pod_and_is_told(pods: PodMaker) -> None:
    name = pods(sh("exit 3"))
    body = pods.wait_phase(name, "Failed", "Succeeded")
    ended = body["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (body["status"]["phase"], ended["exitCode"], ended["reason"]) == ("Failed", 3, "Error")
    assert ended["containerID"] == f"process://{body['metadata']['uid']}/main/0"
    assert condition(body, "Ready") == "False"


def test_on_failure_restarts_until_it_succeeds(pods: PodMaker) -> None:
    name = pods(
        sh("test -e /v/again && exit 0; touch /v/again; exit 7", volumeMounts=[{"name": "v", "mountPath": "/v"}]),
        restartPolicy="OnFailure",
        volumes=[{"name": "v", "emptyDir": {}}],
    )
    body = pods.wait_phase(name, "Succeeded", "Failed")
    status = body["status"]["containerStatuses"][0]
    assert (body["status"]["phase"], status["restartCount"]) == ("Succeeded", 1)
    assert status["lastState"]["terminated"]["exitCode"] == 7


def test_crashing_again_waits_as_crash_loop_back_off(node: Node, pods: PodMaker) -> None:
    name = pods(sh("exit 1"), restartPolicy="Always")

    def waiting() -> Any:
        statuses = pods.get(name)["status"].get("containerStatuses") or [{}]
        found = statuses[0].get("state", {}).get("waiting")
        return found if found and found["reason"] == "CrashLoopBackOff" else None

    found = wait_for(waiting, "CrashLoopBackOff")
    assert found["message"].startswith(f"back-off 10s restarting failed container=main pod={name}_default(")
    wait_for(lambda: any(text.startswith("BackOff: ") for text in node.kubectl.events(name)), "the BackOff event")


def test_what_cannot_start_says_why(node: Node, pods: PodMaker) -> None:
    missing = pods({"name": "main", "image": "any", "command": ["/no/such/program"]})
    ended = pods.wait_phase(missing, "Failed")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (128, "StartError")
    assert 'exec: "/no/such/program": no such file or directory' in ended["message"]
    imaged = pods({"name": "main", "image": "python:3.12"})

    def blocked() -> Any:
        statuses = pods.get(imaged)["status"].get("containerStatuses") or [{}]
        return statuses[0].get("state", {}).get("waiting", {}).get("message")

    text = wait_for(blocked, "the reason")
    assert text.startswith("spec.containers[0].command must be set")
    assert pods.get(imaged)["status"]["phase"] == "Pending"
    node.kubectl.run("delete", "pod", imaged, "--wait=true")


def test_deleting_a_pod_lets_it_finish_within_its_grace(node: Node, pods: PodMaker, tmp_path: Path) -> None:
    script = "trap 'echo saved > /out/checkpoint; exit 0' TERM; echo up > /out/up; while :; do sleep 0.1; done"
    name = pods(
        sh(script, volumeMounts=[{"name": "out", "mountPath": "/out"}]),
        volumes=[{"name": "out", "hostPath": {"path": str(tmp_path)}}],
        terminationGracePeriodSeconds=30,
    )
    wait_for((tmp_path / "up").exists, "the container to be up")
    body = pods.wait_phase(name, "Running")
    assert condition(body, "Ready") == "True"
    node.kubectl.run("delete", "pod", name, "--wait=true")
    assert (tmp_path / "checkpoint").read_text() == "saved\n"
    uid = body["metadata"]["uid"]
    wait_for(lambda: not (node.folder / "pods" / uid).exists(), "the pod's folder to be gone")


def test_what_ignores_sigterm_is_killed_with_all_its_children(node: Node, pods: PodMaker, tmp_path: Path) -> None:
    script = (
        "trap '' TERM; (setsid sleep 1000 & echo $! > /out/child); echo $$$$ > /out/main; while :; do sleep 0.1; done"
    )
    name = pods(
        sh(script, volumeMounts=[{"name": "out", "mountPath": "/out"}]),
        volumes=[{"name": "out", "hostPath": {"path": str(tmp_path)}}],
        terminationGracePeriodSeconds=1,
    )
    wait_for(lambda: (tmp_path / "main").exists() and (tmp_path / "main").read_text(), "the container to be up")
    pids = [int((tmp_path / file).read_text()) for file in ("main", "child")]
    node.kubectl.run("delete", "pod", name, "--wait=true")
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []


def test_pods_find_each_other_by_name(pods: PodMaker, tmp_path: Path) -> None:
    shared: dict[str, Any] = {"volumeMounts": [{"name": "out", "mountPath": "/out"}]}
    more: dict[str, Any] = {"subdomain": "gang", "volumes": [{"name": "out", "hostPath": {"path": str(tmp_path)}}]}
    meet = "until getent hosts {0}.gang; do sleep 0.1; done; touch /out/{0}; until test -e /out/{1}; do sleep 0.1; done"
    finder = meet.format("two", "one").replace("two.gang", "two.gang.default.svc.cluster.local")
    one = pods(sh(f"{finder}; hostname", **shared), hostname="one", **more)
    wait_for(lambda: pods.get(one)["status"].get("podIP"), "the first pod's address")
    two = pods(
        sh(f"getent ahostsv4 gang | grep -c STREAM; {meet.format('one', 'two')}", **shared), hostname="two", **more
    )
    first, second = (pods.wait_phase(name, "Succeeded")["status"]["podIP"] for name in (one, two))
    assert pods.output(one)[0].split()[:2] == [second, "two.gang.default.svc.cluster.local"]
    assert pods.output(one)[1] == "one"
    # The Service's bare name has the addresses of all its pods.
    assert pods.output(two)[0] == "2"
    assert pods.output(two)[1].split()[0] == first


def test_a_pod_that_does_not_fit_is_refused_in_kubelets_words(pods: PodMaker) -> None:
    big = pods(sh("true", resources={"requests": {"cpu": "9"}}))
    status = pods.wait_phase(big, "Failed")["status"]
    assert status["reason"] == "OutOfcpu"
    assert status["message"].endswith("Node didn't have enough resource: cpu, requested: 9000, used: 0, capacity: 8000")
    picky = pods(sh("true"), nodeSelector={"disk": "fast"})
    assert pods.wait_phase(picky, "Failed")["status"]["reason"] == "NodeAffinity"


def test_a_deadline_fails_the_pod(pods: PodMaker) -> None:
    name = pods(sh("sleep 1000"), activeDeadlineSeconds=1)
    status = pods.wait_phase(name, "Failed")["status"]
    assert status["reason"] == "DeadlineExceeded"


def test_probes_decide_readiness(pods: PodMaker) -> None:
    probe = {"exec": {"command": ["test", "-e", "/v/ready"]}, "periodSeconds": 1, "failureThreshold": 1}
    name = pods(
        sh(
            "sleep 1.5; touch /v/ready; sleep 1000",
            readinessProbe=probe,
            volumeMounts=[{"name": "v", "mountPath": "/v"}],
        ),
        volumes=[{"name": "v", "emptyDir": {}}],
    )
    body = pods.wait_phase(name, "Running")
    assert condition(body, "Ready") == "False"
    wait_for(lambda: condition(pods.get(name), "Ready") == "True", "the pod to be Ready")


def test_a_pod_waits_for_its_dataset_and_then_reads_it(node: Node, pods: PodMaker) -> None:
    def dataset(name: str) -> dict[str, Any]:
        return {"name": "d", "csi": {"driver": "csi.headrace.dev", "volumeAttributes": {"dataset": name}}}

    reader = sh(
        "cat /data/label; touch /data/x || echo refused; cat /label",
        volumeMounts=[
            {"name": "d", "mountPath": "/data", "readOnly": True},
            {"name": "d", "mountPath": "/label", "subPath": "label"},
        ],
    )
    name = pods(reader, volumes=[dataset("imagenet")])
    wait_for(lambda: pods.get(name)["status"].get("podIP"), "the sandbox")
    event = f'FailedMount: MountVolume.SetUp failed for volume "d" : {node.folder}/mnt is not a live FUSE mount'
    wait_for(lambda: any(text.startswith(event) for text in node.kubectl.events(name)), "the FailedMount event")
    assert pods.get(name)["status"]["phase"] == "Pending"
    mount = node.folder / "mnt"
    mount.mkdir()
    daemon = subprocess.Popen([sys.executable, "-c", TINY_FUSE, str(mount)])
    try:
        body = pods.wait_phase(name, "Succeeded", "Failed")
        assert body["status"]["phase"] == "Succeeded", json.dumps(body["status"]["containerStatuses"])
        lines = pods.output(name)
        assert [line for line in lines if "touch" not in line] == ["cat", "refused", "cat"]
        missing = pods(reader, volumes=[dataset("no-such")])
        event = "Dataset default/no-such is not in the FUSE mount"
        wait_for(lambda: any(event in text for text in node.kubectl.events(missing)), "the FailedMount event")
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=True)
        daemon.wait(timeout=30)


def test_a_killed_agent_finds_its_containers_again(kubectl: Kubectl, tmp_path: Path) -> None:
    folder = tmp_path / "dir"
    folder.mkdir()
    agent = Node(f"n-{secrets.token_hex(3)}", folder, kubectl, ["--network-index", "4"])
    agent.start()
    maker = PodMaker(agent)
    script = "echo begin; until test -e /out/go; do sleep 0.1; done; echo end; exit 5"
    volume: dict[str, Any] = {"volumes": [{"name": "out", "hostPath": {"path": str(tmp_path)}}]}
    name = maker(sh(script, volumeMounts=[{"name": "out", "mountPath": "/out"}]), **volume)
    quick = maker(
        sh("until test -e /out/quick; do sleep 0.1; done; exit 6", volumeMounts=[{"name": "out", "mountPath": "/out"}]),
        **volume,
    )
    before = maker.wait_phase(name, "Running")
    maker.wait_phase(quick, "Running")
    agent.signal(signal.SIGKILL)
    (tmp_path / "quick").touch()
    agent.start()
    # Ended while no agent was there: its monitor kept the exit code.
    ended = maker.wait_phase(quick, "Failed")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert ended["exitCode"] == 6
    after = maker.get(name)
    assert after["status"]["phase"] == "Running"
    assert after["status"]["podIP"] == before["status"]["podIP"]
    assert after["status"]["containerStatuses"][0]["restartCount"] == 0
    (tmp_path / "go").touch()
    ended = maker.wait_phase(name, "Failed")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert ended["exitCode"] == 5
    assert maker.output(name) == ["begin", "end"]
    long = maker(sh("trap 'exit 0' TERM; while :; do sleep 0.1; done"))
    maker.wait_phase(long, "Running")
    agent.signal(signal.SIGTERM)
    status = maker.get(long)["status"]
    assert (status["phase"], status["reason"]) == ("Failed", "Terminated")
    body = kubectl.get("node", agent.name)
    ready = next(one for one in body["status"]["conditions"] if one["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "NodeShutdown")
    kubectl.run("delete", "pod", "--force", "--grace-period=0", *maker.made)


@pytest.fixture(scope="module")
def logging_node(api_server: Any, kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node whose logs the API server may read: that needs certificates on both sides."""
    name = f"n-logs-{secrets.token_hex(3)}"
    files = api_server.control_plane.kubelet_files(name)
    tls = ["--tls-cert", str(files.cert), "--tls-key", str(files.key), "--client-ca", str(files.client_ca)]
    agent = Node(name, tmp_path_factory.mktemp("logs") / "node", kubectl, [*tls, "--network-index", "5"])
    agent.start()
    try:
        yield agent
    finally:
        agent.signal(signal.SIGTERM)


@pytest.fixture
def logging_pods(logging_node: Node) -> Iterator[PodMaker]:
    yield from pods_of(logging_node)


def test_logs_come_through_the_api_server(
    logging_pods: PodMaker, kubectl: Kubectl, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    name = logging_pods(
        sh(
            "for n in 1 2 3; do echo line $n; done; echo error >&2; test -e /v/f && exit 0; touch /v/f; exit 1",
            volumeMounts=[{"name": "v", "mountPath": "/v"}],
        ),
        restartPolicy="OnFailure",
        volumes=[{"name": "v", "emptyDir": {}}],
    )
    logging_pods.wait_phase(name, "Succeeded")
    assert sorted(kubectl.run("logs", name).splitlines()) == ["error", "line 1", "line 2", "line 3"]
    assert len(kubectl.run("logs", name, "--tail=2").splitlines()) == 2
    assert sorted(kubectl.run("logs", name, "--previous").splitlines())[0] == "error"
    assert kubectl.run("logs", name, "--timestamps").startswith("20")
    capfdbinary.readouterr()
    logs(name, namespace=NAMESPACE, tail=4, kubeconfig=kubectl.kubeconfig)
    assert sorted(capfdbinary.readouterr().out.split(b"\n"))[1:] == [b"error", b"line 1", b"line 2", b"line 3"]
    with pytest.raises(UsageError, match='pods "nobody" not found'):
        logs("nobody", namespace=NAMESPACE, kubeconfig=kubectl.kubeconfig)


def test_a_followed_log_ends_with_its_container(logging_pods: PodMaker, kubectl: Kubectl, tmp_path: Path) -> None:
    name = logging_pods(
        sh(
            "echo begin; until test -e /out/go; do sleep 0.1; done; echo end",
            volumeMounts=[{"name": "out", "mountPath": "/out"}],
        ),
        volumes=[{"name": "out", "hostPath": {"path": str(tmp_path)}}],
    )
    logging_pods.wait_phase(name, "Running")
    argv = [str(kubectl.binary), f"--kubeconfig={kubectl.kubeconfig}", "logs", "-f", name]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "begin\n"
        (tmp_path / "go").touch()
        assert follower.stdout.read() == "end\n"
        assert follower.wait(timeout=30) == 0


def test_the_log_endpoint_refuses_who_shows_no_certificate(logging_node: Node) -> None:
    body = logging_node.kubectl.get("node", logging_node.name)
    port = body["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    answer = b""
    with (
        suppress(ssl.SSLError, ConnectionError),
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain) as secure,
    ):
        # In TLS 1.3 the refusal of the client arrives with the first read.
        secure.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        answer = secure.recv(100)
    assert answer == b""
