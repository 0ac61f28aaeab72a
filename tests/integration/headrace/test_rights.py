"""What the controllers' accounts may do is what the controllers do: everything they can do is made to happen with the
tokens of the manifests' service accounts, and the audit log says which rights were used, and that none was missing.

The scheduler's rights are tested with it (../scheduler/test_scheduler_operation.py); the metadata service, workers and
the CSI driver have none (test_manifests.py)."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from api import names
from api.credentials import credential_key
from headrace.cluster import binaries, manifests
from headrace.cluster.control_plane import ControlPlane
from kube.client import KubeClient
from kube.config import load_config
from kube.errors import NotFound
from kube.resources import (
    CACHE_RUNTIMES,
    DAEMON_SETS,
    DATA_LOADS,
    DATASET_GRANTS,
    DATASETS,
    EVENTS,
    NAMESPACES,
    NODE_CACHES,
    NODES,
    PERSISTENT_VOLUMES,
    POD_GROUPS,
    QUEUES,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVICES,
    TRAINING_JOBS,
    Resource,
)
from tests.builders import audit
from tests.builders.api_servers import SYSTEM, api_server
from tests.builders.cache_cluster import CacheCluster
from tests.builders.cron_schedules import YEARLY, Schedules
from tests.builders.job_cluster import Cluster, controller
from tests.builders.training_jobs import job_body, workers

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

Body = dict[str, Any]
PARTS = ("cacheruntime", "jobcontroller")
PATIENCE_SECONDS = 180.0
WORKERS = "headrace-node/headrace-worker"
MIRRORS = "headrace-system/headrace-credentials,headrace-node/headrace-credentials"

#: What no test can bring about here, with the reason; the code that needs it is named in rbac.yaml.
UNUSED: Mapping[str, set[audit.Right]] = {
    "cacheruntime": {
        # Asked by the API server inside of an apply that finds nothing, which is logged as a patch.
        ("create", "apps", "daemonsets"),
        # The same event once more, which is counted: ../kube/test_kube_api_server.py.
        ("patch", "events.k8s.io", "events"),
    },
    "jobcontroller": {
        # OwnerReferencesPermissionEnforcement, which asks for them, makes no request that could be seen.
        ("update", "training.headrace.dev", "trainingjobs/finalizers"),
        ("update", "training.headrace.dev", "crontrainingjobs/finalizers"),
        # A checkpoint of a real metadata service, and a node that will be taken away: test_elastic_jobs.py.
        ("create", "data.headrace.dev", "dataloads"),
        # A pod whose name a stranger has, or that was gone before the watch showed it: unit tests of the shell.
        ("get", "", "pods"),
        # The same event once more, which is counted: ../kube/test_kube_api_server.py.
        ("patch", "events.k8s.io", "events"),
    },
}


def user_of(part: str) -> str:
    return f"system:serviceaccount:{SYSTEM}:headrace-{part}"


@pytest.fixture(scope="module")
def plane(
    control_plane_binaries: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ControlPlane]:
    folder = tmp_path_factory.mktemp("rights")
    flags = audit.flags(folder, users=[user_of(part) for part in PARTS])
    with api_server(folder, control_plane_binaries, "rights", flags=flags) as plane:
        kubectl = str(binaries.require(["kubectl"])["kubectl"])
        overlay = str(manifests.MANIFESTS / "overlays" / "local")
        made = subprocess.run([kubectl, "kustomize", overlay], capture_output=True, text=True, timeout=60, check=True)
        apply = [kubectl, f"--kubeconfig={plane.kubeconfig}", "apply", "--server-side", "-f", "-"]
        done = subprocess.run(apply, input=made.stdout, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        yield plane


@pytest.fixture
async def client(plane: ControlPlane) -> AsyncIterator[KubeClient]:
    async with KubeClient(load_config(plane.kubeconfig), user_agent="tests") as client:
        yield client


async def kubeconfig_of(part: str, plane: ControlPlane, client: KubeClient, folder: Path) -> Path:
    """A kubeconfig with a token of the part's service account."""
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    path = SERVICE_ACCOUNTS.path(SYSTEM, f"headrace-{part}", "token")
    answer = json.loads(await client.request("POST", path, body=json.dumps(body).encode()))
    config = yaml.safe_load(plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": answer["status"]["token"]}
    target = folder / f"{part}.kubeconfig"
    target.write_text(yaml.safe_dump(config))
    return target


def check(part: str, plane: ControlPlane, files: list[Path]) -> None:
    calls = list(audit.calls(plane.folder.root / audit.LOG, user=user_of(part)))
    assert not [call for call in calls if call.code == 403]
    used = {call.right for call in calls}
    assert audit.granted(*files) - used <= UNUSED[part]


async def until(what: str, probe: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (found := await probe()):
            await asyncio.sleep(0.1)
    return found


async def gone(client: KubeClient, resource: Resource, name: str, namespace: str | None) -> bool:
    try:
        await client.get(resource, name, namespace)
    except NotFound:
        return True
    return False


@asynccontextmanager
async def cache_controller(kubeconfig: Path, cache: CacheCluster, log: Path) -> AsyncIterator[None]:
    argv = [sys.executable, "-m", "cacheruntime", "controller", "--kubeconfig", str(kubeconfig)]
    argv += ["--metadata", cache.address, "--credentials-secrets", MIRRORS, "--workers", WORKERS]
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*argv, stdout=output, stderr=output, env=dict(os.environ))
    try:
        yield
    finally:
        if process.returncode is None:
            process.terminate()
            async with asyncio.timeout(30):
                await process.wait()
        print(log.read_text()[-6000:])


async def test_the_cache_controllers(plane: ControlPlane, client: KubeClient, tmp_path: Path) -> None:
    namespace = "rights-data"
    await client.create(NAMESPACES, {"metadata": {"name": namespace}})
    await client.create(SECRETS, {"metadata": {"name": "keys"}, "stringData": {"id": "canary-id"}}, namespace)
    cache = CacheCluster(tmp_path / "cache")
    try:
        cache.put_origin({"a": b"x" * 1000})
        cache.add_worker("n1")
        kubeconfig = await kubeconfig_of("cacheruntime", plane, client, tmp_path)
        async with cache_controller(kubeconfig, cache, tmp_path / "log"):
            await _use_the_cache(client, namespace, cache)
    finally:
        cache.stop()
    folder = manifests.MANIFESTS / "base" / "cacheruntime"
    check("cacheruntime", plane, [folder / "rbac.yaml", folder / "credentials.yaml", folder / "pools.yaml"])


async def _use_the_cache(client: KubeClient, namespace: str, cache: CacheCluster) -> None:
    def dataset(name: str, **mount: Any) -> Body:
        spec = {"mounts": [{"name": name, **mount}]}
        return {"apiVersion": DATASETS.api_version, "kind": "Dataset", "metadata": {"name": name}, "spec": spec}

    secret = {"name": "fs.s3a.access.key", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "id"}}}
    await client.create(DATASETS, dataset("plain", mountPoint=f"file://{cache.origin}"), namespace)
    await client.create(DATASETS, dataset("absent", mountPoint=f"file://{cache.origin}/absent"), namespace)
    await client.create(DATASETS, dataset("keyed", mountPoint="s3://nobody", encryptOptions=[secret]), namespace)
    runtime = {"apiVersion": CACHE_RUNTIMES.api_version, "kind": "CacheRuntime", "metadata": {"name": "default"}}
    await client.create(CACHE_RUNTIMES, runtime, namespace)

    async def phase(name: str) -> str:
        body = await client.get(DATASETS, name, namespace)
        return str(body.get("status", {}).get("phase", ""))

    async def is_bound() -> bool:
        return await phase("plain") == "Bound"

    async def mirrored(mirror_namespace: str) -> bool:
        try:
            body = await client.get(SECRETS, "headrace-credentials", mirror_namespace)
        except NotFound:
            return False
        return credential_key(f"{namespace}/keys/id") in (body.get("data") or {})

    async def has_pool_and_node() -> bool:
        pool = await client.get(CACHE_RUNTIMES, "default", namespace)
        nodes = (await client.list(NODE_CACHES)).items
        return bool(pool.get("status")) and any(node.get("status", {}).get("worker") for node in nodes)

    async def is_warned_of() -> bool:
        events = (await client.list(EVENTS, namespace)).items
        return any((one["reason"], one["regarding"]["name"]) == ("SyncFailed", "absent") for one in events)

    await until("the dataset is bound", is_bound)
    await until("a listing that failed is told of", is_warned_of)
    for each in (SYSTEM, "headrace-node"):
        await until(f"the credentials are in {each}", lambda each=each: mirrored(each))  # type: ignore[misc]
    await until("the pool and its node have a status", has_pool_and_node)
    await _use_loads(client, namespace, cache)
    await _show_elsewhere(client, namespace)
    await _scale(client, namespace)
    await _have_workers(client, namespace)
    for name in ("plain", "keyed", "absent"):
        await client.delete(DATASETS, name, namespace)
        await until(f"{name} is gone", lambda name=name: gone(client, DATASETS, name, namespace))  # type: ignore[misc]
    for each in (SYSTEM, "headrace-node"):
        assert not await mirrored(each), "nobody names the credential any more"


