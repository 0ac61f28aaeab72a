"""The cache controller's pure modules: what statuses say, when a load is complete, when NodeCache is written."""

import pytest

from api.data_v1alpha1 import Dataset
from api.dataload_v1alpha1 import DataLoad, DataLoadStatus
from api.gen import metadata_pb2, worker_pb2
from api.nodecache_v1alpha1 import DATASETS_ON_NODE_MAX, NodeCacheStatus
from cacheruntime.controller import dataload, dataset, nodecache
from cacheruntime.controller.listings import Listing
from fuse.csi.core.volumes import parse_volume

NOW = 1_800_000_000.0


def a_dataset(**spec: object) -> Dataset:
    mounts = [{"mountPoint": "s3://bucket/a", "name": "a"}]
    return Dataset.model_validate(
        {"metadata": {"name": "d", "namespace": "ns", "uid": "u1"}, "spec": {"mounts": mounts, **spec}}
    )


def a_load(**spec: object) -> DataLoad:
    return DataLoad.model_validate(
        {"metadata": {"name": "l", "namespace": "ns", "uid": "u2"}, "spec": {"dataset": {"name": "d"}, **spec}}
    )


def a_worker(node: str, *, epoch: int = 1, alive: bool = True) -> metadata_pb2.Worker:
    return metadata_pb2.Worker(node=node, epoch=epoch, alive=alive, control_endpoint=f"{node}:1")


def a_share(loaded: int, total: int, *, failed: int = 0) -> worker_pb2.LoadProgress:
    share = worker_pb2.LoadProgress(done=loaded == total or failed > 0, bytes_loaded=loaded, bytes_total=total)
    for index in range(failed):
        share.failed.add(path=f"f{index}", error="no")
    share.failed_count = failed
    return share


class TestDataset:
    def test_a_single_mount_without_a_path_shows_at_the_root_and_several_under_their_names(self) -> None:
        one = dataset.sync_request(a_dataset(), [])
        assert [mount.path for mount in one.mounts] == [""]
        mounts = [{"mountPoint": "s3://b/a", "name": "a"}, {"mountPoint": "s3://b/b", "name": "b", "path": "/x/"}]
        assert [mount.path for mount in dataset.sync_request(a_dataset(mounts=mounts), []).mounts] == ["a", "x"]

    def test_secret_options_name_files_and_never_values(self) -> None:
        option = {"name": "fs.s3.accessKeyId", "valueFrom": {"secretKeyRef": {"name": "s", "key": "id"}}}
        item = a_dataset(sharedEncryptOptions=[option])
        assert dict(dataset.sync_request(item, []).mounts[0].secret_options) == {"fs.s3.accessKeyId": "ns/s/id"}
        assert dataset.secret_keys(item) == {("s", "id")}

    @pytest.mark.parametrize(
        ("info", "phase", "ready", "reason"),
        [
            (metadata_pb2.DatasetInfo(syncing=True, listed_files=5), "NotBound", "False", "Listing"),
            (metadata_pb2.DatasetInfo(snapshot_version=1, files=5, bytes=10), "Bound", "True", "Listed"),
            (metadata_pb2.DatasetInfo(snapshot_version=1, syncing=True), "Updating", "True", "Listed"),
            (metadata_pb2.DatasetInfo(error="no", error_reason="BucketNotFound"), "Failed", "False", "BucketNotFound"),
            (
                metadata_pb2.DatasetInfo(snapshot_version=1, error="no", error_reason="AccessDenied"),
                "Bound",
                "True",
                "AccessDenied",
            ),
        ],
    )
    def test_phase_follows_what_metadata_says_now(
        self, info: metadata_pb2.DatasetInfo, phase: str, ready: str, reason: str
    ) -> None:
        item = a_dataset()
        item.status = dataset.failed_status(item, "X", "was failed", NOW)
        status = dataset.status(item, info, Listing(), 0, NOW)
        assert (status.phase, status.conditions[0].status, status.conditions[0].reason) == (phase, ready, reason)

    def test_sizes_by_directory_are_told_all_or_none(self) -> None:
        info = metadata_pb2.DatasetInfo(snapshot_version=1, files=5, bytes=10, groups={"train": 8, "test": 2})
        told = dataset.status(a_dataset(), info, Listing(), 0, NOW).snapshot
        assert told is not None
        assert told.groups == {"test": 2, "train": 8}
        info.groups["x" * 300] = 1
        told = dataset.status(a_dataset(), info, Listing(), 0, NOW).snapshot
        assert told is not None
        assert told.groups is None

    def test_an_affinity_that_matches_no_node_is_not_the_same_as_none(self) -> None:
        term = {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["nvme"]}]}
        picky = a_dataset(nodeAffinity={"required": {"nodeSelectorTerms": [term]}})
        nodes = {"n1": {"disk": "nvme"}, "n2": {}}
        assert dataset.eligible_nodes(picky, nodes) == ["n1"]
        assert dataset.eligible_nodes(picky, {"n2": {}}) is None
        assert dataset.eligible_nodes(a_dataset(), nodes) == []

    def test_the_claim_is_bound_to_its_own_volume_and_owned_by_the_dataset(self) -> None:
        pv, pvc = dataset.volumes(a_dataset())
        assert pvc["spec"]["volumeName"] == pv["metadata"]["name"] == "ns-d"
        assert pv["spec"]["claimRef"]["name"] == pvc["metadata"]["name"] == "d"
        assert pvc["metadata"]["ownerReferences"][0]["uid"] == "u1"

    def test_kubelet_mounts_a_dataset_for_writing_if_it_takes_writes_at_all(self) -> None:
        both = a_dataset(accessModes=["ReadOnlyMany", "ReadWriteMany"])
        assert [each["spec"]["accessModes"][0] for each in dataset.volumes(both)] == ["ReadWriteMany"] * 2
        assert dataset.volumes(a_dataset())[0]["spec"]["accessModes"] == ["ReadOnlyMany"]

    def test_the_csi_plugin_understands_the_volume(self) -> None:
        source = dataset.volumes(a_dataset())[0]["spec"]["csi"]
        volume = parse_volume(source["volumeHandle"], source["volumeAttributes"])
        assert (str(volume.dataset), volume.sub_path, volume.is_inline) == ("ns/d", "", False)


