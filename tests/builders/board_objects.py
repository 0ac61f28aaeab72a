"""Objects as an API server shows them, enough of them to fill a dashboard."""

import json
from random import Random
from typing import Any

from api import names
from headrace.board.picture import Objects

GIB = 1 << 30
CREATED = "2023-11-14T22:13:20Z"
Body = dict[str, Any]


def meta(name: str, **more: Any) -> Body:
    return {"name": name, "namespace": "ml", "creationTimestamp": CREATED, **more}


def a_node_cache(name: str, resident: dict[str, dict[str, int]], *, serving: bool = True) -> Body:
    used = {medium: sum(media.get(medium, 0) for media in resident.values()) for medium in ("MEM", "SSD")}
    return {
        "metadata": {"name": name, "creationTimestamp": CREATED},
        "status": {
            "worker": {"endpoint": f"{name}:1", "epoch": 1} if serving else None,
            "tiers": [
                {"medium": "MEM", "used": used["MEM"], "capacity": 64 * GIB},
                {"medium": "SSD", "used": used["SSD"], "capacity": 2048 * GIB},
            ],
            "datasets": [
                {"namespace": "ml", "name": dataset, "uid": dataset, "snapshot": 1, "residentBytes": media}
                for dataset, media in resident.items()
            ],
        },
    }


def a_dataset(name: str, size: int, phase: str = "Bound") -> Body:
    return {"metadata": meta(name), "status": {"phase": phase, "snapshot": {"version": 1, "files": 7, "bytes": size}}}


def a_load(name: str, dataset: str, loaded: int, total: int, phase: str = "Executing") -> Body:
    progress = {"bytesLoaded": loaded, "bytesTotal": total, "etaSeconds": 95}
    return {
        "metadata": meta(name),
        "spec": {"dataset": {"name": dataset}},
        "status": {"phase": phase, "progress": progress},
    }


def a_job(name: str, state: str, message: str, goodput: list[Body]) -> Body:
    return {
        "metadata": meta(name),
        "spec": {"framework": "PyTorch"},
        "status": {
            "conditions": [{"type": "Created"}, {"type": state, "reason": "Because"}],
            "message": message,
            "attempt": max(1, len(goodput)),
            "restarts": {"infrastructure": max(0, len(goodput) - 1)},
            "resumeStep": 1200 if len(goodput) > 1 else None,
            "goodput": goodput,
        },
    }


def a_gang(name: str, phase: str, message: str) -> Body:
    return {"metadata": meta(name), "status": {"phase": phase, "conditions": [{"message": message}]}}


def a_pod(name: str, *, node: str = "", sources: Body | None = None, message: str = "") -> Body:
    annotations = {names.DECISION_ANNOTATION: json.dumps({"node": node, "bytesBySource": sources})} if sources else {}
    conditions = [{"type": "PodScheduled", "status": "False", "message": message}] if message else []
    return {
        "metadata": meta(name, annotations=annotations),
        "spec": {"nodeName": node},
        "status": {"conditions": conditions},
    }


def a_cluster(nodes: int = 40, datasets: int = 14) -> Objects:
    """A cluster somebody would look at: data here and there, a load under way, jobs, a gang that waits."""
    random = Random(1)
    sizes = {f"images-{index:02}": (index + 1) * 20 * GIB for index in range(datasets)}
    caches = []
    for index in range(nodes):
        resident = {}
        for name, size in sizes.items():
            if random.random() < 0.3:
                medium = random.choice(("MEM", "SSD", "SSD"))
                resident[name] = {medium: round(size * random.random() * (0.1 if medium == "MEM" else 1))}
        caches.append(a_node_cache(f"gpu-{index:03}", resident, serving=index != 7))
    first = {"attempt": 1, "queued": 60, "placing": 20, "staging": 90, "starting": 30, "training": 4000, "lost": 300}
    second = {"attempt": 2, "placing": 4, "staging": 6, "starting": 30, "training": 9000}
    jobs = [
        a_job("llama-sft", "Running", "8 of 8 pods run", [first, second]),
        a_job("resnet", "Queued", "queue vision: 16 GPUs wanted, 8 of 32 are free", [{"attempt": 1, "queued": 700}]),
        a_job("bert", "Failed", "the container of pod bert-worker-3 ended with exit code 1 (user error)", [first]),
    ]
    groups = [a_gang("resnet-big", "Pending", "0/40 nodes are available: 40 Insufficient nvidia.com/gpu.")]
    placed = {"local": {"SSD": 700 * GIB}, "peers": 120 * GIB, "origin": 15 * GIB}
    pods = [a_pod("p0", node="gpu-001", sources=placed), a_pod("p1", message="0/40 nodes are available: 40 too small.")]
    loads = [a_load("warm-images", "images-03", 52 * GIB, 80 * GIB)]
    shown = [a_dataset(name, size) for name, size in sizes.items()]
    shown[0]["status"]["writeBack"] = {"files": 12, "bytes": 90 * GIB}
    return Objects(caches, shown, loads, jobs, groups, pods)
