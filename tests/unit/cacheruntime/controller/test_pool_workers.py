"""The workers of a CacheRuntime's own nodes: what their DaemonSet is, what is refused, and what the CacheRuntime hears.

The installed DaemonSet is the manifests'. On an API server: tests/integration/cacheruntime/test_pool_workers.py."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from api import names
from api.cacheruntime_v1alpha1 import CacheRuntime
from api.gen import metadata_pb2
from cacheruntime.controller import pool_plan, pool_workers, runtime
from cacheruntime.controller.pool_plan import Plan, Seen
from cacheruntime.worker.settings import parse_tier

Body = dict[str, Any]
BASE = Path(__file__).resolve().parents[4] / "manifests" / "base" / "worker"
NOW = 1_800_000_000.0
FOLDERS = ["/var/lib/headrace/cache", "/mnt/nvme0"]
WHERE = "headrace-node/headrace-worker"
MEM = {"mediumtype": "MEM", "path": "/dev/shm", "quota": "1Gi"}
SSD = {"mediumtype": "SSD", "path": FOLDERS[0], "quota": "200Gi", "high": "0.9", "low": "0.7"}
HDD = {"mediumtype": "HDD", "path": FOLDERS[1], "quota": 1 << 40}


def installed() -> Body:
    """The manifests' DaemonSet, for nodes with two disks."""
    bodies = yaml.safe_load_all((BASE / "daemonset.yaml").read_text())
    found: Body = next(one for one in bodies if one["kind"] == "DaemonSet")
    found["metadata"]["annotations"][names.POOL_FOLDERS_ANNOTATION] = ", ".join(FOLDERS)
    return found


def a_pool(name: str = "fast", status: Body | None = None, **spec: Any) -> CacheRuntime:
    body = {"metadata": {"name": name, "namespace": "team"}, "spec": spec, "status": status}
    return CacheRuntime.model_validate(body)


def levels(*levels: Body) -> Body:
    return {"levels": list(levels)}


def spec_of(daemon_set: Body) -> Body:
    found: Body = daemon_set["spec"]["template"]["spec"]
    return found


def worker_of(daemon_set: Body) -> Body:
    (found,) = spec_of(daemon_set)["containers"]
    assert isinstance(found, dict)
    return found


def seen(*runtimes: CacheRuntime, labels: tuple[str, ...] = (), pools: tuple[Body, ...] = (), **rest: Any) -> Seen:
    return Seen(
        **{"installed": installed(), "pools": pools, "runtimes": runtimes, "unreadable": (), "labels": labels} | rest
    )


def made(label: str, **changes: Any) -> Body:
    """A DaemonSet as the API server has it."""
    body = pool_workers.daemon_set(label, installed(), None)
    body["metadata"] |= {"uid": f"uid-{label}", "generation": 2}
    status = {"observedGeneration": 2, "desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberAvailable": 3}
    return body | {"status": status | changes}


def test_levels_become_tiers_that_a_worker_takes_and_folders_it_has() -> None:
    body = pool_workers.daemon_set("team.fast", installed(), a_pool(tieredstore=levels(MEM, SSD, HDD)))
    tiers = [word.partition("=")[2] for word in worker_of(body)["args"] if word.startswith("--tier=")]
    assert [(one.medium, str(one.directory), one.quota_bytes, one.high, one.low) for one in map(parse_tier, tiers)] == [
        ("MEM", "/cache/memory/tier-0", 1 << 30, 0.95, 0.85),
        ("SSD", "/cache/tiers/1/tier", 200 << 30, 0.9, 0.7),
        ("HDD", "/cache/tiers/2/tier", 1 << 40, 0.95, 0.85),
    ]
    volumes = {one["name"]: one for one in spec_of(body)["volumes"]}
    assert "disk" not in volumes and volumes["memory"]["emptyDir"] == {"medium": "Memory"}
    assert volumes["tier-1"]["hostPath"]["path"] == FOLDERS[0] and volumes["tier-2"]["hostPath"]["path"] == FOLDERS[1]
    (init,) = spec_of(body)["initContainers"]
    assert init["command"] == ["chown", "65532:65532", "/cache/tiers/1", "/cache/tiers/2", "/run/headrace/worker"]
    for container in (init, worker_of(body)):
        mounted = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
        assert mounted.keys() <= volumes.keys(), "every mount has its volume"
        assert (mounted["tier-1"], mounted["tier-2"]) == ("/cache/tiers/1", "/cache/tiers/2")


