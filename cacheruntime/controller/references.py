"""Who uses which Dataset: pods and TrainingJobs, by all the ways a pod names its data.

Owns the index and what counts as use. Does no I/O: `users.py` feeds it. A pod uses a Dataset from its creation until
it has ended, by a claim whose PersistentVolume is of our driver, by an inline volume, or by the annotation. A
TrainingJob uses the Datasets it names until it has ended, also suspended or between two attempts; its pods are told
of by it. Invariant: every change of the index returns the Datasets whose users may have changed.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from api import names
from api.data_v1alpha1 import REFERENCES_MAX, Reference
from api.training_v1alpha1 import FAILED, SUCCEEDED
from cacheruntime.controller.volume_names import volume_name
from kube.identity import Condition, Object, ObjectMeta
from kube.objects import Volume
from kube.storage_objects import PersistentVolume

Key = tuple[str, str]
ENDED_PHASES = ("Succeeded", "Failed")
SHOWN_USERS = 10
"""In a condition's message; `status.references` has more."""
_NAMED_HANDLE = re.compile(r"([^/]+)/([^/]+)(?:/[^/]+)?")
"""NAMESPACE/DATASET or NAMESPACE/DATASET/CLAIM: fuse/csi/core/volumes.py has the grammar."""


class PodSpec(Object, frozen=True):
    """Of a pod's spec what names data."""

    volumes: list[Volume] = []  # noqa: RUF012 - msgspec copies an empty default for each struct


class PodStatus(Object, frozen=True):
    """Whether a pod has ended."""

    phase: str = ""


class Pod(Object, frozen=True):
    """A pod, as far as it may use a Dataset."""

    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: PodStatus = msgspec.field(default_factory=PodStatus)


class NamedDataset(Object, frozen=True):
    """One of a TrainingJob's spec.datasets."""

    name: str = ""


class JobSpec(Object, frozen=True):
    """Of a TrainingJob's spec what names data."""

    datasets: list[NamedDataset] = []  # noqa: RUF012 - as above


class JobStatus(Object, frozen=True):
    """Whether a TrainingJob has ended."""

    conditions: list[Condition] = []  # noqa: RUF012 - as above


class Job(Object, frozen=True):
    """A TrainingJob, as far as it may use a Dataset."""

    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: JobSpec = msgspec.field(default_factory=JobSpec)
    status: JobStatus = msgspec.field(default_factory=JobStatus)


Item = Pod | Job | PersistentVolume


@dataclass(frozen=True, slots=True)
class PodUse:
    """What one pod uses: claims of its namespace, Datasets it names itself, and the TrainingJob it belongs to."""

    claims: frozenset[Key]
    datasets: frozenset[Key]
    job: Key | None


def use_of(pod: Pod) -> PodUse | None:
    """Return what a pod uses; None when it has ended or has neither claims nor Datasets."""
    if pod.status.phase in ENDED_PHASES:
        return None
    namespace, name = pod.metadata.namespace, pod.metadata.name
    claims, datasets = set(), _annotated(pod)
    for volume in pod.spec.volumes:
        if volume.persistent_volume_claim is not None:
            claims.add((namespace, volume.persistent_volume_claim.claim_name))
        elif volume.ephemeral is not None:
            claims.add((namespace, f"{name}-{volume.name}"))
        elif volume.csi is not None and volume.csi.driver == names.CSI_DRIVER:
            given = volume.csi.volume_attributes
            # Another namespace's is refused when it is mounted, so it is no use of it either.
            if given.get(names.CSI_ATTRIBUTE_NAMESPACE, "") in ("", namespace):
                datasets.add((namespace, given.get(names.CSI_ATTRIBUTE_DATASET, "")))
    if not claims and not datasets:
        return None
    owners = (one.name for one in pod.metadata.owner_references if one.controller and one.kind == "TrainingJob")
    job = next(owners, None)
    return PodUse(frozenset(claims), frozenset(datasets), None if job is None else (namespace, job))


def _annotated(pod: Pod) -> set[Key]:
    """What the annotation names of the pod's own namespace: whoever may make pods must not keep others' Datasets from
    being deleted. One that cannot be read names nothing, which the scheduler tells its owner."""
    try:
        items: Any = json.loads(pod.metadata.annotations.get(names.DATASETS_ANNOTATION, "[]"))
    except (ValueError, RecursionError):
        return set()
    found = set()
    for item in items if isinstance(items, list) else ():
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            continue
        if item.get("namespace") in (None, "", pod.metadata.namespace):
            found.add((pod.metadata.namespace, item["name"]))
    return found


def datasets_of(job: Job) -> frozenset[Key]:
    """Return the Datasets a TrainingJob uses; none when it has ended."""
    if any(one.type in (SUCCEEDED, FAILED) and one.status == "True" for one in job.status.conditions):
        return frozenset()
    return frozenset((job.metadata.namespace, one.name) for one in job.spec.datasets)


def dataset_of(volume: PersistentVolume) -> Key | None:
    """Return the Dataset a PersistentVolume shows; None for other drivers' volumes."""
    csi = volume.spec.csi
    if csi is None or csi.driver != names.CSI_DRIVER:
        return None
    name = csi.volume_attributes.get(names.CSI_ATTRIBUTE_DATASET)
    if name:
        return (csi.volume_attributes.get(names.CSI_ATTRIBUTE_NAMESPACE, ""), name)
    handle = _NAMED_HANDLE.fullmatch(csi.volume_handle)
    return None if handle is None else (handle[1], handle[2])