async def _scale(client: KubeClient, namespace: str) -> None:
    async def is_bound_on(nodes: list[str]) -> bool:
        pool = (await client.get(CACHE_RUNTIMES, "default", namespace))["status"]
        dataset = (await client.get(DATASETS, "plain", namespace))["status"]
        assert pool["selector"], "without it nothing scales it"
        return (pool["nodes"], dataset["phase"]) == (nodes, "Bound" if nodes else "Failed")

    for replicas, nodes in ((0, []), (2, ["n1"])):
        patch = {"spec": {"replicas": replicas}}
        await client.patch(CACHE_RUNTIMES, "default", patch, namespace, subresource="scale")
        await until(f"the pool has {nodes}", lambda nodes=nodes: is_bound_on(nodes))  # type: ignore[misc]


async def _have_workers(client: KubeClient, namespace: str) -> None:
    label = f"{namespace}.default"
    await client.create(NODES, {"metadata": {"name": "n1", "labels": {names.POOL_LABEL: label}}})
    levels = [{"mediumtype": "SSD", "path": "/var/lib/headrace/cache", "quota": "1Gi"}]
    patch = {"spec": {"tieredstore": {"levels": levels}}}
    await client.patch(CACHE_RUNTIMES, "default", patch, namespace)

    async def pools() -> list[str]:
        found = (await client.list(DAEMON_SETS, "headrace-node", label_selector=names.POOL_LABEL)).items
        return [one["metadata"]["labels"][names.POOL_LABEL] for one in found]

    async def is_told(reason: str) -> bool:
        status = (await client.get(CACHE_RUNTIMES, "default", namespace))["status"]
        return any((one["type"], one["reason"]) == ("Applied", reason) for one in status["conditions"])

    await until("its node's workers are its own", lambda: is_told("RollingOut"))
    assert await pools() == [label]
    await client.delete(NODES, "n1")

    async def is_gone() -> bool:
        return await is_told("NoNodes") and not await pools()

    await until("they go with the node", is_gone)


