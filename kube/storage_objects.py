"""Typed views of storage objects: claims, volumes, classes, and what CSI drivers say of themselves and of nodes.

Owns msgspec structs of the fields that placement reads. The rules of kube/objects.py hold here too; selectors and
node affinity stay plain dicts, quantities strings.
"""

# ruff: noqa: RUF012  (msgspec copies an empty default for each struct)
import msgspec

from kube.identity import JsonObject, Object, ObjectMeta
from kube.objects import ResourceRequirements

CLASS_ANNOTATION = "volume.beta.kubernetes.io/storage-class"
WAIT_FOR_FIRST_CONSUMER = "WaitForFirstConsumer"


class PhaseStatus(Object, frozen=True):
    """A status of which only the phase is read."""

    phase: str = ""


class PersistentVolumeClaimSpec(Object, frozen=True):
    """What the claim asks for and the volume it got ("" until bound)."""

    access_modes: list[str] = []
    storage_class_name: str | None = None
    volume_name: str = ""
    volume_mode: str = "Filesystem"
    volume_attributes_class_name: str | None = None
    selector: JsonObject | None = None
    resources: ResourceRequirements = msgspec.field(default_factory=ResourceRequirements)


class PersistentVolumeClaim(Object, frozen=True):
    """A claim on a volume."""

    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: PersistentVolumeClaimSpec = msgspec.field(default_factory=PersistentVolumeClaimSpec)
    status: PhaseStatus = msgspec.field(default_factory=PhaseStatus)

    @property
    def class_name(self) -> str:
        """The class asked for; the old annotation goes first (component-helpers GetPersistentVolumeClaimClass)."""
        return self.metadata.annotations.get(CLASS_ANNOTATION, self.spec.storage_class_name or "")


class ClaimReference(Object, frozen=True):
    """The claim a volume is bound to."""

    namespace: str = ""
    name: str = ""
    uid: str = ""


class CSIPersistentVolumeSource(Object, frozen=True):
    """A volume served by a CSI driver."""

    driver: str = ""
    volume_handle: str = ""
    volume_attributes: dict[str, str] = {}


class PersistentVolumeSpec(Object, frozen=True):
    """Where a volume can be used and by whom it is taken."""

    access_modes: list[str] = []
    capacity: dict[str, str] = {}
    storage_class_name: str = ""
    claim_ref: ClaimReference | None = None
    node_affinity: JsonObject | None = None
    volume_mode: str = "Filesystem"
    volume_attributes_class_name: str | None = None
    csi: CSIPersistentVolumeSource | None = None
    aws_elastic_block_store: JsonObject | None = None
    azure_disk: JsonObject | None = None
    cinder: JsonObject | None = None
    gce_persistent_disk: JsonObject | None = None
    portworx_volume: JsonObject | None = None


class PersistentVolume(Object, frozen=True):
    """A volume."""

    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: PersistentVolumeSpec = msgspec.field(default_factory=PersistentVolumeSpec)
    status: PhaseStatus = msgspec.field(default_factory=PhaseStatus)

    @property
    def class_name(self) -> str:
        """The class it belongs to; the old annotation goes first (component-helpers GetPersistentVolumeClass)."""
        return self.metadata.annotations.get(CLASS_ANNOTATION, self.spec.storage_class_name)


class StorageClass(Object, frozen=True):
    """Who makes volumes of a class, when, and where they can be used."""

    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    provisioner: str = ""
    volume_binding_mode: str | None = None
    allowed_topologies: list[JsonObject] = []


class CSIDriverSpec(Object, frozen=True):
    """Whether the driver publishes how much room it has."""

    storage_capacity: bool = False


class CSIDriver(Object, frozen=True):
    """A driver as installed in the cluster."""

    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: CSIDriverSpec = msgspec.field(default_factory=CSIDriverSpec)


class CSIStorageCapacity(Object, frozen=True):
    """Room for new volumes of a class on the nodes `node_topology` selects; None selects none."""

    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    storage_class_name: str = ""
    capacity: str | None = None
    maximum_volume_size: str | None = None
    node_topology: JsonObject | None = None


class AttachmentSource(Object, frozen=True):
    """What is attached."""

    persistent_volume_name: str | None = None


class VolumeAttachmentSpec(Object, frozen=True):
    """Which volume is attached where, and by which driver."""

    attacher: str = ""
    node_name: str = ""
    source: AttachmentSource = msgspec.field(default_factory=AttachmentSource)


class VolumeAttachment(Object, frozen=True):
    """A volume attached to a node, or on its way."""

    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: VolumeAttachmentSpec = msgspec.field(default_factory=VolumeAttachmentSpec)


class CSINodeAllocatable(Object, frozen=True):
    """How many volumes of a driver fit on a node; None: no limit is known."""

    count: int | None = None


class CSINodeDriver(Object, frozen=True):
    """A driver on a node."""

    name: str = ""
    allocatable: CSINodeAllocatable | None = None


class CSINodeSpec(Object, frozen=True):
    """A node's drivers."""

    drivers: list[CSINodeDriver] = []


class CSINode(Object, frozen=True):
    """What CSI drivers say of a node."""

    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: CSINodeSpec = msgspec.field(default_factory=CSINodeSpec)