def test_all_else_is_what_is_installed() -> None:
    before = installed()
    body = pool_workers.daemon_set("team.fast", before, a_pool(tieredstore=levels(SSD)))
    mine, theirs = worker_of(body), worker_of(before)
    for field in ("image", "command", "env", "ports", "securityContext", "resources", "livenessProbe", "startupProbe"):
        assert mine[field] == theirs[field], field
    others = [word for word in theirs["args"] if not word.startswith("--tier=")]
    assert [word for word in mine["args"] if not word.startswith("--tier=")] == others
    for field in ("serviceAccountName", "automountServiceAccountToken", "priorityClassName", "securityContext"):
        assert spec_of(body)[field] == spec_of(before)[field], field
    assert before == installed(), "the installed one is not touched"
    assert (
        pool_workers.daemon_set("x.y", before, None)["spec"]["template"]["spec"]["volumes"]
        == spec_of(before)["volumes"]
    )


def test_its_pods_run_on_its_nodes_and_never_beside_another_worker() -> None:
    body = pool_workers.daemon_set("team.fast", installed(), a_pool(tieredstore=levels(SSD)))
    spec = spec_of(body)
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux", names.POOL_LABEL: "team.fast"}
    assert "nodeAffinity" not in spec["affinity"], "all that the installed one asked for was to leave pools out"
    (term,) = spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    workers = {"app.kubernetes.io/name": "headrace-worker"}
    assert term == {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": workers}}
    labels = body["spec"]["template"]["metadata"]["labels"]
    assert body["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert labels[names.POOL_LABEL] == "team.fast"
    assert body["spec"]["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}


def test_what_else_the_installed_workers_ask_of_nodes_holds_too() -> None:
    base = installed()
    affinity = spec_of(base)["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (term,) = affinity["nodeSelectorTerms"]
    other = {"key": "disk", "operator": "Exists"}
    term["matchExpressions"].append(other)
    pool_workers.check_installed(base)
    found = spec_of(pool_workers.daemon_set("team.fast", base, None))["affinity"]["nodeAffinity"]
    assert found["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"] == [
        {"matchExpressions": [other]}
    ]


def test_resources_tolerations_and_metadata_are_added() -> None:
    worker = {
        "resources": {"limits": {"memory": "24Gi"}, "requests": {"cpu": 2}},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "podMetadata": {"labels": {"team": "vision"}, "annotations": {"example.com/note": "x"}},
    }
    body = pool_workers.daemon_set("team.fast", installed(), a_pool(worker=worker))
    assert worker_of(body)["resources"] == {
        "requests": {"cpu": 2, "memory": "1536Mi"},
        "limits": {"memory": "24Gi"},
    }
    assert spec_of(body)["tolerations"] == [{"operator": "Exists"}, {"key": "gpu", "operator": "Exists"}]
    meta = body["spec"]["template"]["metadata"]
    assert meta["labels"]["team"] == "vision" and meta["annotations"]["example.com/note"] == "x"
    assert "--tier=MEM:/cache/memory/tier:$(MEMORY)" in worker_of(body)["args"], "no levels: the installed tiers"


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"tieredstore": levels(SSD, SSD)}, "tieredstore.levels[1].path is '/var/lib/headrace/cache', as levels[0]"),
        ({"tieredstore": levels(SSD | {"quota": "0"})}, "tieredstore.levels[0].quota is '0'; it must be above 0"),
        ({"tieredstore": levels(MEM, SSD | {"quota": -1})}, "tieredstore.levels[1].quota is '-1'"),
        ({"tieredstore": levels(SSD | {"quota": "lots"})}, "tieredstore.levels[0].quota: 'lots' is not a quantity"),
        ({"tieredstore": levels(SSD | {"high": "0.7"})}, "levels[0] has low 0.7 and high 0.7; they must be 0 < low <"),
        ({"tieredstore": levels(SSD | {"high": "0.5"})}, "levels[0] has low 0.7 and high 0.5"),
        ({"tieredstore": levels(SSD | {"high": "1.5"})}, "levels[0].high is '1.5'; it must be a part of the quota"),
        ({"tieredstore": levels(SSD | {"low": "nan"})}, "levels[0].low is 'nan'"),
        ({"tieredstore": levels(SSD | {"low": "0"})}, "levels[0] has low 0 and high 0.9"),
        ({"tieredstore": levels(SSD | {"path": "cache"})}, "levels[0].path is 'cache'; it must be an absolute path"),
        ({"tieredstore": levels(SSD | {"path": "/mnt/nvme0/../.."})}, "it must be an absolute path"),
        ({"tieredstore": levels(SSD | {"path": "/mnt/nvme0/"})}, "it must be an absolute path"),
        (
            {"tieredstore": levels(SSD | {"path": "/etc"})},
            "levels[0].path is '/etc'; this installation allows /var/lib",
        ),
        ({"tieredstore": levels(SSD | {"path": "/mnt/nvme0/x"})}, "'/mnt/nvme0/x'; this installation allows"),
        (
            {"tieredstore": levels(MEM | {"quota": "4Gi"})},
            "worker.resources.limits.memory is '4Gi'; levels of MEM take 4.4",
        ),
        (
            {"worker": {"resources": {"limits": {"cpu": "much"}}}},
            "worker.resources.limits.cpu: 'much' is not a quantity",
        ),
        ({"worker": {"resources": {"claims": []}}}, "worker.resources.claims is []; give requests and limits"),
        ({"worker": {"resources": {"limits": [1]}}}, "worker.resources.limits is [1]; give requests and limits"),
        (
            {"worker": {"podMetadata": {"labels": {"app.kubernetes.io/name": "x"}}}},
            "worker.podMetadata.labels: 'app.kub",
        ),
        ({"worker": {"podMetadata": {"annotations": {"kubernetes.io/psp": "x"}}}}, "worker.podMetadata.annotations"),
        ({"worker": {"podMetadata": {"labels": {names.POOL_LABEL: "x"}}}}, "worker.podMetadata.labels"),
    ],
)
def test_what_cannot_be_is_said_with_its_field_and_leaves_what_runs(spec: Body, sentence: str) -> None:
    item = a_pool(**spec)
    pool = made("team.fast")
    found = pool_plan.plan(seen(item, labels=("team.fast",), pools=(pool,)), WHERE)
    assert sentence in found.problems["team.fast"]
    assert (found.apply, list(found.delete)) == ({}, [])
    told = pool_plan.condition(item, pool, found.problems["team.fast"])
    assert (told.status, told.reason) == ("False", "Refused") and sentence in told.message
    fresh = pool_plan.plan(seen(item, labels=("team.fast",)), WHERE)
    assert fresh.apply == {"team.fast": pool_workers.daemon_set("team.fast", installed(), None)}, (
        "never without a worker"
    )