async def _show_elsewhere(client: KubeClient, owner: str) -> None:
    guest, grant = "rights-guest", {"apiVersion": DATASET_GRANTS.api_version, "kind": "DatasetGrant"}
    await client.create(NAMESPACES, {"metadata": {"name": guest}})
    spec = {"mounts": [{"name": "theirs", "mountPoint": f"dataset://{owner}/plain"}]}
    body = {"apiVersion": DATASETS.api_version, "kind": "Dataset", "metadata": {"name": "view"}, "spec": spec}
    await client.create(DATASETS, body, guest)

    async def ready() -> str:
        status = (await client.get(DATASETS, "view", guest)).get("status", {})
        return str(next((one["reason"] for one in status.get("conditions", []) if one["type"] == "Ready"), ""))

    async def is_refused() -> bool:
        return await ready() == "NotGranted"

    async def is_shown() -> bool:
        return await ready() == "Listed" and not await gone(client, PERSISTENT_VOLUMES, f"{guest}-view", None)

    await until("what nobody granted is refused", is_refused)
    metadata = {"metadata": {"name": "to-guest"}}
    await client.create(
        DATASET_GRANTS, grant | metadata | {"spec": {"datasets": ["plain"], "namespaces": [guest]}}, owner
    )
    await until("what was granted is shown", is_shown)
    await client.delete(DATASET_GRANTS, "to-guest", owner)
    await until("what is granted no more is taken away", is_refused)
    await client.delete(DATASETS, "view", guest)
    await until("what showed it is gone", lambda: gone(client, DATASETS, "view", guest))


