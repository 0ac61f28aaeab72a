"""One picture of the cluster for people: what lies where, what is being loaded, who runs and who waits, and why.

Owns the reading of objects as the API server shows them. Pure: objects in, plain values out; the clock is passed in.
Invariants: an object that lacks fields (an older or half-made one) is shown with what it has; what does not fit the
limits is counted, never silently left out; nothing but names, sizes, states and messages of status gets in. What any
author of a pod may write (its annotations) can spoil nothing but its own line.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Annotated, Any, Final

import msgspec

from api import names
from api.conditions import parse_timestamp

Body = Mapping[str, Any]
MEDIA: Final = ("MEM", "SSD", "HDD")
ACTIVITIES: Final = ("queued", "placing", "staging", "starting", "training", "lost")
ENDED: Final = frozenset({"Succeeded", "Failed"})
NODES_MAX: Final = 120
DATASETS_MAX: Final = 60
ROWS_MAX: Final = 200
LARGEST_A_NODE: Final = 3
"""Datasets a node is shown with that are not among the datasets shown."""
MESSAGE_CHARACTERS_MAX: Final = 1000
BYTES_MAX: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Wanted:
    """Parts of names: which nodes and datasets are looked for; "" = all."""

    nodes: str = ""
    datasets: str = ""


EVERYTHING: Final = Wanted()


class Tier(msgspec.Struct, frozen=True, rename="camel"):
    """One tier of a node's cache."""

    medium: str
    used_bytes: int
    capacity_bytes: int


class CacheNode(msgspec.Struct, frozen=True, rename="camel"):
    """A node with a cache; `resident` is bytes by dataset (`namespace/name`) and medium."""

    name: str
    is_serving: bool
    tiers: list[Tier]
    resident: dict[str, dict[str, int]]


class Totals(msgspec.Struct, frozen=True, rename="camel"):
    """Of all there is, whatever is looked for and shown. `jobs` have not ended."""

    nodes: int
    serving: int
    used_bytes: int
    capacity_bytes: int
    jobs: int
    waiting: int


class DatasetRow(msgspec.Struct, frozen=True, rename="camel"):
    """A dataset: `resident_bytes` counts copies, on `nodes` nodes."""

    key: str
    phase: str
    total_bytes: int
    files: int
    resident_bytes: int
    nodes: int


class HeldRow(msgspec.Struct, frozen=True, rename="camel"):
    """A dataset with files that only workers hold: they are not in the under store yet."""

    key: str
    files: int
    bytes: int


class LoadRow(msgspec.Struct, frozen=True, rename="camel"):
    """A load that is not complete, or was lately."""

    key: str
    dataset: str
    phase: str
    loaded_bytes: int
    total_bytes: int
    eta_seconds: float | None


class Part(msgspec.Struct, frozen=True, rename="camel"):
    """Seconds an attempt spent on one activity."""

    attempt: int
    activity: str
    seconds: float


class JobRow(msgspec.Struct, frozen=True, rename="camel"):
    """A job; `goodput` is the share of its seconds that trained and were not lost; None before any counts."""

    key: str
    framework: str
    state: str
    reason: str
    message: str
    attempt: int
    restarts: int
    resume_step: int | None
    age_seconds: float
    goodput: float | None
    parts: list[Part]


class Waiting(msgspec.Struct, frozen=True, rename="camel"):
    """A gang or a pod that waits, and why."""

    key: str
    kind: str
    since_seconds: float
    why: str


class Arrived(msgspec.Struct, frozen=True, rename="camel"):
    """Where the bytes of pods that were placed were expected to come from, by the scheduler's decisions."""

    pods: int
    local_bytes: int
    peer_bytes: int
    origin_bytes: int


_Bytes = Annotated[int, msgspec.Meta(ge=0)]


class _Sources(msgspec.Struct):
    local: dict[str, _Bytes] = {}
    peers: _Bytes = 0
    origin: _Bytes = 0


class _Decision(msgspec.Struct):
    """What is read of the scheduler's annotation."""

    sources: _Sources = msgspec.field(name="bytesBySource", default_factory=_Sources)


class Picture(msgspec.Struct, frozen=True, rename="camel"):
    """Everything shown; `more` counts what the limits left out, by list."""

    totals: Totals
    nodes: list[CacheNode]
    datasets: list[DatasetRow]
    held: list[HeldRow]
    loads: list[LoadRow]
    jobs: list[JobRow]
    waiting: list[Waiting]
    arrived: Arrived
    more: dict[str, int]