@pytest.mark.parametrize(
    ("given", "becomes"),
    [
        ({}, (0.95, 0.85)),
        ({"high": "0.8"}, (0.8, 0.8 * 0.85)),
        ({"low": "0.97"}, (1.0, 0.97)),
        ({"high": "1", "low": ".5"}, (1.0, 0.5)),
    ],
)
def test_a_watermark_that_is_not_given_fits_the_one_that_is(given: Body, becomes: tuple[float, float]) -> None:
    level = {key: value for key, value in SSD.items() if key not in ("high", "low")} | given
    body = pool_workers.daemon_set("team.fast", installed(), a_pool(tieredstore=levels(level)))
    (tier,) = [parse_tier(word.partition("=")[2]) for word in worker_of(body)["args"] if word.startswith("--tier=")]
    assert (tier.high, tier.low) == pytest.approx(becomes)


def test_a_labelled_node_has_a_worker_whatever_becomes_of_its_cache_runtime() -> None:
    item = a_pool(tieredstore=levels(SSD))
    plain = pool_workers.daemon_set("team.fast", installed(), None)
    tiers = pool_workers.daemon_set("team.fast", installed(), item)
    labels = ("team.fast",)

    def applied(plan: Plan) -> Body | None:
        return plan.apply.get("team.fast")

    assert applied(pool_plan.plan(seen(item, labels=labels), WHERE)) == tiers
    assert applied(pool_plan.plan(seen(labels=labels), WHERE)) == plain, "it is gone"
    assert applied(pool_plan.plan(seen(a_pool(replicas=3), labels=labels), WHERE)) == plain, "it asks for nothing"
    assert applied(pool_plan.plan(seen(item), WHERE)) is None, "no node is labelled"
    malformed = seen(labels=labels, pools=(made("team.fast"),), unreadable={"team.fast"})
    assert applied(pool_plan.plan(malformed, WHERE)) is None, "it cannot be read: what runs stays"


