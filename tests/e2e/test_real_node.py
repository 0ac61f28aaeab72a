"""A dataset in containers of a real kubelet: read, loaded, trained on, and what a death or a removal disturbs.

`make e2e` runs this. What a process node can show is tested there (tests/integration); here is what needs kubelet,
containerd and real mount namespaces. The tests go on from each other, in their order."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import socket
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from api.trust.identity import METADATA_SERVER, Identity
from headrace.cluster import manifests, parts
from headrace.cluster.local_cluster import LocalCluster
from headrace.cluster.options import ClusterOptions
from headrace.trust.authority import TrustAuthority
from tests.builders.real_cluster import (
    CSI_NAMESPACE,
    IMAGE,
    RealCluster,
    condition,
    eventually,
    fuse_daemons,
    held,
    is_ready,
    processes_of,
)
from tests.e2e.conftest import Bucket

pytestmark = [pytest.mark.real_node, pytest.mark.timeout(1200)]

DEPLOYMENTS = {
    METADATA_SERVER: "metadata",
    parts.CACHE_CONTROLLER: "cacheruntime",
    parts.JOB_CONTROLLER: "jobcontroller",
}
#: As a namespace of Pod Security `restricted` demands: what it writes, it writes as one of its fsGroup.
NOBODY = {"runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 2000}
#: Prints the digest of every file below /data.
DIGESTS = """
import hashlib, json, pathlib
root = pathlib.Path("/data")
files = sorted(path for path in root.rglob("*") if path.is_file())
print(json.dumps({str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}))
"""
#: Holds one file open, and reads it, opens others and lists, until /tmp/stop is there. Any error ends it.
READER = """
import hashlib, os, pathlib, random, sys, time
root = pathlib.Path("/data/train")
held = os.open(root / "part-0", os.O_RDONLY)
size = os.fstat(held).st_size
want = hashlib.sha256(os.pread(held, size, 0)).hexdigest()
rounds = 0
while not os.path.exists("/tmp/stop"):
    os.posix_fadvise(held, 0, 0, os.POSIX_FADV_DONTNEED)
    data = b"".join(os.pread(held, 1 << 20, start) for start in range(0, size, 1 << 20))
    assert hashlib.sha256(data).hexdigest() == want, "other bytes"
    names = sorted(os.listdir(root))
    with open(root / random.choice(names), "rb") as other:
        other.read(1 << 16)
    rounds += 1
    print("round", rounds, flush=True)
    time.sleep(0.05)
print("no error", flush=True)
"""
#: Opens files and lists until that fails, and tells how.
ROBBED = """
import errno, os, pathlib, time
root = pathlib.Path("/data/train")
assert (root / "part-0").read_bytes()
print("reads", flush=True)
while True:
    try:
        for name in os.listdir(root):
            os.close(os.open(root / name, os.O_RDONLY))
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)
        break
    time.sleep(0.1)
"""
#: Two members: each reads its half of the files and writes its part of a checkpoint; the marker comes last.
TRAINER = """
import hashlib, os, pathlib, time
rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
files = sorted(pathlib.Path("/data/train").iterdir())[rank::size]
digests = [hashlib.sha256(file.read_bytes()).hexdigest() + " " + file.name for file in files]
folder = pathlib.Path(os.environ["HEADRACE_CHECKPOINT_DIR"]) / "1"
folder.mkdir(parents=True, exist_ok=True)
(folder / f"rank-{rank}").write_text("\\n".join(digests))
print("rank", rank, "of", size, "read", len(files), flush=True)
deadline = time.monotonic() + 120
while rank == 0 and not all((folder / f"rank-{one}").exists() for one in range(size)):
    assert time.monotonic() < deadline, "the other member wrote nothing"
    time.sleep(0.2)
if rank == 0:
    (folder / "COMPLETE").write_text("")
"""
#: Saves a file of its own again and again, and goes on when that is refused.
SAVER = """
import os, pathlib, time
folder, attempt, number = pathlib.Path(os.environ["HEADRACE_CHECKPOINT_DIR"]), os.environ["HEADRACE_ATTEMPT"], 0
folder.mkdir(parents=True, exist_ok=True)
while True:
    number += 1
    try:
        (folder / f"{attempt}-{number}").write_text(attempt)
    except PermissionError as error:
        print("refused", number, flush=True)
    time.sleep(0.2)