async def _use_loads(client: KubeClient, namespace: str, cache: CacheCluster) -> None:
    async def load(name: str, **spec: Any) -> None:
        body = {"metadata": {"name": name}, "spec": {"dataset": {"name": "plain"}, **spec}}
        await client.create(DATA_LOADS, {"apiVersion": DATA_LOADS.api_version, "kind": "DataLoad", **body}, namespace)

    async def complete_at(name: str, snapshot: int) -> bool:
        status = (await client.get(DATA_LOADS, name, namespace)).get("status", {})
        return (status.get("phase"), status.get("snapshotVersion")) == ("Complete", snapshot)

    await load("follows", policy="OnEvent")
    await until("what follows snapshots has loaded the first", lambda: complete_at("follows", 1))
    # One that lists the bucket anew, after the other: so there is a second snapshot, which the first one follows.
    cache.put_origin({"b": b"y" * 2000})
    await load("lists", loadMetadata=True, runAfter={"kind": "DataLoad", "name": "follows"})
    await until("the new file is loaded", lambda: complete_at("lists", 2))
    await until("what follows snapshots has loaded it too", lambda: complete_at("follows", 2))
    for one, other in (("x", "y"), ("y", "x")):
        await load(one, runAfter={"name": other})

    async def is_refused() -> bool:
        statuses = [(await client.get(DATA_LOADS, name, namespace)).get("status", {}) for name in ("x", "y")]
        return all(status.get("conditions", [{}])[-1].get("reason") == "RunAfterCycle" for status in statuses)

    await until("a circle is refused", is_refused)
    await load("passing", ttlSecondsAfterFinished=0)
    await until("the load has ended and gone", lambda: gone(client, DATA_LOADS, "passing", namespace))


async def test_the_job_controllers(plane: ControlPlane, client: KubeClient, tmp_path: Path) -> None:
    namespace = "rights-jobs"
    await client.create(NAMESPACES, {"metadata": {"name": namespace}})
    await client.create(SERVICE_ACCOUNTS, {"metadata": {"name": "default"}}, namespace)
    cluster = Cluster(client, namespace, await kubeconfig_of("jobcontroller", plane, client, tmp_path))
    async with cluster.kubelet(), controller(cluster, tmp_path / "log", "--leader-elect"):
        await _use_jobs(cluster, plane)
    check("jobcontroller", plane, [manifests.rbac_file("jobcontroller")])