def datasets_shown(volume: PersistentVolume) -> frozenset[Key]:
    """Return the Datasets a PersistentVolume shows: its own, and the one that was made to show that, whose claim bears
    its name (sharing.py)."""
    dataset, claim = dataset_of(volume), volume.spec.claim_ref
    if dataset is None:
        return frozenset()
    if claim is None or volume.metadata.name != volume_name(claim.namespace, claim.name):
        return frozenset((dataset,))  # made by hand or for a claim of a StorageClass
    return frozenset((dataset, (claim.namespace, claim.name)))


class _ByItem:
    """Sets of keys by item, and back: who names what."""

    def __init__(self) -> None:
        self._of: dict[Key, frozenset[Key]] = {}
        self._by: dict[Key, set[Key]] = defaultdict(set)

    def put(self, key: Key, items: frozenset[Key]) -> frozenset[Key]:
        """Say what `key` names now; return what it began or ceased to name."""
        before = self._of.pop(key, frozenset())
        if items:
            self._of[key] = items
        for gone in before - items:
            self._by[gone].discard(key)
            if not self._by[gone]:
                del self._by[gone]
        for new in items - before:
            self._by[new].add(key)
        return before ^ items

    def of(self, key: Key) -> frozenset[Key]:
        """What `key` names."""
        return self._of.get(key, frozenset())

    def by(self, item: Key) -> Iterable[Key]:
        """Who names `item`."""
        return self._by.get(item, ())

    def keys(self) -> list[Key]:
        """Who names anything."""
        return list(self._of)


class References:
    """Who uses what, of all that was seen. Single writer; not thread-safe."""

    def __init__(self) -> None:
        self._claims = _ByItem()  # pod -> claims
        self._named = _ByItem()  # pod -> Datasets
        self._jobs = _ByItem()  # TrainingJob -> Datasets
        self._claim_of: dict[Key, Key] = {}  # PersistentVolume -> its claim
        self._volumes_of: dict[Key, dict[Key, frozenset[Key]]] = defaultdict(dict)  # claim -> volume -> Datasets
        self._shown = _ByItem()  # claim -> Datasets
        self._job_of: dict[Key, Key] = {}  # pod -> TrainingJob

    def see(self, item: Item) -> set[Key]:
        """Take in what an object says now; return the Datasets whose users may have changed."""
        key = (item.metadata.namespace, item.metadata.name)
        match item:
            case Pod():
                return self._put_pod(key, use_of(item))
            case Job():
                return set(self._jobs.put(key, datasets_of(item)))
            case PersistentVolume():
                claim = item.spec.claim_ref
                claimed = None if claim is None else (claim.namespace, claim.name)
                return self._put_volume(key, claimed, datasets_shown(item))

    def forget(self, kind: type[Item], key: Key) -> set[Key]:
        """Take in that an object is gone; as `see`."""
        if kind is Pod:
            return self._put_pod(key, None)
        if kind is Job:
            return set(self._jobs.put(key, frozenset()))
        return self._put_volume(key, None, frozenset())

    def keys(self, kind: type[Item]) -> list[Key]:
        """Return every object of a kind that says anything of use."""
        if kind is Pod:
            return list({*self._claims.keys(), *self._named.keys()})
        return self._jobs.keys() if kind is Job else list(self._claim_of)

    def _put_pod(self, pod: Key, use: PodUse | None) -> set[Key]:
        use = use or PodUse(frozenset(), frozenset(), None)
        claims = self._claims.put(pod, use.claims)
        datasets = self._named.put(pod, use.datasets)
        if use.job != self._job_of.pop(pod, None):  # another pod of the name: who is told of changes, not what it uses
            claims, datasets = claims | use.claims, datasets | use.datasets
        if use.job is not None:
            self._job_of[pod] = use.job
        return set(datasets).union(*(self._shown.of(claim) for claim in claims))

    def _put_volume(self, volume: Key, claim: Key | None, datasets: frozenset[Key]) -> set[Key]:
        before = self._claim_of.pop(volume, None)
        if before is not None:
            del self._volumes_of[before][volume]
        if claim is not None and datasets:
            self._claim_of[volume] = claim
            self._volumes_of[claim][volume] = datasets
        changed: set[Key] = set()
        for touched in {one for one in (before, claim) if one in self._volumes_of}:
            other = self._shown.put(touched, frozenset().union(*self._volumes_of[touched].values()))
            if self._claims.by(touched):  # each Dataset gets a volume, most of them before they are used
                changed |= other
            if not self._volumes_of[touched]:
                del self._volumes_of[touched]
        return changed

    def claims_of(self, dataset: Key) -> set[Key]:
        """Return the claims through which a Dataset is mounted."""
        return set(self._shown.by(dataset))

    def take_claims(self, dataset: Key, claims: Iterable[Key]) -> None:
        """Take over the claims of a Dataset from another index."""
        for claim in claims:
            self._shown.put(claim, frozenset((dataset,)))

    def users(self, dataset: Key) -> list[Reference]:
        """Return who uses a Dataset, in order; pods of a TrainingJob that is told of are left out."""
        jobs = set(self._jobs.by(dataset))
        pods = set(self._named.by(dataset)).union(*(self._claims.by(claim) for claim in self.claims_of(dataset)))
        others = [pod for pod in pods if self._job_of.get(pod) not in jobs]
        told = [("TrainingJob", *job) for job in sorted(jobs)] + [("Pod", *pod) for pod in sorted(others)]
        return [Reference(kind=kind, namespace=namespace, name=name) for kind, namespace, name in told]


def shown(users: Sequence[Reference]) -> str:
    """Return users as a condition's message names them: the first few, and how many more there are."""
    named = ", ".join(f"{one.kind} {one.namespace}/{one.name}" for one in users[:SHOWN_USERS])
    more = len(users) - SHOWN_USERS
    return f"{named} and {more} more" if more > 0 else named


def kept(users: Sequence[Reference]) -> list[Reference]:
    """Return as many users as a status holds."""
    return list(users[:REFERENCES_MAX])