@dataclass(frozen=True, slots=True)
class Objects:
    """Plain objects of the API server, by kind."""

    node_caches: Iterable[Body] = ()
    datasets: Iterable[Body] = ()
    loads: Iterable[Body] = ()
    jobs: Iterable[Body] = ()
    pod_groups: Iterable[Body] = ()
    pods: Iterable[Body] = field(default=())


def picture(objects: Objects, now: float, wanted: Wanted = EVERYTHING) -> Picture:
    """The picture at `now` (seconds since the epoch) of the nodes and datasets that are looked for."""
    more: dict[str, int] = {}
    nodes = [_node(body) for body in objects.node_caches]
    nodes.sort(key=lambda node: node.name)
    cached: dict[str, list[int]] = {}
    for node in nodes:
        for key, media in node.resident.items():
            cached.setdefault(key, []).append(sum(media.values()))
    datasets = [_dataset(body, cached.get(_key(body), [])) for body in objects.datasets]
    datasets.sort(key=lambda row: (-row.resident_bytes, row.key))
    held = sorted(_held(objects.datasets), key=lambda row: (-row.bytes, row.key))
    loads = sorted((_load(body) for body in objects.loads), key=lambda row: (row.phase == "Complete", row.key))
    jobs = [_job(body, now) for body in objects.jobs]
    jobs.sort(key=lambda row: (row.state in ENDED, row.age_seconds, row.key))
    pods = list(objects.pods)
    waiting = [*_waiting_gangs(objects.pod_groups, now), *_waiting_pods(pods, now)]
    waiting.sort(key=lambda row: (-row.since_seconds, row.key))
    totals = Totals(
        nodes=len(nodes),
        serving=sum(node.is_serving for node in nodes),
        used_bytes=sum(tier.used_bytes for node in nodes for tier in node.tiers),
        capacity_bytes=sum(tier.capacity_bytes for node in nodes for tier in node.tiers),
        jobs=sum(job.state not in ENDED for job in jobs),
        waiting=len(waiting),
    )
    datasets = _limited([row for row in datasets if _matches(row.key, wanted.datasets)], DATASETS_MAX, "datasets", more)
    nodes = _limited([node for node in nodes if _matches(node.name, wanted.nodes)], NODES_MAX, "nodes", more)
    drawn = {row.key for row in datasets}
    return Picture(
        totals=totals,
        nodes=[msgspec.structs.replace(node, resident=_shown_of(node.resident, drawn)) for node in nodes],
        datasets=datasets,
        held=_limited(held, ROWS_MAX, "held", more),
        loads=_limited(loads, ROWS_MAX, "loads", more),
        jobs=_limited(jobs, ROWS_MAX, "jobs", more),
        waiting=_limited(waiting, ROWS_MAX, "waiting", more),
        arrived=_arrived(pods),
        more=more,
    )


def _matches(name: str, part: str) -> bool:
    return part.strip().lower() in name.lower()


def _shown_of(resident: dict[str, dict[str, int]], drawn: set[str]) -> dict[str, dict[str, int]]:
    """What is drawn of a node: it may hold a thousand datasets, of a thousand nodes that is ten megabytes."""
    largest = nlargest(LARGEST_A_NODE, resident, key=lambda key: sum(resident[key].values()))
    return {key: media for key, media in resident.items() if key in drawn or key in largest}


def _cut(message: str) -> str:
    return message if len(message) <= MESSAGE_CHARACTERS_MAX else message[:MESSAGE_CHARACTERS_MAX] + "…"


def _limited(rows: list[Any], limit: int, name: str, more: dict[str, int]) -> list[Any]:
    if len(rows) > limit:
        more[name] = len(rows) - limit
    return rows[:limit]


def _key(body: Body) -> str:
    meta = body["metadata"]
    return f"{meta.get('namespace', '')}/{meta['name']}"


def _status(body: Body) -> Body:
    found: Body = body.get("status") or {}
    return found


def _age(body: Body, now: float) -> float:
    created = body["metadata"].get("creationTimestamp")
    return max(0.0, now - parse_timestamp(created)) if created else 0.0


