"""Fluid's runtime config and environment as values, what they mean here, and the answers, letter by letter."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api.gen import metadata_pb2
from cacheruntime.controller.dataset import sync_request
from cacheruntime.core.tiers import MEDIA
from cacheruntime.fluid.core import answers, config, plan
from cacheruntime.fluid.errors import FluidError
from cacheruntime.worker.settings import Tunables, parse_tier

SECRETS = "/etc/fluid/secrets"
WHO = config.DatasetName("default", "demo")


def body(**changes: Any) -> dict[str, Any]:
    """What Fluid's integration guide shows, with our names."""
    found: dict[str, Any] = {
        "mounts": [
            {
                "mountPoint": "s3://test",
                "options": {"endpoint": "http://minio:9000", "region": "us-east-1"},
                "encryptOptions": {
                    "access-key": f"{SECRETS}/minio-secret/access-key",
                    "secret-key": f"{SECRETS}/minio-secret/secret-key",
                },
                "name": "minio",
                "path": "/minio",
            }
        ],
        "accessModes": ["ReadWriteMany"],
        "targetPath": "/runtime-mnt/cache/default/demo/cache-fuse",
        "master": {"enabled": True, "name": "demo-master", "replicas": 1, "service": {"name": "svc-demo-master"}},
        "worker": {
            "enabled": True,
            "name": "demo-worker",
            "replicas": 2,
            "service": {"name": "svc-demo-worker"},
            "tieredStoreLevels": [
                {"mountPaths": ["/dev/shm"], "mediumType": "MEM", "quotas": ["1Gi"], "high": "0.8", "low": "0.5"},
                {"mountPaths": ["/mnt/a", "/mnt/b/"], "mediumType": "HDD", "quotas": ["10Gi", "20Gi"]},
            ],
        },
        "client": {"enabled": True, "name": "demo-client", "service": {"name": ""}},
    }
    return {**found, **changes}


def parsed(**changes: Any) -> config.RuntimeConfig:
    return config.parse_config(json.dumps(body(**changes)))


def mount(**changes: Any) -> list[dict[str, Any]]:
    return [{**body()["mounts"][0], **changes}]


def refusal(of: Any) -> str:
    with pytest.raises(FluidError) as caught:
        of()
    message = caught.value.message
    assert "\n" not in message and message
    return message


def test_a_dataset_of_fluids_is_one_of_ours() -> None:
    item = plan.dataset_of(parsed(), WHO, SECRETS)
    request = sync_request(item, plan.keepers(parsed()))
    plan.name_secrets_as_fluid(request)
    (found,) = request.mounts
    assert (found.mount_point, found.path, found.read_only) == ("s3://test", "minio", False)
    assert dict(found.options) == {"endpoint": "http://minio:9000", "region": "us-east-1"}
    assert dict(found.secret_options) == {
        "access-key": "minio-secret/access-key",
        "secret-key": "minio-secret/secret-key",
    }, "by file only, below the folder Fluid mounts Secrets in"
    assert (request.namespace, request.name, request.writable, request.replicas) == ("default", "demo", True, 1)
    assert not request.local_copies
    assert {"demo-worker-0", "demo-worker-1", "demo-worker-9"} <= set(request.eligible_nodes)
    assert "client.node-1" not in request.eligible_nodes
    assert request.uid == plan.dataset_uid(config.DatasetName("default", "demo"))
    assert request.uid != plan.dataset_uid(config.DatasetName("default", "other"))


@pytest.mark.parametrize(
    ("given", "path"),
    [({"path": "/a/b"}, "/a/b"), ({"path": ""}, "/minio"), ({"path": "relative"}, "/minio"), ({"path": "/"}, "/")],
)
def test_mounted_paths_are_spelled_as_fluid_expects_them(given: dict[str, str], path: str) -> None:
    item = plan.dataset_of(parsed(mounts=mount(**given)), WHO, SECRETS)
    assert json.loads(answers.mounted(item)) == {"mounted": [path]}
    assert sync_request(item, []).mounts[0].path == path.strip("/")


