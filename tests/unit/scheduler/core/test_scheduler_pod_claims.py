"""Claims of a pod looked up: datasets, affinity, zones, or why no node can be chosen now."""

import msgspec
import pytest

from api import names
from kube.identity import ObjectMeta, OwnerReference
from kube.objects import PersistentVolumeClaimSource, Volume
from kube.storage_objects import (
    CSINode,
    CSIPersistentVolumeSource,
    PersistentVolume,
    PersistentVolumeClaim,
    PersistentVolumeClaimSpec,
    PersistentVolumeSpec,
    StorageClass,
)
from scheduler.core.data_request import DataRequest
from scheduler.core.pod_claims import UNBOUND, FoundClaims, find_claims
from scheduler.core.pod_request import ShapeCache, pod_request
from scheduler.core.pod_volumes import Attachable
from scheduler.core.volume_table import BOUND_ANNOTATION, MIGRATED_ANNOTATION, StorageObject, VolumeTable
from tests.builders.scheduler_objects import a_pod


def _claim(name: str, volume: str = "", storage_class: str = "standard", **more: object) -> PersistentVolumeClaim:
    spec = PersistentVolumeClaimSpec(volume_name=volume, storage_class_name=storage_class, **more)  # type: ignore[arg-type]
    annotations = {BOUND_ANNOTATION: "yes"} if volume else {}
    return PersistentVolumeClaim(
        metadata=ObjectMeta(name=name, namespace="default", annotations=annotations), spec=spec
    )


def _volume(**spec: object) -> PersistentVolume:
    return PersistentVolume(metadata=ObjectMeta(name="pv"), spec=PersistentVolumeSpec(**spec))  # type: ignore[arg-type]


def _class(name: str, mode: str = "WaitForFirstConsumer", provisioner: str = "csi.example.com") -> StorageClass:
    return StorageClass(metadata=ObjectMeta(name=name), provisioner=provisioner, volume_binding_mode=mode)


def _csi_node(name: str, spec: dict[str, object], migrated: str = "") -> CSINode:
    metadata = {"name": name, "annotations": {MIGRATED_ANNOTATION: migrated}}
    return msgspec.convert({"metadata": metadata, "spec": spec}, CSINode)


def _table(*objects: StorageObject, reads_fluid: bool = False) -> VolumeTable:
    table = VolumeTable(reads_fluid=reads_fluid)
    for item in objects:
        table.put(item)
    return table


def _found(*objects: StorageObject, volume: Volume | None = None, reads_fluid: bool = False) -> FoundClaims:
    source = PersistentVolumeClaimSource(claim_name="c")
    pod = a_pod("p").with_spec(volumes=[volume or Volume(name="v", persistent_volume_claim=source)]).build()
    return find_claims(_table(*objects, reads_fluid=reads_fluid), pod_request(pod, ShapeCache()))


def test_a_claim_of_our_class_is_the_dataset_of_its_name() -> None:
    assert _found(_claim("c", "pv", names.STORAGE_CLASS), _volume()).data == (DataRequest("default", "c"),)


def test_a_claim_on_our_driver_is_the_dataset_the_volume_names() -> None:
    csi = CSIPersistentVolumeSource(driver=names.CSI_DRIVER, volume_attributes={"dataset": "d", "namespace": "o"})
    assert _found(_claim("c", "pv"), _volume(csi=csi)).data == (DataRequest("o", "d"),)


def test_a_missing_claim_is_said_in_kube_schedulers_words() -> None:
    assert _found().refusal == 'persistentvolumeclaim "c" not found'


def test_an_ephemeral_claim_is_waited_for_and_must_be_the_pods() -> None:
    volume = Volume(name="v", ephemeral={})
    assert "waiting for ephemeral volume controller" in (_found(volume=volume).refusal or "")
    claim = _claim("p-v", "pv")
    assert "(pod is not owner)" in (_found(claim, _volume(), volume=volume).refusal or "")
    owner = OwnerReference(kind="Pod", name="p", uid=a_pod("p").build().metadata.uid, controller=True)
    meta = ObjectMeta(name="p-v", namespace="default", annotations=claim.metadata.annotations, owner_references=[owner])
    owned = PersistentVolumeClaim(metadata=meta, spec=claim.spec)
    assert _found(owned, _volume(), volume=volume).refusal is None
    assert _found(owned, volume=volume).volumes.is_lost  # of an ephemeral claim the nodes say it


@pytest.mark.parametrize(
    ("attributes", "key"),
    [
        ({"fluid_path": "/runtime-mnt/jindo/default/c/jindofs-fuse"}, ("default", "c")),
        # A reference to a dataset of another namespace: the bytes are that one's.
        ({"runtime_namespace": "shared", "runtime_name": "imagenet"}, ("shared", "imagenet")),
    ],
)
def test_a_volume_of_fluids_is_its_dataset_where_fluid_is_read(
    attributes: dict[str, str], key: tuple[str, str]
) -> None:
    volume = _volume(csi=CSIPersistentVolumeSource("fuse.csi.fluid.io", "default-c", volume_attributes=attributes))
    objects = (_claim("c", "pv", "fluid"), volume)
    assert _found(*objects, reads_fluid=True).data == (DataRequest(*key),)
    assert _found(*objects).data == ()


