"""What the controller has seen of pods, PodGroups, Services, Datasets and nodes, kept by watches.

Owns the copies and the index by job. Decides nothing; tells which job is touched by a change. Invariants: only
objects labelled as a TrainingJob's are kept, and of nodes whether one is to go and how fast it reads; own creations
and deletions show at once (as "overlay"), so a decision taken before the watch reports them does not repeat them; an
overlay ends with the watch's word or after 30 s, so that it cannot outlive the truth."""

from __future__ import annotations

import asyncio
import statistics
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import msgspec

from api import names
from api.conditions import parse_timestamp
from jobcontroller.core import notices
from jobcontroller.core.observed import DatasetView, PodView
from jobcontroller.shell.pod_view import owner_uid, view_of
from kube.client import KubeClient
from kube.objects import Dataset, NodeCache, Object, ObjectMeta, Pod, Taint
from kube.resources import DATASETS, NODE_CACHES, NODES, POD_GROUPS, PODS, SERVICES, Resource
from kube.store import Store
from kube.watch import Change, ChangeKind, list_watch

Key = tuple[str, str]
OVERLAY_SECONDS = 30.0
WATCHED = (PODS, POD_GROUPS, SERVICES, DATASETS, NODES, NODE_CACHES)
#: jobs whose deleted pods are remembered; only those whose pods are just being created need it
MAX_GONE_JOBS = 4096


class _TaintedSpec(Object, frozen=True):
    taints: tuple[Taint, ...] = ()


class TaintedNode(Object, frozen=True):
    """As little of a Node as shows that it will be taken away."""

    metadata: ObjectMeta = ObjectMeta()
    spec: _TaintedSpec = _TaintedSpec()


class Owned(Object, frozen=True):
    """An object of which only the metadata matters."""

    metadata: ObjectMeta = ObjectMeta()


@dataclass(slots=True)
class _OfJob:
    """What one job (by uid) owns, by name."""

    pods: dict[str, PodView] = field(default_factory=dict)
    groups: set[str] = field(default_factory=set)
    services: set[str] = field(default_factory=set)
    key: Key | None = None

    @property
    def is_empty(self) -> bool:
        return not (self.pods or self.groups or self.services)