class TestDataLoad:
    INFO = metadata_pb2.DatasetInfo(uid="u1", snapshot_version=3, eligible_nodes=["n1", "n2"])

    def test_only_live_workers_that_may_keep_the_dataset_take_part(self) -> None:
        workers = [a_worker("n3"), a_worker("n2"), a_worker("n1", alive=False)]
        assert [worker.node for worker in dataload.participants(self.INFO, workers)] == ["n2"]

    def test_two_loads_of_one_target_are_one_and_another_worker_makes_another(self) -> None:
        members = [a_worker("n1"), a_worker("n2")]
        first, second = (dataload.requests(a_load(), self.INFO, members)[0] for _ in range(2))
        assert first.load_id == second.load_id
        restarted = dataload.requests(a_load(), self.INFO, [a_worker("n1", epoch=2), a_worker("n2")])[0]
        assert restarted.load_id != first.load_id

    def test_targets_run_by_priority_and_the_rate_is_split_over_the_workers(self) -> None:
        load = a_load(target=[{"path": "/b"}, {"path": "/a", "priority": 9}], rateLimit="100")
        requests = dataload.requests(load, self.INFO, [a_worker("n1"), a_worker("n2")])
        assert [list(request.paths) for request in requests] == [["a"], ["b"]]
        assert requests[0].rate_limit_bytes_per_second == 50

    def test_it_is_complete_only_when_every_share_is_done(self) -> None:
        load = a_load()
        assert dataload.status(load, [[a_share(5, 5), a_share(4, 5)]], 3, NOW).phase == "Executing"
        assert dataload.status(load, [[a_share(5, 5), a_share(5, 5)]], 3, NOW, waits_for_more=True).phase == "Executing"
        done = dataload.status(load, [[a_share(5, 5), a_share(5, 5)]], 3, NOW)
        assert (done.phase, done.progress.bytes_loaded, done.conditions[-1].type) == ("Complete", 10, "Complete")

    def test_a_file_that_failed_fails_the_load_and_is_named(self) -> None:
        status = dataload.status(a_load(), [[a_share(9, 10, failed=1)]], 3, NOW)
        assert status.phase == "Failed"
        assert "f0: no" in status.conditions[-1].message

    def test_min_percent_forgives_failures_up_to_it(self) -> None:
        assert dataload.status(a_load(minPercent=90), [[a_share(9, 10, failed=1)]], 3, NOW).phase == "Complete"
        assert dataload.status(a_load(minPercent=95), [[a_share(9, 10, failed=1)]], 3, NOW).phase == "Failed"

    def test_a_finished_load_goes_when_its_time_is_over(self) -> None:
        load = a_load(ttlSecondsAfterFinished=60)
        load.status = dataload.status(load, [[a_share(9, 10, failed=1)]], 3, NOW)
        assert dataload.expiry_seconds(load, NOW + 59) == 1
        assert dataload.expiry_seconds(load, NOW + 61) == 0
        assert dataload.expiry_seconds(a_load(), NOW) is None