@pytest.mark.parametrize(
    "storage_class", [None, _class("standard", "Immediate"), _class("another"), _class("standard", "")]
)
def test_an_unbound_claim_waits_unless_its_class_leaves_the_node_to_the_scheduler(
    storage_class: StorageClass | None,
) -> None:
    objects: list[StorageObject] = [_claim("c")] if storage_class is None else [_claim("c"), storage_class]
    assert _found(*objects).refusal == UNBOUND


def test_an_unbound_claim_of_a_waiting_class_goes_on_to_the_nodes() -> None:
    found = _found(_claim("c"), _class("standard"))
    assert found.refusal is None
    assert found.volumes.unbound == (("default", "c"),)
    assert _found(_claim("c", storage_class=names.STORAGE_CLASS)).refusal == UNBOUND


def test_read_write_once_pod_is_exclusive() -> None:
    found = _found(_claim("c", "pv", access_modes=["ReadWriteOncePod"]), _volume())
    assert found.volumes.exclusive == (("default", "c"),)


def test_only_drivers_with_a_limit_somewhere_are_counted() -> None:
    claim = _claim("c", "pv")
    volume = _volume(csi=CSIPersistentVolumeSource(driver="ebs.csi.aws.com", volume_handle="h"))
    assert _found(claim, volume).volumes.attached == ()
    node = _csi_node("n1", {"drivers": [{"name": "ebs.csi.aws.com", "allocatable": {"count": 3}}]})
    assert _found(claim, volume, node).volumes.attached == (Attachable("ebs.csi.aws.com", "h"),)
    table = _table(claim, volume, node)
    table.remove(CSINode, "", "n1")
    assert not table.is_limited(Attachable("ebs.csi.aws.com", "h"))


def test_an_in_tree_volume_has_another_affinity_where_its_plugin_is_migrated() -> None:
    labels = {"topology.kubernetes.io/zone": "z"}
    spec = PersistentVolumeSpec(aws_elastic_block_store={"volumeID": "vol-1"})
    claim, volume = _claim("c", "pv"), PersistentVolume(metadata=ObjectMeta(name="pv", labels=labels), spec=spec)
    assert _found(claim, volume).volumes.migrated == ()
    assert _found(claim, volume, _csi_node("n1", {}, "kubernetes.io/cinder")).volumes.migrated == ()
    found = _found(claim, volume, _csi_node("n1", {}, "kubernetes.io/cinder,kubernetes.io/aws-ebs"))
    (migrated,) = found.volumes.migrated
    assert (migrated.plugin, migrated.elsewhere) == ("kubernetes.io/aws-ebs", None)
    assert migrated.there is not None
    assert migrated.there[0].labels[0].key == "topology.ebs.csi.aws.com/zone"
    assert found.volumes.version > 0  # which nodes migrated is not in there


def test_a_volume_its_driver_has_no_name_for_is_refused_where_a_driver_would_use_it() -> None:
    claim, volume = _claim("c", "pv"), _volume(aws_elastic_block_store={"volumeID": "aws://z/disk"})
    assert _found(claim, volume, _csi_node("n1", {})).refusal is None
    node = _csi_node("n1", {}, "kubernetes.io/aws-ebs")
    assert _found(claim, volume, node).refusal == (
        'persistentvolume "pv": could not translate pv: Invalid format for AWS volume (disk)'
    )
    inline = Volume(name="v", azure_disk={"diskURI": "d", "kind": "Shared"})
    assert _found(volume=inline).refusal is None
    assert _found(_csi_node("n1", {}), volume=inline).refusal == (
        "converting volume(v) from inline to csi: kind(Shared) is not supported in csi migration"
    )


def test_a_volumes_zones_come_along() -> None:
    labels = {"topology.kubernetes.io/zone": "a__b", "topology.kubernetes.io/region": "r__"}
    volume = PersistentVolume(metadata=ObjectMeta(name="pv", labels=labels))
    assert _found(_claim("c", "pv"), volume).volumes.zones == (("topology.kubernetes.io/zone", frozenset({"a", "b"})),)


@pytest.mark.parametrize(
    ("claim", "says"),
    [
        (_claim("c", "gone"), 'persistentvolume "gone" not found'),
        (
            PersistentVolumeClaim(
                metadata=ObjectMeta(name="c", namespace="default"), spec=PersistentVolumeClaimSpec(volume_name="pv")
            ),
            UNBOUND,
        ),
    ],
)
def test_a_claim_is_bound_when_its_volume_is_there_and_the_controller_said_so(
    claim: PersistentVolumeClaim, says: str
) -> None:
    assert _found(claim, _volume()).refusal == says


def test_a_bound_volumes_affinity_comes_along() -> None:
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}
    affinity = {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}
    found = _found(_claim("c", "pv"), _volume(node_affinity=affinity))
    assert len(found.volumes.terms) == 1
    assert found.refusal is None
