"""Storage objects as last seen: claims, volumes, classes, drivers, their room, their limits, what is attached.

Owns the objects and the questions about one of them. Does not know pods (core/pod_claims.py), nor who uses what
(core/volume_use.py). One writer. Invariant: `version` rises with every change.
"""

from collections import Counter
from collections.abc import Iterator, Set
from decimal import Decimal

from api import quantities
from kube.storage_objects import (
    WAIT_FOR_FIRST_CONSUMER,
    CSIDriver,
    CSINode,
    CSIStorageCapacity,
    PersistentVolume,
    PersistentVolumeClaim,
    StorageClass,
    VolumeAttachment,
)
from scheduler.core.csi_migration import NEVER_COUNTED, PLUGINS, Untranslatable, plugin_of, volume_handle
from scheduler.core.pod_volumes import Attachable, ClaimKey

StorageObject = (
    PersistentVolumeClaim
    | PersistentVolume
    | StorageClass
    | CSIDriver
    | CSIStorageCapacity
    | VolumeAttachment
    | CSINode
)
# The volume controller sets it last: until then a claim that names its volume is not bound.
BOUND_ANNOTATION = "pv.kubernetes.io/bind-completed"
SELECTED_NODE_ANNOTATION = "volume.kubernetes.io/selected-node"
MIGRATED_ANNOTATION = "storage.alpha.kubernetes.io/migrated-plugins"