def test_secret_options_go_before_plain_ones() -> None:
    item = plan.dataset_of(parsed(mounts=mount(options={"access-key": "plain", "region": "r"})), WHO, SECRETS)
    assert item.spec.mounts[0].options == {"region": "r"}


@pytest.mark.parametrize(
    ("modes", "writable"),
    [
        (["ReadOnlyMany"], False),
        ([], False),
        (["ReadWriteOnce"], True),
        (["ReadWriteOncePod"], True),
        (["ReadOnlyMany", "ReadWriteMany"], True),
    ],
)
def test_access_modes(modes: list[str], writable: bool) -> None:
    assert plan.dataset_of(parsed(accessModes=modes), WHO, SECRETS).spec.is_writable is writable


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mounts": []}, "no mounts"),
        ({"mounts": None}, "no mounts"),
        ({"mounts": mount(mountPoint="pvc://data")}, "mounts[0].mountPoint 'pvc://data'"),
        ({"mounts": mount(mountPoint="local:///data")}, "Fluid's own"),
        ({"mounts": mount(mountPoint="dataset://ns/other")}, "ThinRuntime"),
        ({"mounts": mount() + mount(mountPoint="s3://b")}, "mounts 0 and 1 of Dataset default/demo are both at /minio"),
        ({"mounts": mount(encryptOptions={"k": "/etc/passwd"})}, "mounts[0].encryptOptions.k is no file"),
        ({"mounts": mount(encryptOptions={"k": f"{SECRETS}/../x"})}, "is no file <secret>/<key>"),
        ({"mounts": mount(encryptOptions={"k": "hunter2"})}, "only a Secret that Fluid mounted"),
        ({"accessModes": ["ReadMostly"]}, "accessModes has 'ReadMostly'"),
        ({"worker": {"name": "demo-worker", "options": {"threads": "4"}}}, "demo-worker has the option 'threads'"),
        ({"master": {"name": "demo-master", "options": {"replicas": "many"}}}, "spec.cache.replicas"),
    ],
)
def test_what_has_no_counterpart_is_refused(changes: dict[str, Any], words: str) -> None:
    message = refusal(lambda: plan.dataset_of(parsed(**changes), WHO, SECRETS))
    assert words in message
    assert "hunter2" not in message, "what stands where a path should be may be the secret itself"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the text"),
        ("[]", "the text"),
        ('{"mounts": [{"name": "x"}]}', "mounts.0.mountPoint"),
        ('{"mounts": [{"mountPoint": "s3://b", "options": {"secret": ["hunter2"]}}]}', "mounts.0.options.secret"),
        ('{"worker": {"replicas": "two"}}', "worker.replicas"),
    ],
)
def test_a_config_that_is_none_is_named(text: str, words: str) -> None:
    message = refusal(lambda: config.parse_config(text))
    assert words in message and "hunter2" not in message


def test_what_go_leaves_out_or_writes_as_null_is_the_default() -> None:
    empty = config.parse_config("{}")
    nulls = config.parse_config('{"mounts": null, "accessModes": null, "master": null, "worker": {"options": null}}')
    assert empty == nulls
    assert config.parse_config('{"aFieldOfTomorrow": {"x": 1}}') == empty


def test_names_come_from_the_environment_or_from_the_target_path() -> None:
    environment = {config.DATASET_NAMESPACE: "team", config.DATASET_NAME: "corpus"}
    assert config.dataset_name(parsed(), environment) == config.DatasetName("team", "corpus")
    assert config.dataset_name(parsed(), {}) == WHO
    assert "which Dataset this is" in refusal(lambda: config.dataset_name(parsed(targetPath=""), {}))