class TestNodeCache:
    @staticmethod
    def status(bytes_: int, *, epoch: int = 1, snapshot: int = 1) -> NodeCacheStatus:
        on_node = metadata_pb2.DatasetOnNode(uid="u", name="d", namespace="n", snapshot_version=snapshot)
        on_node.resident_bytes["SSD"] = bytes_
        worker = metadata_pb2.Worker(node="n1", epoch=epoch, data_endpoint="h:1")
        return nodecache.status(metadata_pb2.NodeResidency(worker=worker, datasets=[on_node]))

    def test_small_changes_wait_long_large_ones_for_the_interval_and_none_is_lost(self) -> None:
        old = self.status(1000)
        assert nodecache.write_delay_seconds(old, self.status(1000), 0.0, 99.0) is None
        assert nodecache.write_delay_seconds(old, self.status(1001), 3.0, 10.0) == 3.0
        assert nodecache.write_delay_seconds(old, self.status(1001), 0.0, 10.0) == 0.0
        assert nodecache.write_delay_seconds(old, self.status(1100), 9.0, 10.0) == 1.0
        assert nodecache.write_delay_seconds(old, self.status(1100), 0.0, 10.0) == 0.0

    def test_lost_bytes_a_new_snapshot_a_restart_and_a_death_are_written_at_once(self) -> None:
        old = self.status(1000)
        for new in (self.status(999), self.status(1000, snapshot=2), self.status(1000, epoch=2), nodecache.gone()):
            assert nodecache.write_delay_seconds(old, new, 10.0, 10.0) == 0.0

    def test_of_more_datasets_than_an_object_holds_the_largest_are_told(self) -> None:
        many = [
            metadata_pb2.DatasetOnNode(uid=f"u{index}", name=f"d{index}", namespace="n", resident_bytes={"SSD": index})
            for index in range(DATASETS_ON_NODE_MAX + 5)
        ]
        told = nodecache.status(metadata_pb2.NodeResidency(worker=metadata_pb2.Worker(node="n1"), datasets=many))
        assert len(told.datasets) == DATASETS_ON_NODE_MAX
        assert min(one.resident_bytes.ssd for one in told.datasets) == 5
        assert [one.name for one in told.datasets] == sorted(one.name for one in told.datasets)


def test_a_status_has_the_measured_hit_ratio_beside_the_expected_one() -> None:
    info = metadata_pb2.DatasetInfo(snapshot_version=1, bytes=1000, cached_bytes=250)
    states = dataset.status(a_dataset(), info, Listing(), 0, NOW).cache_states
    assert states is not None and states.cache_hit_ratio is None and states.expected_hit_ratio == "25.0%"
    info.reads.CopyFrom(metadata_pb2.ReadCounters(local_bytes=200, peer_bytes=49, origin_bytes=751))
    states = dataset.status(a_dataset(), info, Listing(), 0, NOW).cache_states
    assert states is not None
    found = (states.cache_hit_ratio, states.local_hit_ratio, states.remote_hit_ratio, states.expected_hit_ratio)
    assert found == ("24.9%", "20.0%", "4.9%", "25.0%")


def test_terms_of_the_cache_reach_metadata_in_bytes_and_without_slashes() -> None:
    cache = {
        "priority": 3,
        "guaranteed": "1Gi",
        "maximum": "2Gi",
        "pinned": ["/val/", "/", "val"],
        "originRateLimit": "1Mi",
    }
    terms = dataset.sync_request(a_dataset(cache=cache), []).terms
    assert (terms.priority, terms.guaranteed_bytes, terms.maximum_bytes) == (3, 1 << 30, 2 << 30)
    assert list(terms.pinned) == ["", "val"] and terms.origin_bytes_per_second == 1 << 20


@pytest.mark.parametrize("text", ["[]", "train", "[1]", '{"a": 1}'])
def test_a_request_to_evict_that_makes_no_sense_is_refused(text: str) -> None:
    item = a_dataset()
    assert dataset.paths_to_evict(item) is None
    item.metadata.annotations["data.headrace.dev/evict"] = '["/train/", "/"]'
    assert dataset.paths_to_evict(item) == ["train", ""]
    item.metadata.annotations["data.headrace.dev/evict"] = text
    with pytest.raises(ValueError, match="must be a JSON list of paths"):
        dataset.paths_to_evict(item)


@pytest.mark.parametrize(("listed_at", "is_since"), [(59.5, False), (60.3, False), (60.9, False), (61.0, True)])
def test_a_listing_of_the_second_in_which_a_load_began_may_be_older_than_the_load(
    listed_at: float, is_since: bool
) -> None:
    load = a_load(loadMetadata=True)
    load.status = DataLoadStatus(started_at="1970-01-01T00:01:00Z")
    info = metadata_pb2.DatasetInfo(synced_at_ns=int(listed_at * 1e9))
    assert dataload.is_listed_since_start(load, info) is is_since


def test_a_worker_that_leaves_takes_no_part_in_loads_and_its_progress_is_written_at_once() -> None:
    info = metadata_pb2.DatasetInfo(uid="u")
    workers = [metadata_pb2.Worker(node="a", alive=True), metadata_pb2.Worker(node="b", alive=True, leaving=True)]
    assert [worker.node for worker in dataload.participants(info, workers)] == ["a"]
    residency = metadata_pb2.NodeResidency(worker=workers[1])
    before = nodecache.status(residency)
    after = nodecache.status(residency, worker_pb2.LeaveProgress(leaving=True, done=True, moved_bytes=7))
    assert after.leaving is not None and (after.leaving.done, after.leaving.moved_bytes) == (True, 7)
    assert nodecache.write_delay_seconds(before, after, 0.0, 0.1) == 0.0
    assert nodecache.write_delay_seconds(after, before, 0.0, 0.1) == 0.0
