"""The kinds Headrace speaks of, and where each lives in the API's URL space.

Owns the table of resources and the spelling of paths. Does not know what the objects
contain (kube/objects.py, api/). Invariant: a path is never built from a segment that
could change its meaning (`/`, `%`, `.`, `..`).
"""

from dataclasses import dataclass
from urllib.parse import quote

from api import names
from kube.errors import BadName

CORE_GROUP = ""


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object: its group, version, plural, kind and whether it lives in a namespace."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool

    @property
    def api_version(self) -> str:
        """The `apiVersion` its objects carry."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL path of the collection, or of one object, or of its subresource.

        A namespaced kind without `namespace` means all namespaces, which only a collection can have.
        Raises BadName for a name that cannot be a path segment.
        """
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        if self.namespaced and namespace is not None:
            root = f"{root}/namespaces/{_segment(namespace, 'namespace')}"
        if self.namespaced and namespace is None and name is not None:
            raise ValueError(f"{self.kind} {name!r} needs a namespace: {self.plural} are namespaced")
        if not self.namespaced and namespace is not None:
            raise ValueError(f"{self.kind} is cluster-scoped: leave namespace {namespace!r} out")
        if subresource is not None and name is None:
            raise ValueError(f"subresource {subresource!r} of {self.plural} needs an object name")
        path = f"{root}/{self.plural}"
        if name is not None:
            path = f"{path}/{_segment(name, 'name')}"
        if subresource is not None:
            path = f"{path}/{_segment(subresource, 'subresource')}"
        return path


def _segment(value: str, field: str) -> str:
    if value in {"", ".", ".."} or "/" in value or "%" in value:
        raise BadName(f"{field} {value!r} cannot be part of a path: use a Kubernetes name without / or %")
    return quote(value, safe=":")


CSI_NODES = Resource("storage.k8s.io", "v1", "csinodes", "CSINode", namespaced=False)
CSI_STORAGE_CAPACITIES = Resource("storage.k8s.io", "v1", "csistoragecapacities", "CSIStorageCapacity", namespaced=True)
VOLUME_ATTACHMENTS = Resource("storage.k8s.io", "v1", "volumeattachments", "VolumeAttachment", namespaced=False)
DEVICE_CLASSES = Resource("resource.k8s.io", "v1", "deviceclasses", "DeviceClass", namespaced=False)
PODS = Resource(CORE_GROUP, "v1", "pods", "Pod", namespaced=True)
NODES = Resource(CORE_GROUP, "v1", "nodes", "Node", namespaced=False)
SERVICES = Resource(CORE_GROUP, "v1", "services", "Service", namespaced=True)
SECRETS = Resource(CORE_GROUP, "v1", "secrets", "Secret", namespaced=True)
CONFIG_MAPS = Resource(CORE_GROUP, "v1", "configmaps", "ConfigMap", namespaced=True)
NAMESPACES = Resource(CORE_GROUP, "v1", "namespaces", "Namespace", namespaced=False)
PERSISTENT_VOLUMES = Resource(CORE_GROUP, "v1", "persistentvolumes", "PersistentVolume", namespaced=False)
PERSISTENT_VOLUME_CLAIMS = Resource(
    CORE_GROUP, "v1", "persistentvolumeclaims", "PersistentVolumeClaim", namespaced=True
)
REPLICATION_CONTROLLERS = Resource(CORE_GROUP, "v1", "replicationcontrollers", "ReplicationController", namespaced=True)
REPLICA_SETS = Resource("apps", "v1", "replicasets", "ReplicaSet", namespaced=True)
DAEMON_SETS = Resource("apps", "v1", "daemonsets", "DaemonSet", namespaced=True)
STATEFUL_SETS = Resource("apps", "v1", "statefulsets", "StatefulSet", namespaced=True)
SERVICE_ACCOUNTS = Resource(CORE_GROUP, "v1", "serviceaccounts", "ServiceAccount", namespaced=True)
EVENTS = Resource("events.k8s.io", "v1", "events", "Event", namespaced=True)
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease", namespaced=True)
POD_DISRUPTION_BUDGETS = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", namespaced=True)
PRIORITY_CLASSES = Resource("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False)
STORAGE_CLASSES = Resource("storage.k8s.io", "v1", "storageclasses", "StorageClass", namespaced=False)
CSI_DRIVERS = Resource("storage.k8s.io", "v1", "csidrivers", "CSIDriver", namespaced=False)
CRDS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)
POD_GROUPS = Resource(names.SCHEDULING_GROUP, "v1alpha1", "podgroups", "PodGroup", namespaced=True)
VOLCANO_POD_GROUPS = Resource(names.VOLCANO_GROUP, "v1beta1", "podgroups", "PodGroup", namespaced=True)
# Kubernetes' own, the newest first: 1.37 serves v1beta1 and v1alpha3, 1.36 v1alpha2, each behind a feature gate.
UPSTREAM_POD_GROUPS = tuple(
    Resource(names.UPSTREAM_SCHEDULING_GROUP, version, "podgroups", "PodGroup", namespaced=True)
    for version in ("v1beta1", "v1alpha3", "v1alpha2")
)
DATASETS = Resource(names.DATA_GROUP, names.API_VERSION, "datasets", "Dataset", namespaced=True)
DATA_LOADS = Resource(names.DATA_GROUP, names.API_VERSION, "dataloads", "DataLoad", namespaced=True)
CACHE_RUNTIMES = Resource(names.DATA_GROUP, names.API_VERSION, "cacheruntimes", "CacheRuntime", namespaced=True)
DATASET_GRANTS = Resource(names.DATA_GROUP, names.API_VERSION, "datasetgrants", "DatasetGrant", namespaced=True)
FLUID_DATASETS = Resource(names.FLUID_GROUP, "v1alpha1", "datasets", "Dataset", namespaced=True)
NODE_CACHES = Resource(names.DATA_GROUP, names.API_VERSION, "nodecaches", "NodeCache", namespaced=False)
CRON_TRAINING_JOBS = Resource(
    names.TRAINING_GROUP, names.API_VERSION, "crontrainingjobs", "CronTrainingJob", namespaced=True
)
QUEUES = Resource(names.TRAINING_GROUP, names.API_VERSION, "queues", "Queue", namespaced=False)
TRAINING_JOBS = Resource(names.TRAINING_GROUP, names.API_VERSION, "trainingjobs", "TrainingJob", namespaced=True)