def test_metadata_is_the_master_pods() -> None:
    assert plan.metadata_address(parsed(), WHO, 7100) == "demo-master-0.svc-demo-master.default:7100"
    assert "no master" in refusal(lambda: plan.metadata_address(parsed(master=None), WHO, 7100))
    bare = {"enabled": True, "name": "demo-master"}
    assert "headless" in refusal(lambda: plan.metadata_address(parsed(master=bare), WHO, 7100))
    plan.check_master(parsed(), WHO)
    assert "replicas to 1" in refusal(lambda: plan.check_master(parsed(master={**bare, "replicas": 3}), WHO))


def test_tiers_are_those_of_the_tiered_store_and_fit_into_its_quotas() -> None:
    found = [parse_tier(text) for text in plan.tier_arguments(parsed().worker, WHO, "demo-worker-1")]
    assert [(tier.medium, str(tier.directory), tier.high, tier.low) for tier in found] == [
        ("MEM", "/dev/shm/headrace/default/demo-worker-1", 0.8, 0.5),
        ("HDD", "/mnt/a/headrace/default/demo-worker-1", 0.95, 0.85),
        ("HDD", "/mnt/b/headrace/default/demo-worker-1", 0.95, 0.85),
    ]
    tunables = Tunables.model_fields
    assert tunables["temporary_percent"].default == plan.TEMPORARY_PERCENT
    assert tunables["temporary_bytes_min"].default == plan.TEMPORARY_BYTES
    for tier, quota in zip(found, (1 << 30, 10 << 30, 20 << 30), strict=True):
        temporary = max(tier.quota_bytes * plan.TEMPORARY_PERCENT // 100, plan.TEMPORARY_BYTES)
        assert 0.9 * quota < tier.quota_bytes + temporary <= quota
    assert plan.tier_arguments(parsed().client, WHO, "client.n") == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"quotas": []}, "1 paths and 0 quotas"),
        ({"mountPaths": []}, "0 paths and 1 quotas"),
        ({"quotas": ["lots"]}, "tieredStore.levels[0] of demo-worker.quota 'lots'"),
        ({"quotas": ["64Mi"]}, "must be above 64Mi"),
        ({"quotas": ["-1Gi"]}, "must be above 64Mi"),
        ({"mediumType": "TAPE"}, "'TAPE' is none of"),
        ({"mediumType": ""}, ", ".join(MEDIA)),
        ({"high": "1.5"}, "levels[0] of demo-worker.high is '1.5'"),
        ({"low": "a lot"}, "levels[0] of demo-worker.low is 'a lot'"),
        ({"low": "nan"}, "low is 'nan'"),
        ({"high": "0.5", "low": "0.6"}, "low 0.6 is above high 0.5"),
    ],
)
def test_a_tier_that_cannot_be_is_named(change: dict[str, Any], words: str) -> None:
    level = {"mountPaths": ["/c"], "mediumType": "SSD", "quotas": ["1Gi"], **change}
    component = parsed(worker={"name": "demo-worker", "tieredStoreLevels": [level]}).worker
    assert words in refusal(lambda: plan.tier_arguments(component, WHO, "pod"))


def test_clients_with_a_tiered_store_keep_blocks_too() -> None:
    level = {"mountPaths": ["/c"], "mediumType": "SSD", "quotas": ["1Gi"]}
    found = parsed(client={"enabled": True, "name": "demo-client", "tieredStoreLevels": [level]})
    assert plan.keepers(found) == []
    assert plan.dataset_of(found, WHO, SECRETS).spec.cache.local_copies