"""


def dataset(name: str, bucket: Bucket, *, writable: bool = False) -> dict[str, Any]:
    options = {"endpoint": bucket.endpoint, "region": "us-east-1"}
    secret = {"secretKeyRef": {"name": "bucket-keys"}}
    keys = [
        {"name": option, "valueFrom": {"secretKeyRef": secret["secretKeyRef"] | {"key": key}}}
        for option, key in (("accessKeyId", "id"), ("accessKeySecret", "secret"))
    ]
    mount = {"name": "data", "mountPoint": f"s3://{name}", "path": "/", "options": options, "encryptOptions": keys}
    spec = {"mounts": [mount], "accessModes": ["ReadWriteMany" if writable else "ReadOnlyMany"]}
    return {
        "apiVersion": "data.headrace.dev/v1alpha1",
        "kind": "Dataset",
        "metadata": {"name": name},
        "spec": spec,
    }


def pod(name: str, program: str, volume: dict[str, Any]) -> dict[str, Any]:
    mount = {"name": "data", "mountPath": "/data", "readOnly": True, "mountPropagation": "HostToContainer"}
    container = {
        "name": "main",
        "image": IMAGE,
        "command": ["python", "-c", program],
        "volumeMounts": [mount],
        "resources": {"requests": {"cpu": "100m"}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "containers": [container],
            "volumes": [{"name": "data"} | volume],
        },
    }


def by_claim(name: str = "corpus") -> dict[str, Any]:
    return {"persistentVolumeClaim": {"claimName": name, "readOnly": True}}


def inline(name: str = "corpus") -> dict[str, Any]:
    return {"csi": {"driver": "csi.headrace.dev", "readOnly": True, "volumeAttributes": {"dataset": name}}}


def rounds(cluster: RealCluster, name: str) -> int:
    """How often the reader has read all; AssertionError when it ended."""
    if cluster.phase("pod", name) == "Failed":
        raise AssertionError(cluster.logs(name)[-3000:])
    lines = [line for line in cluster.logs(name).splitlines() if line.startswith("round ")]
    return int(lines[-1].split()[1]) if lines else 0


def goes_on(cluster: RealCluster, name: str) -> None:
    """Wait until the reader has read everything anew, twice."""
    before = rounds(cluster, name)
    eventually(f"{name} reads on", lambda: rounds(cluster, name) >= before + 2)


def delete(cluster: RealCluster, name: str) -> None:
    cluster.kubectl("delete", "pod", name, "--wait=false")
    eventually(f"pod {name} is gone", lambda: not cluster.get("pod", name))


@pytest.fixture(scope="module")
def corpus(real_cluster: RealCluster, bucket: Bucket) -> Bucket:
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "bucket-keys"},
        "stringData": {"id": "key", "secret": "secret"},
    }
    real_cluster.apply(secret, dataset("corpus", bucket), dataset("checkpoints", bucket, writable=True))
    for name in ("corpus", "checkpoints"):
        real_cluster.wait_phase("dataset", name, "Bound", never=())
    return bucket


@pytest.mark.parametrize("way", [by_claim, inline])
def test_a_pod_reads_a_dataset(real_cluster: RealCluster, corpus: Bucket, way: Any) -> None:
    name = f"reads-{way.__name__.replace('_', '-')}"
    real_cluster.apply(pod(name, DIGESTS, way()))
    real_cluster.wait_phase("pod", name, "Succeeded")
    seen = json.loads(real_cluster.logs(name))
    assert seen == {key: hashlib.sha256(data).hexdigest() for key, data in corpus.files.items()}
    delete(real_cluster, name)


def test_a_load_completes_with_every_block_resident(real_cluster: RealCluster, corpus: Bucket) -> None:
    load = {
        "apiVersion": "data.headrace.dev/v1alpha1",
        "kind": "DataLoad",
        "metadata": {"name": "all"},
        "spec": {"dataset": {"name": "corpus"}, "target": [{"path": "/", "replicas": 1}]},
    }
    real_cluster.apply(load)
    real_cluster.wait_phase("dataload", "all", "Complete")
    total = sum(len(data) for data in corpus.files.values())

    def resident() -> int:
        caches = [real_cluster.get("nodecache", node.name) for node in real_cluster.nodes()]
        reported = [one for cache in caches for one in cache.get("status", {}).get("datasets", [])]
        return sum(sum(one["residentBytes"].values()) for one in reported if one["name"] == "corpus")

    eventually("the nodes' caches report every byte", lambda: resident() >= total)


#: Asks the metadata service in plain text, and prints how that ends.
STRANGER = """
import grpc
from api.gen import metadata_pb2 as pb, metadata_pb2_grpc as stubs
with grpc.insecure_channel("headrace-metadata.headrace-system:7100") as channel:
    try:
        stubs.NamespaceStub(channel).ListDatasets(pb.ListDatasetsRequest(), timeout=10)
        print("answered")
    except grpc.RpcError as error:
        print(error.code().name)