async def _use_jobs(cluster: Cluster, plane: ControlPlane) -> None:
    queue = {"apiVersion": QUEUES.api_version, "kind": "Queue", "metadata": {"name": "research"}}
    await cluster.client.create(QUEUES, queue | {"spec": {"nominalGPUs": 8}})
    # A job whose pod is killed, and which ends well the second time; then it is deleted.
    policy = {"ttlSecondsAfterFinished": 0, "schedulingPolicy": {"queue": "research"}}
    await cluster.submit(job_body("again", replicaSpecs=workers(2), runPolicy=policy))
    first = await cluster.wait_for_pods("again", 0, 2)
    for pod in first:
        await cluster.run_pod(pod)
    await cluster.wait_for_state("again", "Running")
    await cluster.end_pod(first[0], 137)
    for pod in await cluster.wait_for_pods("again", 1, 2):
        await cluster.run_pod(pod)
        await cluster.end_pod(pod, 0)
    await until("it is deleted", lambda: cluster.gone(TRAINING_JOBS, "again"))
    # A role that waits for another one is told by an annotation when it may start.
    one = workers(1)["Worker"]
    roles = {"PS": one, "Worker": one | {"dependsOn": [{"role": "PS", "status": "Running"}]}}
    await cluster.submit(job_body("ordered", framework="Custom", replicaSpecs=roles))
    for pod in await cluster.wait_for_pods("ordered", 0, 2):
        await cluster.place_pod(pod)
        if pod["metadata"]["labels"][names.JOB_ROLE_LABEL] == "PS":
            await cluster.run_pod(pod)

    async def may_start() -> bool:
        found = [pod["metadata"].get("annotations", {}) for pod in await cluster.pods("ordered", 0)]
        return any(annotations.get(names.START_ANNOTATION) for annotations in found)

    await until("the worker may start", may_start)
    # A job whose pods are to give signs of life: their logs are read.
    await cluster.submit(
        job_body("watched", replicaSpecs=workers(1), runPolicy={"hangDetection": {"timeoutSeconds": 5}})
    )
    for pod in await cluster.wait_for_pods("watched", 0, 1):
        await cluster.run_pod(pod)

    async def is_read() -> bool:
        calls = audit.calls(plane.folder.root / audit.LOG, user=user_of("jobcontroller"))
        return any(call.right == ("get", "", "pods/log") for call in calls)

    await until("its log is read", is_read)
    # Keys and hosts of an MPI job are a Secret and a ConfigMap.
    await cluster.submit(job_body("mpi", framework="MPI", replicaSpecs={"Launcher": one, "Worker": one}))
    await cluster.wait_for_pods("mpi", 0, 2)
    # A dataset that is to be listed before a job starts.
    await cluster.bound_dataset("fresh", policy="OnJobStart")
    await cluster.submit(job_body("eager", datasets=[{"name": "fresh", "mountPath": "/data"}]))
    await cluster.wait_for_request("fresh")
    # Names that a stranger has.
    group = {"apiVersion": POD_GROUPS.api_version, "kind": "PodGroup", "metadata": {"name": "grouped-a0"}}
    await cluster.client.create(POD_GROUPS, group | {"spec": {"minMember": 1}}, cluster.namespace)
    await cluster.client.create(
        SERVICES, {"metadata": {"name": "taken"}, "spec": {"ports": [{"port": 80}]}}, cluster.namespace
    )
    for name in ("grouped", "taken"):
        await cluster.submit(job_body(name))
        await cluster.wait_for_state(name, "Queued", "NameTaken")
    # A schedule whose runs end: the older one is deleted.
    crons = Schedules(cluster)
    await crons.create("tidy", successfulJobsHistoryLimit=1)
    run = ""
    for schedule in (YEARLY[0], YEARLY[5]):
        await crons.make_due("tidy", schedule)
        run = await crons.wait_for_job("tidy", run)
        await crons.end(run, 0)

    async def is_trimmed() -> bool:
        return [job["metadata"]["name"] for job in await crons.jobs("tidy")] == [run]

    await until("the older run is deleted", is_trimmed)