@pytest.mark.parametrize(
    ("environment", "targets", "metadata"),
    [
        ({}, (("/", 1),), False),
        ({"DATA_PATH": "", "PATH_REPLICAS": "", "METADATA": "false"}, (("/", 1),), False),
        ({"DATA_PATH": "/a:/b/c/", "PATH_REPLICAS": "1:2", "METADATA": "true"}, (("/a", 1), ("/b/c", 2)), True),
        ({"DATA_PATH": "a", "PATH_REPLICAS": "0"}, (("/a", 1),), False),
    ],
)
def test_a_data_load(environment: dict[str, str], targets: Any, metadata: bool) -> None:
    task = config.load_task({f"FLUID_DATALOAD_{name}": value for name, value in environment.items()})
    assert (task.targets, task.load_metadata) == (targets, metadata)
    load = plan.load_of(task, WHO, "run", "2026-01-01T00:00:00Z")
    assert [(one.path, one.replicas) for one in load.spec.target] == list(targets)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"DATA_PATH": "/a:/b", "PATH_REPLICAS": "1"}, "2 paths and FLUID_DATALOAD_PATH_REPLICAS 1 numbers"),
        ({"DATA_PATH": "/a:", "PATH_REPLICAS": "1:1"}, "the path ''"),
        ({"DATA_PATH": "/a/../b"}, "the path '/a/../b'"),
        ({"PATH_REPLICAS": "-1"}, "'-1'"),
        ({"PATH_REPLICAS": "99"}, "'99'"),
        ({"METADATA": "yes"}, "'yes'"),
    ],
)
def test_a_data_load_that_cannot_be_is_named(environment: dict[str, str], words: str) -> None:
    named = {f"FLUID_DATALOAD_{name}": value for name, value in environment.items()}
    assert words in refusal(lambda: config.load_task(named))


def test_is_mounted_when_all_is_listed() -> None:
    item = plan.dataset_of(parsed(), WHO, SECRETS)
    info = metadata_pb2.DatasetInfo(syncing=True, listed_files=3, listed_bytes=2048)
    assert not answers.is_mounted(item, info)
    assert "3 files, 2.00KiB so far" in answers.listing(item, info)
    assert not answers.is_mounted(item, metadata_pb2.DatasetInfo())
    assert not answers.is_mounted(item, metadata_pb2.DatasetInfo(syncing=True, snapshot_version=1)), "new mounts"
    assert answers.is_mounted(item, metadata_pb2.DatasetInfo(snapshot_version=1))
    failed = metadata_pb2.DatasetInfo(error="bucket test does not exist", error_reason="BucketNotFound")
    assert "BucketNotFound: bucket test does not exist" in refusal(lambda: answers.is_mounted(item, failed))


def test_a_summary_says_what_is_known_and_nothing_else() -> None:
    assert json.loads(answers.summary(None, 5)) == {}
    info = metadata_pb2.DatasetInfo(syncing=True, files=7, bytes=70)
    assert json.loads(answers.summary(info, 3 << 30)) == {"cacheCapacity": "3.00GiB"}, "listed files are not all files"
    info = metadata_pb2.DatasetInfo(snapshot_version=1, files=400, bytes=8 << 30, cached_bytes=1 << 30)
    found = json.loads(answers.summary(info, 4 << 30))
    assert found == {
        "cacheCapacity": "4.00GiB",
        "cached": "1.00GiB",
        "cachedPercentage": "12.5",
        "fileNum": "400",
        "ufsTotal": "8.00GiB",
    }
    assert all(isinstance(value, str) for value in found.values()), "Fluid's structure has strings only"
    info.reads.CopyFrom(metadata_pb2.ReadCounters(local_bytes=500, peer_bytes=431, origin_bytes=69))
    assert json.loads(answers.summary(info, 4 << 30))["cacheHitRatio"] == "93.1"


MOUNTINFO = """\
22 1 8:1 / / rw - ext4 /dev/sda rw
30 22 8:1 /runtime-mnt/x /runtime-mnt/x rw shared:1 - ext4 /dev/sda rw
31 30 0:50 /default/demo /runtime-mnt/x rw shared:2 master:3 - fuse.headrace headrace rw
"""


def test_only_a_mount_of_ours_on_top_is_taken_away() -> None:
    assert plan.is_ours(MOUNTINFO, "/runtime-mnt/x")
    assert not plan.is_ours(MOUNTINFO, "/runtime-mnt")
    assert not plan.is_ours("\n".join(MOUNTINFO.splitlines()[:2]), "/runtime-mnt/x"), "Fluid's own volume stays"
    assert not plan.is_ours("", "/") and not plan.is_ours("nonsense", "/")