class VolumeTable:
    """See the module's docstring."""

    def __init__(self, *, reads_fluid: bool = False) -> None:
        """`reads_fluid`: volumes of Fluid's driver are datasets too."""
        self.reads_fluid = reads_fluid
        self.claims: dict[ClaimKey, PersistentVolumeClaim] = {}
        self.volumes: dict[str, PersistentVolume] = {}
        self.classes: dict[str, StorageClass] = {}
        self.drivers: dict[str, CSIDriver] = {}
        self.limits: dict[str, dict[str, int]] = {}  # node -> CSI driver -> volumes; only where there is a limit
        self.version = 0
        self._limited: Counter[str] = Counter()  # by CSI driver, nodes that limit it
        self._capacities: dict[ClaimKey, CSIStorageCapacity] = {}
        self._of_class: dict[str, dict[str, PersistentVolume]] = {}
        self._csi_nodes: set[str] = set()
        self._migrated: dict[str, set[str]] = {}  # in-tree plugin -> nodes
        self._attachments: dict[str, VolumeAttachment] = {}
        self._attached_to: dict[str, set[str]] = {}  # node -> names of attachments
        self._attachable: dict[ClaimKey, Attachable | None] = {}  # answers that hold for this version

    # ---- what the watches show --------------------------------------------------------------

    def put(self, item: StorageObject) -> None:
        """Add or update an object."""
        meta = item.metadata
        self._changed()
        match item:
            case PersistentVolumeClaim():
                self.claims[(meta.namespace, meta.name)] = item
            case PersistentVolume():
                self._drop_volume(meta.name)
                self.volumes[meta.name] = item
                self._of_class.setdefault(item.class_name, {})[meta.name] = item
            case StorageClass():
                self.classes[meta.name] = item
            case CSIDriver():
                self.drivers[meta.name] = item
            case CSIStorageCapacity():
                self._capacities[(meta.namespace, meta.name)] = item
            case VolumeAttachment():
                self._drop_attachment(meta.name)
                self._attachments[meta.name] = item
                self._attached_to.setdefault(item.spec.node_name, set()).add(meta.name)
            case CSINode():
                self._put_node(item)

    def remove(self, kind: type[StorageObject], namespace: str, name: str) -> None:
        """Forget an object; one never seen is none."""
        self._changed()
        if kind is PersistentVolumeClaim:
            self.claims.pop((namespace, name), None)
        elif kind is PersistentVolume:
            self._drop_volume(name)
        elif kind is StorageClass:
            self.classes.pop(name, None)
        elif kind is CSIDriver:
            self.drivers.pop(name, None)
        elif kind is CSIStorageCapacity:
            self._capacities.pop((namespace, name), None)
        elif kind is VolumeAttachment:
            self._drop_attachment(name)
        else:
            self._drop_node(name)

    def _changed(self) -> None:
        self.version += 1
        self._attachable.clear()

    def _drop_volume(self, name: str) -> None:
        old = self.volumes.pop(name, None)
        if old is not None:
            del self._of_class[old.class_name][name]

    def _drop_attachment(self, name: str) -> None:
        old = self._attachments.pop(name, None)
        if old is not None:
            self._attached_to[old.spec.node_name].discard(name)

    def _drop_node(self, name: str) -> None:
        self._limited.subtract(self.limits.pop(name, {}).keys())
        self._csi_nodes.discard(name)
        for nodes in self._migrated.values():
            nodes.discard(name)

    def _put_node(self, node: CSINode) -> None:
        name = node.metadata.name
        limits = {
            driver.name: driver.allocatable.count
            for driver in node.spec.drivers
            if driver.allocatable is not None and driver.allocatable.count is not None
        }
        plugins = node.metadata.annotations.get(MIGRATED_ANNOTATION, "").split(",")
        self._drop_node(name)
        self._csi_nodes.add(name)
        if limits:
            self.limits[name] = limits
            self._limited.update(limits.keys())
        for plugin in PLUGINS.keys() & plugins:
            self._migrated.setdefault(plugin, set()).add(name)

    # ---- questions --------------------------------------------------------------------------

    def is_bound(self, claim: PersistentVolumeClaim) -> bool:
        """Whether the claim has its volume for good."""
        return bool(claim.spec.volume_name) and BOUND_ANNOTATION in claim.metadata.annotations

    def waits_for_node(self, claim: PersistentVolumeClaim) -> bool:
        """Whether an unbound claim is bound only once a node is chosen. One that names its volume never is, nor one
        whose class does not exist (component-helpers IsDelayBindingMode)."""
        found = self.classes.get(claim.class_name)
        return found is not None and not claim.spec.volume_name and found.volume_binding_mode == WAIT_FOR_FIRST_CONSUMER

    def of_class(self, name: str) -> list[PersistentVolume]:
        """Volumes of a class, the smallest first, of equal ones by name (upstream: in no order)."""
        volumes = self._of_class.get(name, {}).values()
        return sorted(volumes, key=lambda volume: (size_of(volume.spec.capacity), volume.metadata.name))

    def capacities(self, class_name: str) -> Iterator[CSIStorageCapacity]:
        """Room that drivers published for new volumes of a class."""
        return (item for item in self._capacities.values() if item.storage_class_name == class_name)

    def nodes_that_migrated(self, plugin: str) -> Set[str]:
        """Nodes where an in-tree plugin's volumes are used by its CSI driver (isPluginMigratedToCSIOnNode)."""
        return self._migrated.get(plugin, frozenset())

    @property
    def has_csi_nodes(self) -> bool:
        """Whether any node has CSI drivers: it counts volumes of in-tree plugins as theirs (isCSIMigrationOn)."""
        return bool(self._csi_nodes)

    def is_limited(self, volume: Attachable) -> bool:
        """Whether any node limits volumes of this driver."""
        return self._limited[volume.driver] > 0

    def attachable(self, key: ClaimKey) -> Attachable | None:
        """The volume of a claim, or the one that will be made for it, as attach limits count it; None: not counted
        (getCSIDriverInfo in nodevolumelimits/csi.go)."""
        if key not in self._attachable:
            self._attachable[key] = self._find_attachable(key)
        return self._attachable[key]

    def _find_attachable(self, key: ClaimKey) -> Attachable | None:
        claim = self.claims.get(key)
        if claim is None:
            return None
        volume = self.volumes.get(claim.spec.volume_name)
        if volume is None:
            found = self.classes.get(claim.class_name)
            if found is None or found.provisioner in NEVER_COUNTED:
                return None
            plugin = PLUGINS.get(found.provisioner)
            return Attachable(plugin.driver if plugin else found.provisioner, f"unbound {key[0]}/{key[1]}")
        if volume.spec.csi is not None:
            csi = volume.spec.csi
            return Attachable(csi.driver, csi.volume_handle) if csi.driver and csi.volume_handle else None
        plugin = plugin_of(volume.spec)
        try:
            return None if plugin is None else Attachable(plugin.driver, volume_handle(plugin, volume))
        except Untranslatable:
            return None  # VolumeBinding says it, where it matters

    def attached_to(self, node: str) -> Iterator[Attachable]:
        """Volumes that VolumeAttachments say are attached to a node."""
        for name in self._attached_to.get(node, ()):
            spec = self._attachments[name].spec
            volume = self.volumes.get(spec.source.persistent_volume_name or "")
            if spec.attacher and volume is not None and volume.spec.csi is not None:
                yield Attachable(spec.attacher, volume.spec.csi.volume_handle)


def size_of(amounts: dict[str, str | int] | dict[str, str]) -> Decimal:
    """Bytes of storage among amounts; 0 when they name none or cannot be read."""
    try:
        return quantities.parse(amounts.get("storage", "0"))
    except ValueError:
        return Decimal(0)