class Caches:
    """Fed by `run`; read by the observer. One event loop.

    `touched` is called with the key of every job a change may matter to."""

    def __init__(
        self,
        client: KubeClient,
        touched: Callable[[Key], None],
        clock: Callable[[], float],
        jitter: Random,
        notice_taints: Collection[str] = notices.TAINTS,
    ) -> None:
        self._client = client
        self._touched = touched
        self._clock = clock
        self._jitter = jitter
        self._jobs: defaultdict[str, _OfJob] = defaultdict(_OfJob)
        self._datasets: Store[Dataset] = Store()
        self._readers: defaultdict[Key, set[Key]] = defaultdict(set)  # Dataset -> jobs that name it
        #: job uid -> pod uid -> (until, view)
        self._created: defaultdict[str, dict[str, tuple[float, PodView]]] = defaultdict(dict)
        self._deleted: dict[str, tuple[float, float]] = {}  # pod uid -> (until, deletion_at)
        self._gone: OrderedDict[str, set[str]] = OrderedDict()  # job uid -> names of pods seen deleted
        #: job uid -> pod uid -> its last view, of pods that went away while they ran; None = it was fenced
        self._lost: OrderedDict[str, dict[str, PodView | None]] = OrderedDict()
        #: taint by node, of nodes that will be taken away
        self.notices: dict[str, str] = {}
        self._notice_taints = frozenset(notice_taints)
        self._rates: dict[str, int] = {}  # node -> bytes a second from the under store, where measured
        self._synced = {one.plural: asyncio.Event() for one in WATCHED}

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(PODS, Pod, Store(), self._pod_changed, names.JOB_UID_LABEL))
            tasks.create_task(self._follow(POD_GROUPS, Owned, Store(), self._group_changed, names.JOB_UID_LABEL))
            tasks.create_task(self._follow(SERVICES, Owned, Store(), self._service_changed, names.JOB_UID_LABEL))
            tasks.create_task(self._follow(DATASETS, Dataset, self._datasets, self._dataset_changed, None))
            tasks.create_task(self._follow(NODES, TaintedNode, Store(), self._node_changed, None))
            tasks.create_task(self._follow(NODE_CACHES, NodeCache, Store(), self._cache_changed, None))

    async def wait_synced(self) -> None:
        """Return when every kind was listed once."""
        for synced in self._synced.values():
            await synced.wait()

    # ---- reading -----------------------------------------------------------------------------

    def pods_of(self, job_uid: str) -> dict[str, PodView]:
        """The job's pods by name, own creations and deletions included."""
        now = self._clock()
        found = dict(self._jobs[job_uid].pods) if job_uid in self._jobs else {}
        for uid, (until, view) in list(self._created.get(job_uid, {}).items()):
            if now >= until:
                self._forget_created(job_uid, uid)
            else:
                found.setdefault(view.name, view)
        for name, view in found.items():
            until, deletion_at = self._deleted.get(view.uid, (0.0, 0.0))
            if now >= until:
                self._deleted.pop(view.uid, None)
            elif view.deletion_at is None:
                found[name] = replace(view, deletion_at=deletion_at)
        return found

    def gone_pods_of(self, job_uid: str) -> frozenset[str]:
        """Names of the job's pods that were seen and then deleted, as far as this process remembers."""
        return frozenset(self._gone.get(job_uid, ()))

    def lost_pods_of(self, job_uid: str) -> tuple[PodView, ...]:
        """The job's pods that went away while their node said they ran, and are not fenced, as far as this process
        remembers."""
        return tuple(view for view in self._lost.get(job_uid, {}).values() if view is not None)

    def groups_of(self, job_uid: str) -> frozenset[str]:
        """Names of the job's PodGroups."""
        return frozenset(self._jobs[job_uid].groups) if job_uid in self._jobs else frozenset()

    def has_service(self, job_uid: str) -> bool:
        """Whether the job's Service exists."""
        return job_uid in self._jobs and bool(self._jobs[job_uid].services)

    def dataset(self, namespace: str, name: str, reader: Key) -> DatasetView | None:
        """One Dataset; `reader` is touched when it changes."""
        self._readers[namespace, name].add(reader)
        found = self._datasets.get(namespace, name)
        return dataset_view(found) if found is not None else None

    def bytes_per_second(self) -> float | None:
        """What a node moves from the under store: the median of those measured; None = none is."""
        return statistics.median(self._rates.values()) if self._rates else None

    # ---- own actions ---------------------------------------------------------------------------

    def created_pod(self, job_uid: str, body: dict[str, Any]) -> None:
        """Show a pod the API server just accepted."""
        pod = msgspec.convert(body, Pod)
        view = view_of(pod)
        if view is not None and owner_uid(pod) == job_uid:
            self._created[job_uid][view.uid] = (self._clock() + OVERLAY_SECONDS, view)

    def deleted_pod(self, uid: str, deletion_at: float) -> None:
        """Show that a pod's deletion was accepted; its grace is over at `deletion_at` (seconds since 1970)."""
        now = self._clock()
        self._deleted[uid] = (now + OVERLAY_SECONDS, deletion_at)
        # Of a pod that was gone already no watch tells; the oldest are first.
        while (first := next(iter(self._deleted))) != uid and self._deleted[first][0] <= now:
            del self._deleted[first]

    def fenced_pods(self, job_uid: str, uids: Iterable[str]) -> None:
        """Show that fences are up around these pods."""
        self._lost.setdefault(job_uid, {}).update(dict.fromkeys(uids))
        self._forget_oldest(self._lost)

    def created_group(self, job_uid: str, name: str) -> None:
        """Show a PodGroup that exists."""
        self._jobs[job_uid].groups.add(name)

    def created_service(self, job_uid: str, name: str) -> None:
        """Show a Service that exists."""
        self._jobs[job_uid].services.add(name)

    def deleted_group(self, job_uid: str, name: str) -> None:
        """Show that a PodGroup is gone."""
        self._jobs[job_uid].groups.discard(name)
        self._forget_empty(job_uid)

    # ---- watches -------------------------------------------------------------------------------

    async def _follow(
        self,
        resource: Resource,
        decode: type[Any],
        store: Store[Any],
        changed: Callable[[Change[Any]], None],
        label: str | None,
    ) -> None:
        async for batch in list_watch(self._client, resource, decode, label_selector=label, jitter=self._jitter):
            for change in store.apply(batch):
                changed(change)
            self._synced[resource.plural].set()

    def _pod_changed(self, change: Change[Pod]) -> None:
        pod = change.object
        job_uid = pod.metadata.labels.get(names.JOB_UID_LABEL, "")
        view = view_of(pod)
        if view is None or owner_uid(pod) != job_uid:
            return
        shown = self._forget_created(job_uid, view.uid) or self._jobs[job_uid].pods.get(view.name)
        if change.kind is ChangeKind.DELETED:
            self._deleted.pop(view.uid, None)
            held = self._jobs[job_uid].pods.get(view.name)
            if held is not None and held.uid == view.uid:
                del self._jobs[job_uid].pods[view.name]
            self._remember_gone(job_uid, view)
            self._forget_empty(job_uid)
        else:
            self._jobs[job_uid].pods[view.name] = view
            self._jobs[job_uid].key = _key_of(pod.metadata)
            if shown == view:
                # The echo of our own creation, or of a change nobody here decides by.
                return
        self._touch(pod.metadata)

    def _group_changed(self, change: Change[Owned]) -> None:
        self._owned_changed(change, lambda of_job: of_job.groups)

    def _service_changed(self, change: Change[Owned]) -> None:
        self._owned_changed(change, lambda of_job: of_job.services)

    def _owned_changed(self, change: Change[Owned], names_in: Callable[[_OfJob], set[str]]) -> None:
        metadata = change.object.metadata
        job_uid = metadata.labels.get(names.JOB_UID_LABEL, "")
        if all(owner.uid != job_uid for owner in metadata.owner_references):
            return
        if change.kind is ChangeKind.DELETED:
            names_in(self._jobs[job_uid]).discard(metadata.name)
            self._forget_empty(job_uid)
            self._touch(metadata)
        elif metadata.name not in names_in(self._jobs[job_uid]):
            names_in(self._jobs[job_uid]).add(metadata.name)
            self._touch(metadata)

    def _dataset_changed(self, change: Change[Dataset]) -> None:
        metadata = change.object.metadata
        for reader in self._readers.pop((metadata.namespace, metadata.name), ()):
            self._touched(reader)

    def _node_changed(self, change: Change[TaintedNode]) -> None:
        node = change.object
        taints = [(one.key, one.effect) for one in node.spec.taints]
        is_gone = change.kind is ChangeKind.DELETED
        found = None if is_gone else notices.taint_of(taints, self._notice_taints)
        if found == self.notices.get(node.metadata.name):
            return
        if found is None:
            del self.notices[node.metadata.name]
            return
        self.notices[node.metadata.name] = found
        for of_job in self._jobs.values():
            if of_job.key is not None and any(pod.node == node.metadata.name for pod in of_job.pods.values()):
                self._touched(of_job.key)

    def _cache_changed(self, change: Change[NodeCache]) -> None:
        name, rate = change.object.metadata.name, change.object.status.origin.read_bytes_per_second
        if change.kind is ChangeKind.DELETED or rate <= 0:
            self._rates.pop(name, None)
        else:
            self._rates[name] = rate

    def _touch(self, metadata: ObjectMeta) -> None:
        self._touched(_key_of(metadata))

    def _forget_created(self, job_uid: str, pod_uid: str) -> PodView | None:
        of_job = self._created.get(job_uid, {})
        _, view = of_job.pop(pod_uid, (0.0, None))
        if not of_job:
            self._created.pop(job_uid, None)
        return view

    def _remember_gone(self, job_uid: str, view: PodView) -> None:
        self._gone.setdefault(job_uid, set()).add(view.name)
        self._gone.move_to_end(job_uid)
        self._forget_oldest(self._gone)
        if view.may_run:
            self._lost.setdefault(job_uid, {}).setdefault(view.uid, view)
            self._lost.move_to_end(job_uid)
            self._forget_oldest(self._lost)

    @staticmethod
    def _forget_oldest(by_job: OrderedDict[str, Any]) -> None:
        if len(by_job) > MAX_GONE_JOBS:
            by_job.popitem(last=False)

    def _forget_empty(self, job_uid: str) -> None:
        if job_uid in self._jobs and self._jobs[job_uid].is_empty:
            del self._jobs[job_uid]


def _key_of(metadata: ObjectMeta) -> Key:
    return metadata.namespace, metadata.labels.get(names.JOB_NAME_LABEL, "")


def dataset_view(dataset: Dataset) -> DatasetView:
    """Return what a job needs to know of a Dataset."""
    states = dataset.status.cache_states
    ready = next((one for one in dataset.status.conditions if one.type == "Ready"), None)
    return DatasetView(
        name=dataset.metadata.name,
        phase=dataset.status.phase,
        cached_percent=_percent(states.get("cachedPercentage")),
        message=ready.message if ready is not None else "",
        lists_on_start=_field(dataset.spec.get("metadataSync"), "policy") == "OnJobStart",
        listed_at=_time(_field(dataset.status.metadata_sync, "listedAt")),
        listing_asked_at=_time(dataset.metadata.annotations.get(names.DATASET_SYNC_ANNOTATION)),
    )


def _field(of: object, name: str) -> object:
    return of.get(name) if isinstance(of, dict) else None


def _time(text: object) -> float:
    try:
        return parse_timestamp(text) if isinstance(text, str) else 0.0
    except ValueError:
        return 0.0


def _percent(text: object) -> float:
    try:
        return float(str(text).rstrip("% "))
    except ValueError:
        return 0.0