def _node(body: Body) -> CacheNode:
    status = _status(body)
    tiers = [Tier(tier["medium"], tier.get("used", 0), tier.get("capacity", 0)) for tier in status.get("tiers") or ()]
    resident = {
        f"{one['namespace']}/{one['name']}": {
            medium: size for medium in MEDIA if (size := (one.get("residentBytes") or {}).get(medium, 0))
        }
        for one in status.get("datasets") or ()
    }
    return CacheNode(body["metadata"]["name"], bool(status.get("worker")), tiers, resident)


def _dataset(body: Body, held: Sequence[int]) -> DatasetRow:
    status = _status(body)
    snapshot = status.get("snapshot") or {}
    return DatasetRow(
        key=_key(body),
        phase=status.get("phase", "Pending"),
        total_bytes=snapshot.get("bytes", 0),
        files=snapshot.get("files", 0),
        resident_bytes=sum(held),
        nodes=sum(size > 0 for size in held),
    )


def _held(bodies: Iterable[Body]) -> Iterable[HeldRow]:
    for body in bodies:
        state = _status(body).get("writeBack") or {}
        if state.get("files"):
            yield HeldRow(_key(body), state["files"], state.get("bytes", 0))


def _load(body: Body) -> LoadRow:
    status = _status(body)
    progress = status.get("progress") or {}
    wanted = body["spec"].get("dataset") or {}
    namespace = wanted.get("namespace") or body["metadata"].get("namespace", "")
    return LoadRow(
        key=_key(body),
        dataset=f"{namespace}/{wanted.get('name', '')}",
        phase=status.get("phase", "Pending"),
        loaded_bytes=progress.get("bytesLoaded", 0),
        total_bytes=progress.get("bytesTotal", 0),
        eta_seconds=progress.get("etaSeconds"),
    )


def _job(body: Body, now: float) -> JobRow:
    status = _status(body)
    conditions = status.get("conditions") or [{}]
    parts = [
        Part(attempt.get("attempt", 0), activity, float(attempt.get(activity, 0)))
        for attempt in status.get("goodput") or ()
        for activity in ACTIVITIES
        if attempt.get(activity, 0) > 0
    ]
    total = sum(part.seconds for part in parts)
    trained = sum(part.seconds for part in parts if part.activity == "training")
    return JobRow(
        key=_key(body),
        framework=body["spec"].get("framework", "Custom"),
        state=conditions[-1].get("type", "New"),
        reason=conditions[-1].get("reason", ""),
        message=_cut(status.get("message") or conditions[-1].get("message", "")),
        attempt=status.get("attempt", 0),
        restarts=sum((status.get("restarts") or {}).values()),
        resume_step=status.get("resumeStep"),
        age_seconds=_age(body, now),
        goodput=trained / total if total else None,
        parts=parts,
    )


def _waiting_gangs(groups: Iterable[Body], now: float) -> Iterable[Waiting]:
    for body in groups:
        status = _status(body)
        if status.get("phase") in {"Running", "Finished", "Failed", "Scheduled"}:
            continue
        conditions = status.get("conditions") or ()
        why = next((one["message"] for one in reversed(conditions) if one.get("message")), "")
        if why or status.get("phase"):
            yield Waiting(_key(body), "gang", _age(body, now), _cut(why or str(status.get("phase"))))


def _waiting_pods(pods: Iterable[Body], now: float) -> Iterable[Waiting]:
    """Pods that no gang speaks for."""
    for body in pods:
        if (body.get("spec") or {}).get("nodeName") or _status(body).get("phase") in ENDED:
            continue
        if (body["metadata"].get("labels") or {}).get(names.POD_GROUP_LABEL):
            continue
        conditions = _status(body).get("conditions") or ()
        why = next((one.get("message", "") for one in conditions if one.get("type") == "PodScheduled"), "")
        yield Waiting(_key(body), "pod", _age(body, now), _cut(why or "not looked at by a scheduler yet"))


def _arrived(pods: Iterable[Body]) -> Arrived:
    count = local = peers = origin = 0
    for body in pods:
        text = (body["metadata"].get("annotations") or {}).get(names.DECISION_ANNOTATION)
        if not text:
            continue
        try:
            source = msgspec.json.decode(text, type=_Decision).sources
        except msgspec.DecodeError:
            continue  # not written by our scheduler
        count += 1
        local += sum(source.local.values())
        peers += source.peers
        origin += source.origin
    return Arrived(count, *(min(total, BYTES_MAX) for total in (local, peers, origin)))