"""


def test_who_shows_no_certificate_is_not_answered(real_cluster: RealCluster, corpus: Bucket) -> None:
    real_cluster.apply(pod("stranger", STRANGER, by_claim()))
    real_cluster.wait_phase("pod", "stranger", "Succeeded")
    assert real_cluster.logs("stranger").strip() == "UNAVAILABLE"
    delete(real_cluster, "stranger")


def test_every_certificate_is_replaced_under_a_reader(real_cluster: RealCluster, corpus: Bucket) -> None:
    """Another authority in three steps, as docs/SECURITY.md has them; who lives on and who starts anew reads."""
    root = real_cluster.local.folder.root
    layout = parts.Layout("e2e", root, ClusterOptions.merged(real_cluster.local.load().options, {}))
    authority = TrustAuthority(root / "trust" / "authority")
    real_cluster.apply(pod("rotating", READER, by_claim()))
    real_cluster.wait_phase("pod", "rotating", "Running")
    eventually("the reader reads", lambda: rounds(real_cluster, "rotating") > 0)

    def brought(name: str) -> None:
        layout.bring_identities()
        asyncio.run(manifests.apply_objects(real_cluster.local.kubeconfig, layout.trust_secrets()))
        program = f"print(open('/etc/headrace/trust/{name}').read().strip())"

        def has_it(part: Identity, deployment: str) -> bool:
            words = (
                "exec",
                "-n",
                "headrace-system",
                f"deployment/headrace-{deployment}",
                "--",
                "python",
                "-c",
                program,
            )
            return real_cluster.kubectl(*words).strip() == (layout.trust(part) / name).read_text("ascii").strip()

        for part, deployment in DEPLOYMENTS.items():
            eventually(f"{part} has its new {name}", partial(has_it, part, deployment))

    old = (root / "trust" / "authority" / "issuer.crt").read_text(encoding="ascii")
    authority.add_issuer()
    for one in layout.identities:
        authority.trust_only(layout.trust(one))
    brought("ca.crt")
    goes_on(real_cluster, "rotating")
    for one in layout.identities:
        assert authority.issue(one, layout.trust(one)), "its old certificate is not from the new authority"
    brought("tls.crt")
    goes_on(real_cluster, "rotating")
    authority.forget_issuers()
    for one in layout.identities:
        authority.trust_only(layout.trust(one))
        assert old not in (layout.trust(one) / "ca.crt").read_text(encoding="ascii")
    brought("ca.crt")
    goes_on(real_cluster, "rotating")

    node = next(
        one for one in real_cluster.nodes() if one.name == real_cluster.get("pod", "rotating")["spec"]["nodeName"]
    )
    (daemon,) = fuse_daemons(node)
    worker = next(pid for pid, words in processes_of(node).items() if "cacheruntime" in words and "worker" in words)
    os.kill(daemon, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    goes_on(real_cluster, "rotating")
    real_cluster.kubectl("exec", "rotating", "--", "sh", "-c", "> /tmp/stop")
    real_cluster.wait_phase("pod", "rotating", "Succeeded")
    assert "no error" in real_cluster.logs("rotating")
    delete(real_cluster, "rotating")


def test_a_training_job_reads_and_writes_checkpoints(real_cluster: RealCluster, corpus: Bucket) -> None:
    container = {
        "name": "train",
        "image": IMAGE,
        "command": ["python", "-c", TRAINER],
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    template = {"spec": {"containers": [container], "securityContext": NOBODY}}
    job = {
        "apiVersion": "training.headrace.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "train"},
        "spec": {
            "framework": "PyTorch",
            "datasets": [
                {"name": "corpus", "mountPath": "/data"},
                {"name": "checkpoints", "mountPath": "/checkpoints", "readOnly": False},
            ],
            "checkpoint": {"dataset": "checkpoints", "path": "train", "marker": "COMPLETE"},
            "replicaSpecs": {"Worker": {"replicas": 2, "template": template}},
        },
    }
    real_cluster.apply(job)

    def ended() -> bool:
        now = real_cluster.get("trainingjob", "train")
        assert not condition(now, "Failed"), f"{now}\n{real_cluster.kubectl('get', 'events')}"
        return condition(now, "Succeeded")

    eventually("the job succeeds", ended)
    written: dict[str, str] = {}
    for rank in range(2):
        text = bytes(corpus.client("checkpoints").get(f"train/1/rank-{rank}").bytes()).decode()
        written |= {name: digest for digest, name in (line.split() for line in text.splitlines())}
    assert written == {Path(key).name: hashlib.sha256(data).hexdigest() for key, data in corpus.files.items()}
    real_cluster.kubectl("delete", "trainingjob", "train")


def test_a_node_whose_kubelet_is_silent_saves_no_more_for_the_attempt_that_was_given_up(
    real_cluster: RealCluster, corpus: Bucket
) -> None:
    container = {"name": "train", "image": IMAGE, "command": ["python", "-c", SAVER]}
    template = {"spec": {"containers": [container], "securityContext": NOBODY, "terminationGracePeriodSeconds": 1}}
    job = {
        "apiVersion": "training.headrace.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "silent"},
        "spec": {
            "framework": "PyTorch",
            "datasets": [{"name": "checkpoints", "mountPath": "/checkpoints", "readOnly": False}],
            "checkpoint": {"dataset": "checkpoints", "path": "silent", "marker": "COMPLETE"},
            "replicaSpecs": {"Worker": {"replicas": 1, "template": template}},
        },
    }
    bucket = corpus.client("checkpoints")

    def saved(attempt: int) -> int:
        found = [one["path"] for page in bucket.list("silent/") for one in page]
        return sum(path.startswith(f"silent/{attempt}-") for path in found)

    real_cluster.apply(job)
    eventually("the first attempt saves", lambda: saved(0) > 2)
    (name,) = [one for one in real_cluster.kubectl("get", "pods", "-o", "name").split() if "silent" in one]
    on = json.loads(real_cluster.kubectl("get", name, "-o", "json"))["spec"]["nodeName"]
    node = next(one for one in real_cluster.nodes() if one.name == on)
    (kubelet,) = [pid for pid, words in processes_of(node).items() if words[0].endswith("kubelet")]
    (saver,) = [pid for pid, words in processes_of(node).items() if any("HEADRACE_ATTEMPT" in word for word in words)]
    os.kill(kubelet, signal.SIGSTOP)
    try:
        real_cluster.kubectl("delete", name, "--force", "--grace-period=0")

        def is_fenced() -> bool:
            return "Fenced" in real_cluster.kubectl("get", "events", "--field-selector", "reason=Fenced")

        eventually("the node is fenced", is_fenced)

        def stands_still() -> bool:
            """It tries five times a second."""
            counts = set()
            for _ in range(10):
                counts.add(saved(0))
                time.sleep(0.5)
            return len(counts) == 1

        eventually("no save comes through any more", stands_still)
        assert saver in processes_of(node), "nothing ended it"
    finally:
        os.kill(kubelet, signal.SIGCONT)
    eventually("the second attempt saves from the same node", lambda: saved(1) > 2)
    assert saver not in processes_of(node)
    real_cluster.kubectl("delete", "trainingjob", "silent")


def test_deaths_disturb_no_reader_and_leave_nothing(real_cluster: RealCluster, corpus: Bucket) -> None:
    """One pod holds a descriptor and reads all the while: daemon killed, plugin replaced, worker killed."""
    real_cluster.apply(pod("reader", READER, by_claim()))
    real_cluster.wait_phase("pod", "reader", "Running")
    eventually("the reader reads", lambda: rounds(real_cluster, "reader") > 2)
    node = next(
        one for one in real_cluster.nodes() if one.name == real_cluster.get("pod", "reader")["spec"]["nodeName"]
    )
    before = held(node)

    (daemon,) = fuse_daemons(node)
    os.kill(daemon, signal.SIGKILL)
    goes_on(real_cluster, "reader")
    assert fuse_daemons(node) != [daemon], "the killed daemon still serves: the test killed something else"

    old = real_cluster.csi_pods("headrace-csi")
    mine = next(name for name in old if real_cluster.get("pod", name, CSI_NAMESPACE)["spec"]["nodeName"] == node.name)
    real_cluster.kubectl("delete", "pod", "-n", CSI_NAMESPACE, mine, "--wait=false")

    def replaced() -> bool:
        now = real_cluster.csi_pods("headrace-csi")
        return len(now) == len(old) and mine not in now

    eventually("the plugin's successor is Ready", replaced)
    goes_on(real_cluster, "reader")
    # The successor takes over what the one before it mounted, and serves new pods too.
    real_cluster.apply(pod("second", DIGESTS, by_claim()))
    real_cluster.wait_phase("pod", "second", "Succeeded")
    delete(real_cluster, "second")

    worker = next(pid for pid, words in processes_of(node).items() if "cacheruntime" in words and "worker" in words)
    os.kill(worker, signal.SIGKILL)
    goes_on(real_cluster, "reader")

    def as_before() -> bool:
        return held(node) == before

    eventually(f"mounts and processes are what they were: {before}, not {held(node)}", as_before)
    real_cluster.kubectl("exec", "reader", "--", "sh", "-c", "> /tmp/stop")
    real_cluster.wait_phase("pod", "reader", "Succeeded")
    assert "no error" in real_cluster.logs("reader")
    delete(real_cluster, "reader")


def test_a_dataset_deleted_while_mounted_waits_for_its_last_user(real_cluster: RealCluster, corpus: Bucket) -> None:
    node = real_cluster.nodes()[0]
    real_cluster.apply(pod("last", READER, by_claim()))
    real_cluster.wait_phase("pod", "last", "Running")
    eventually("the reader reads", lambda: rounds(real_cluster, "last") > 0)
    real_cluster.kubectl("delete", "dataset", "corpus", "--wait=false")
    eventually("it says who uses it", lambda: condition(real_cluster.get("dataset", "corpus"), "Deleting"))
    goes_on(real_cluster, "last")
    assert real_cluster.get("dataset", "corpus")["metadata"].get("deletionTimestamp")
    delete(real_cluster, "last")
    all_is_gone(real_cluster, node)


def all_is_gone(cluster: RealCluster, node: Any) -> None:
    """The Dataset goes, and with it its volumes and what serves it."""
    named = (("dataset", "corpus"), ("pvc", "corpus"), ("pv", "default-corpus"))
    eventually(f"{named} are gone", lambda: not any(cluster.get(kind, name) for kind, name in named))
    eventually("no FUSE daemon is left", lambda: not fuse_daemons(node))


def test_a_dataset_forced_away_fails_its_readers_at_once_and_leaves_nothing(
    real_cluster: RealCluster, corpus: Bucket
) -> None:
    node = real_cluster.nodes()[0]
    # One of the same name, which has volumes of its own.
    real_cluster.apply(dataset("corpus", corpus))
    real_cluster.wait_phase("dataset", "corpus", "Bound", never=())
    real_cluster.apply(pod("robbed", ROBBED, by_claim()))
    real_cluster.wait_phase("pod", "robbed", "Running")
    eventually("the reader reads", lambda: "reads" in real_cluster.logs("robbed"))
    real_cluster.kubectl("annotate", "dataset", "corpus", "data.headrace.dev/force-delete=true")
    real_cluster.kubectl("delete", "dataset", "corpus", "--wait=false")
    real_cluster.wait_phase("pod", "robbed", "Succeeded")
    assert real_cluster.logs("robbed").split() == ["reads", "ENOENT"]
    delete(real_cluster, "robbed")
    all_is_gone(real_cluster, node)


def test_a_cache_runtime_has_workers_of_its_own_on_the_node_it_was_given(
    real_cluster: RealCluster, corpus: Bucket
) -> None:
    node = real_cluster.nodes()[0]
    label = "data.headrace.dev/pool"

    def workers() -> dict[str, str]:
        """Ready workers of the node's: by pod, whose they are."""
        text = real_cluster.kubectl(
            "get", "pods", "-n", CSI_NAMESPACE, "-o", "json", "--field-selector", f"spec.nodeName={node.name}"
        )
        pods = [
            one
            for one in json.loads(text)["items"]
            if one["metadata"]["name"].startswith(("headrace-worker", "headrace-pool"))
        ]
        return {one["metadata"]["name"]: one["metadata"]["labels"].get(label, "") for one in pods if is_ready(one)}

    def quota() -> list[tuple[str, int]]:
        tiers = real_cluster.get("nodecache", node.name).get("status", {}).get("tiers", [])
        return [(one["medium"], int(one["capacity"])) for one in tiers]

    def applied() -> str:
        conditions = real_cluster.get("cacheruntime", "fast").get("status", {}).get("conditions", [])
        return next((f"{one['reason']}: {one['message']}" for one in conditions if one["type"] == "Applied"), "")

    def runtime(quota: str) -> dict[str, Any]:
        levels = [
            {"mediumtype": "MEM", "path": "memory", "quota": "64Mi"},
            {"mediumtype": "SSD", "path": "/var/lib/headrace/cache", "quota": quota},
        ]
        return {
            "apiVersion": "data.headrace.dev/v1alpha1",
            "kind": "CacheRuntime",
            "metadata": {"name": "fast"},
            "spec": {"tieredstore": {"levels": levels}, "worker": {"podMetadata": {"labels": {"team": "vision"}}}},
        }

    real_cluster.apply(runtime("1Gi"))
    eventually("it waits for a node", lambda: applied().startswith("NoNodes"))
    real_cluster.kubectl("label", "node", node.name, f"{label}=default.fast")
    try:
        eventually("its worker runs", lambda: list(workers().values()) == ["default.fast"])
        eventually("its tiers are the worker's", lambda: quota() == [("MEM", 64 << 20), ("SSD", 1 << 30)])
        eventually("it says so", lambda: applied() == "RolledOut: 1 of 1 workers run as tieredstore and worker say")
        # Its Datasets are kept and read there.
        mine = dataset("corpus", corpus)
        mine["metadata"]["name"] = "pooled"
        mine["spec"]["runtime"] = "fast"
        real_cluster.apply(mine)
        real_cluster.wait_phase("dataset", "pooled", "Bound", never=())
        real_cluster.apply(pod("pooled", DIGESTS, by_claim("pooled")))
        real_cluster.wait_phase("pod", "pooled", "Succeeded")
        seen = json.loads(real_cluster.logs("pooled"))
        assert seen == {key: hashlib.sha256(data).hexdigest() for key, data in corpus.files.items()}
        before = set(workers())
        real_cluster.apply(runtime("2Gi"))
        eventually("the new quota is the worker's", lambda: quota() == [("MEM", 64 << 20), ("SSD", 2 << 30)])
        eventually("by another pod", lambda: workers() and not before & set(workers()))
        real_cluster.kubectl("delete", "dataset", "pooled", "--wait=false")
        delete(real_cluster, "pooled")
        eventually("the dataset is gone", lambda: not real_cluster.get("dataset", "pooled"))
        real_cluster.kubectl("delete", "cacheruntime", "fast")
        eventually("its node has the installed tiers", lambda: quota() == [("MEM", 128 << 20), ("SSD", 2 << 30)])
    finally:
        real_cluster.kubectl("label", "node", node.name, f"{label}-")
    eventually("the installed worker runs", lambda: list(workers().values()) == [""])
    sets = json.loads(real_cluster.kubectl("get", "daemonsets", "-n", CSI_NAMESPACE, "-l", label, "-o", "json"))[
        "items"
    ]
    assert not sets


def test_down_leaves_nothing_of_a_node(real_cluster: RealCluster, tmp_path: Path) -> None:
    """A second cluster, of Kubernetes only: the first one's nodes must not notice."""
    other = LocalCluster("e2e-bare", tmp_path / "c")
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    try:
        other.up({"nodes": 1, "real": True, "parts": False})
        network = RealCluster(other)
        (node,) = network.nodes()
        eventually("the second node is Ready", lambda: is_ready(network.get("node", node.name)))
        first = node.init_pid()
        assert first is not None
        inside = list(processes_of(node))
    finally:
        other.down(purge=True)
    assert not [pid for pid in inside if Path(f"/proc/{pid}").exists()]
    assert Path("/proc/self/mountinfo").read_text(encoding="utf-8") == mounts
    digest = hashlib.sha256(str(other.folder.root).encode()).hexdigest()[:8]
    assert not list(Path("/sys/fs/cgroup").rglob(f"*{digest}*"))
    assert f"hr-{digest}" not in {name for _, name in socket.if_nameindex()}
    assert not other.folder.root.exists()
    assert real_cluster.nodes()[0].init_pid() is not None
