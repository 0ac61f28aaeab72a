"""Pods with volumes of in-tree plugins, on nodes that migrated them and on nodes that did not."""

import asyncio

from kube.identity import ObjectMeta
from kube.objects import PersistentVolumeClaimSource, Volume
from kube.storage_objects import (
    CSINode,
    CSINodeAllocatable,
    CSINodeDriver,
    CSINodeSpec,
    PersistentVolume,
    PersistentVolumeClaim,
    PersistentVolumeClaimSpec,
    PersistentVolumeSpec,
    PhaseStatus,
    StorageClass,
)
from scheduler.core.decisions import Bind
from scheduler.core.events import BindFailed, Event, PodGone, StorageChanged
from scheduler.core.volume_table import BOUND_ANNOTATION, MIGRATED_ANNOTATION
from scheduler.shell.volume_binder import VolumeBinder
from tests.builders.scheduler_objects import World, a_node, a_pod

EBS, DRIVER = "kubernetes.io/aws-ebs", "ebs.csi.aws.com"
ZONE, DRIVERS_ZONE = "topology.kubernetes.io/zone", "topology.ebs.csi.aws.com/zone"
VOLUME = Volume(name="v", persistent_volume_claim=PersistentVolumeClaimSource(claim_name="c"))


def _csi_node(name: str, *migrated: str, limit: int | None = None) -> StorageChanged:
    driver = CSINodeDriver(name=DRIVER, allocatable=CSINodeAllocatable(count=limit))
    metadata = ObjectMeta(name=name, annotations={MIGRATED_ANNOTATION: ",".join(migrated)})
    return StorageChanged(CSINode(metadata=metadata, spec=CSINodeSpec(drivers=[driver])))


def _claim(volume: str = "pv") -> StorageChanged:
    metadata = ObjectMeta(name="c", namespace="default", uid="c", annotations={BOUND_ANNOTATION: "yes"})
    spec = PersistentVolumeClaimSpec(volume_name=volume, storage_class_name="disks")
    return StorageChanged(PersistentVolumeClaim(metadata=metadata, spec=spec))


def _volume(zone: str = "z1", phase: str = "Bound") -> StorageChanged:
    term = {"matchExpressions": [{"key": ZONE, "operator": "In", "values": [zone]}]}
    spec = PersistentVolumeSpec(
        capacity={"storage": "1Gi"},
        storage_class_name="disks",
        aws_elastic_block_store={"volumeID": "aws://z1/vol-1"},
        node_affinity={"required": {"nodeSelectorTerms": [term]}},
    )
    return StorageChanged(PersistentVolume(metadata=ObjectMeta(name="pv"), spec=spec, status=PhaseStatus(phase=phase)))


def test_a_node_that_migrated_is_asked_by_its_drivers_zone_and_another_by_the_common_one() -> None:
    world = World()
    world.nodes(a_node("migrated", labels={DRIVERS_ZONE: "z1"}), a_node("not", labels={DRIVERS_ZONE: "z1"}))
    world.feed(_claim(), _volume(), _csi_node("migrated", EBS), _csi_node("not"))
    world.pods(a_pod("p").with_volumes(VOLUME))
    assert world.binds() == {"p": "migrated"}


def test_a_node_whose_plugin_becomes_migrated_is_looked_at_again() -> None:
    world = World()
    world.nodes(a_node("a", labels={DRIVERS_ZONE: "z1"}))
    world.feed(_claim(), _volume(), _csi_node("a"))
    world.pods(a_pod("p").with_volumes(VOLUME))
    assert "node(s) didn't match PersistentVolume's node affinity" in world.message()
    world.feed(_csi_node("a", EBS))
    world.tick(60.0)
    assert world.binds() == {"p": "a"}


def test_an_in_tree_disk_and_the_drivers_own_name_for_it_are_one_volume_to_the_limit() -> None:
    world = World()
    world.nodes(a_node("a", labels={ZONE: "z1"}))
    world.feed(_claim(), _volume(), _csi_node("a", limit=1))
    inline = Volume(name="v", aws_elastic_block_store={"volumeID": "vol-1"})
    world.pods(a_pod("holder").with_volumes(inline).on("a"), a_pod("p").with_volumes(VOLUME))
    assert world.binds() == {"p": "a"}
    world.feed(PodGone("uid-p"))
    another = Volume(name="v", aws_elastic_block_store={"volumeID": "vol-2"})
    world.pods(a_pod("q").with_volumes(another))
    assert "node(s) exceed max volume count" in world.message()


def _waiting(node_labels: dict[str, str]) -> Bind:
    """The bind of a pod whose claim finds an in-tree volume on a node that migrated the plugin."""
    world = World()
    world.nodes(a_node("a", labels=node_labels))
    storage_class = StorageClass(
        metadata=ObjectMeta(name="disks"), provisioner=EBS, volume_binding_mode="WaitForFirstConsumer"
    )
    metadata = ObjectMeta(name="c", namespace="default", uid="c")
    claim = PersistentVolumeClaim(metadata=metadata, spec=PersistentVolumeClaimSpec(storage_class_name="disks"))
    world.feed(StorageChanged(storage_class), StorageChanged(claim), _volume(phase="Available"), _csi_node("a", EBS))
    world.pods(a_pod("p").with_volumes(VOLUME))
    (bind,) = (made for made in world.decide() if isinstance(made, Bind))
    return bind


def test_a_volume_found_by_its_own_affinity_may_conflict_with_its_drivers() -> None:
    """kube-scheduler, too, chooses the node by the one, and looks at the other when it binds."""
    plan = _waiting({ZONE: "z1", DRIVERS_ZONE: "z1"}).volumes
    assert plan is not None
    assert (plan.bindings, plan.conflict) == ((("pv", ("default", "c")),), None)
    plan = _waiting({ZONE: "z1"}).volumes
    assert plan is not None
    assert plan.conflict is not None
    assert plan.conflict.startswith('pv "pv" node affinity doesn\'t match node "a"')


async def test_a_conflict_fails_the_bind_before_anything_is_written() -> None:
    bind = _waiting({ZONE: "z1"})
    assert bind.volumes is not None
    submitted: list[Bind] = []
    reported: asyncio.Queue[Event] = asyncio.Queue()

    class NoClient:
        def __getattr__(self, name: str) -> object:
            raise AssertionError(f"the API server was asked: {name}")

    binder = VolumeBinder(
        NoClient(),  # type: ignore[arg-type]
        submit=submitted.append,
        may_bind=lambda uid: True,
        report=lambda made, event: reported.put_nowait(event),
        bind_seconds=5.0,
    )
    binder.submit(bind, bind.volumes)
    event = await asyncio.wait_for(reported.get(), 10.0)
    await binder.stop()
    assert isinstance(event, BindFailed)
    assert "topology.ebs.csi.aws.com/zone decides there" in event.cause
    assert submitted == []