def test_a_daemon_set_goes_with_the_last_node_of_its_label() -> None:
    kept, gone = made("team.fast"), made("team.slow")
    found = pool_plan.plan(seen(labels=("team.fast",), pools=(kept, gone)), WHERE)
    assert list(found.delete) == [gone] and list(found.apply) == ["team.fast"]


def test_an_installation_that_does_not_share_its_nodes_is_left_alone() -> None:
    item, labels = a_pool(tieredstore=levels(SSD)), ("team.fast",)
    found = pool_plan.plan(seen(item, labels=labels, installed=None), WHERE)
    assert "DaemonSet headrace-node/headrace-worker" in found.problems["team.fast"] and not found.apply
    old = installed()
    del spec_of(old)["affinity"]
    found = pool_plan.plan(seen(item, labels=labels, installed=old), WHERE)
    assert "also runs on nodes with the label data.headrace.dev/pool" in found.problems["team.fast"] and not found.apply
    other = deepcopy(installed())
    worker_of(other)["volumeMounts"] = []
    found = pool_plan.plan(seen(item, labels=labels, installed=other), WHERE)
    assert "has no container 'worker' with volumes 'disk' and 'memory'" in found.problems["team.fast"]


def test_a_name_no_label_can_have_is_said() -> None:
    item = a_pool("x" * 59, tieredstore=levels(SSD))
    found = pool_plan.plan(seen(item), WHERE)
    assert "it has 64 characters and may have 63" in found.problems[pool_workers.label_of(item)]


def test_the_condition_counts_workers_that_are_as_they_should_be() -> None:
    item = a_pool(tieredstore=levels(SSD))
    told = pool_plan.condition(item, None, None)
    assert (told.status, told.reason) == ("False", "NoNodes")
    assert "kubectl label node NODE data.headrace.dev/pool=team.fast" in told.message
    told = pool_plan.condition(item, made("team.fast"), None)
    assert (told.status, told.reason, told.message) == (
        "True",
        "RolledOut",
        "3 of 3 workers run as tieredstore and worker say",
    )
    for changes, count in (
        ({"updatedNumberScheduled": 1}, 1),
        ({"numberAvailable": 2}, 2),
        ({"observedGeneration": 1}, 0),
        ({"desiredNumberScheduled": 0, "updatedNumberScheduled": 0, "numberAvailable": 0}, 0),
    ):
        told = pool_plan.condition(item, made("team.fast", **changes), None)
        assert (told.status, told.reason) == ("False", "RollingOut") and told.message.startswith(f"{count} of ")


def a_worker(node: str, *, alive: bool = True) -> metadata_pb2.Worker:
    tier = metadata_pb2.Tier(medium="SSD", capacity_bytes=100)
    return metadata_pb2.Worker(node=node, epoch=1, alive=alive, tiers=[tier])


def test_its_datasets_are_kept_by_its_own_nodes_once_it_has_any() -> None:
    nodes = {"a": {names.POOL_LABEL: "team.fast"}, "b": {names.POOL_LABEL: "team.fast", "zone": "1"}, "c": {}}
    workers = [a_worker("b"), a_worker("c")]
    item = a_pool(tieredstore=levels(SSD))
    assert runtime.is_limited(item)
    assert runtime.members(item, workers, nodes) == ["b"]
    assert runtime.members(item, workers, {"b": {}, "c": {}}) == ["b", "c"], "it was given no node yet"
    assert runtime.members(a_pool(replicas=5), workers, nodes) == ["b", "c"], "one that says nothing of its workers"
    status = runtime.status(item, workers, nodes, NOW)
    assert (status.desired_worker_number_scheduled, status.worker_number_ready) == (2, 1), "a has no worker yet"
    assert status.worker_phase == "PartialReady"
    assert status.selector == "app.kubernetes.io/name=headrace-worker,data.headrace.dev/pool=team.fast"
    zoned = runtime.status(a_pool(tieredstore=levels(SSD), nodeSelector={"zone": "1"}), workers, nodes, NOW)
    assert (zoned.desired_worker_number_scheduled, zoned.nodes) == (1, ["b"])


def test_the_condition_comes_and_goes_with_what_is_asked() -> None:
    item = a_pool(tieredstore=levels(SSD))
    with_it = runtime.status(item, [], {}, NOW, pool_plan.not_pods())
    assert [one.type for one in with_it.conditions] == ["Scaled", "Applied"]
    assert "have no effect" in with_it.conditions[1].message
    later = a_pool(status=with_it.to_wire())
    assert [one.type for one in runtime.status(later, [], {}, NOW).conditions] == ["Scaled"]
