"""The workers of a CacheRuntime's own nodes: their DaemonSet, made from the installed one. Pure.

An administrator gives a node to a CacheRuntime by the label `names.POOL_LABEL`; the installed DaemonSet leaves such
nodes out, and one DaemonSet for each value of the label runs there. It is a copy of the installed one (image, probes,
security, trust have one source) with the tiers, resources, tolerations and pod metadata of the CacheRuntime.
Invariants: a labelled node has exactly one worker, whatever becomes of the CacheRuntime: without one, or with one that
says nothing of workers, it runs what is installed; one that cannot be followed leaves what runs as it is. Of the pods a
CacheRuntime decides nothing else: it may be written by people who must not get more of a node.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import PurePosixPath
from typing import Any

from api import names
from api.cacheruntime_v1alpha1 import CacheRuntime, TierLevel
from api.quantities import format_bytes, to_int
from cacheruntime.core.tiers import HIGH, LOW

Body = dict[str, Any]
APP_LABEL = "app.kubernetes.io/name"
CONTAINER = "worker"
DISK, MEMORY = "disk", "memory"
"""Volumes of the installed pods that levels take the place of, or lie in."""
TIERS = "/cache/tiers"
"""Folder of a worker's container below which levels on disks are mounted; admission knows it too."""
NAME_PREFIX = "headrace-pool-"
LABEL_CHARACTERS = 63
RESERVED = re.compile(r"^(?:[^/]*\.)?(?:kubernetes\.io|k8s\.io|headrace\.dev)/")
"""Labels and annotations that mean something to Kubernetes or to us."""
READERS_SHARE = 10
"""One part in so many of a quota, on top of it, is for readers that find the cache full (worker/settings.py)."""


class PoolProblem(ValueError):
    """Why a CacheRuntime's workers cannot be as it says: one sentence with field, value and what would be right."""


def label_of(runtime: CacheRuntime) -> str:
    """Return the value of the label by which a node is this CacheRuntime's."""
    return f"{runtime.metadata.namespace}.{runtime.metadata.name}"


def asks_for_workers(runtime: CacheRuntime) -> bool:
    """Whether it says anything of its workers."""
    worker = runtime.spec.worker
    return bool(
        runtime.spec.tieredstore.levels
        or worker.resources
        or worker.tolerations
        or worker.pod_metadata.labels
        or worker.pod_metadata.annotations
    )


def own_nodes(runtime: CacheRuntime, nodes: Mapping[str, Mapping[str, str]]) -> frozenset[str]:
    """Return the nodes that are this CacheRuntime's; `nodes` maps node name to labels."""
    label = label_of(runtime)
    return frozenset(name for name, labels in nodes.items() if labels.get(names.POOL_LABEL) == label)


def name_of(label: str) -> str:
    """Return the DaemonSet's name for any value the label can have; two values never share one."""
    digest = hashlib.blake2b(label.encode(), digest_size=4).hexdigest()
    return f"{NAME_PREFIX}{re.sub(r'[^a-z0-9]+', '-', label.lower()).strip('-')[:180]}-{digest}"


def daemon_set(label: str, installed: Body, runtime: CacheRuntime | None) -> Body:
    """Return the DaemonSet for the nodes with this value of the label, to be applied; PoolProblem.

    `installed` is the DaemonSet as it is stored; without `runtime` the nodes run what is installed.
    """
    template = deepcopy(installed["spec"]["template"])
    selector = {**installed["spec"]["selector"]["matchLabels"], names.POOL_LABEL: label}
    meta = template.setdefault("metadata", {})
    meta.pop("creationTimestamp", None)
    if runtime is not None:
        _add_metadata(meta, runtime)
        _follow(template["spec"], runtime, _folders(installed))
    meta["labels"] = {**meta.get("labels", {}), **selector}
    _place(template["spec"], label, installed["spec"]["selector"])
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {
            "name": name_of(label),
            "namespace": installed["metadata"]["namespace"],
            "labels": {**installed["metadata"].get("labels", {}), names.POOL_LABEL: label},
        },
        "spec": {
            "selector": {"matchLabels": selector},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
            "template": template,
        },
    }


def check_label(runtime: CacheRuntime) -> None:
    """Raise PoolProblem when no node can have its label."""
    label = label_of(runtime)
    if len(label) > LABEL_CHARACTERS:
        raise PoolProblem(
            f"{label!r} is no value of the label {names.POOL_LABEL}: it has {len(label)} characters and may have "
            f"{LABEL_CHARACTERS}; give the CacheRuntime a shorter name"
        )


def check_installed(installed: Body) -> None:
    """Raise PoolProblem when the installed workers are not of a release that shares nodes with pools."""
    where = f"DaemonSet {installed['metadata']['namespace']}/{installed['metadata']['name']}"
    spec = installed["spec"]["template"]["spec"]
    terms = _node_terms(spec)
    if not terms or not all(_leaves_pools_out(term) for term in terms):
        raise PoolProblem(
            f"{where} also runs on nodes with the label {names.POOL_LABEL}: apply the manifests of this release"
        )
    worker: Body = next((one for one in spec["containers"] if one["name"] == CONTAINER), {})
    if not {DISK, MEMORY} <= {one["name"] for one in worker.get("volumeMounts", ())}:
        raise PoolProblem(
            f"{where} has no container {CONTAINER!r} with volumes {DISK!r} and {MEMORY!r}, which levels take the place "
            "of: apply the manifests of this release"
        )


# Where its pods run


def _node_terms(spec: Body) -> list[Body]:
    node = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = node.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    return list(required.get("nodeSelectorTerms") or ())


def _leaves_pools_out(term: Body) -> bool:
    return any(_is_of_pools(one) and one.get("operator") == "DoesNotExist" for one in term.get("matchExpressions", ()))


def _is_of_pools(expression: Body) -> bool:
    return bool(expression.get("key") == names.POOL_LABEL)


def _place(spec: Body, label: str, selector: Body) -> None:
    """On the label's nodes instead of all others, and only once whichever worker was there before has gone."""
    spec["nodeSelector"] = {**(spec.get("nodeSelector") or {}), names.POOL_LABEL: label}
    affinity = spec.setdefault("affinity", {})
    terms = _node_terms(spec)
    for term in terms:
        term["matchExpressions"] = [one for one in term.get("matchExpressions", ()) if not _is_of_pools(one)]
    kept = [{key: value for key, value in term.items() if value} for term in terms]
    if all(kept) and kept:
        affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"] = kept
    else:  # terms are ORed, and one of them allows every other node
        (affinity.get("nodeAffinity") or {}).pop("requiredDuringSchedulingIgnoredDuringExecution", None)
        if not affinity.get("nodeAffinity"):
            affinity.pop("nodeAffinity", None)
    apart = affinity.setdefault("podAntiAffinity", {}).setdefault("requiredDuringSchedulingIgnoredDuringExecution", [])
    apart.append({"topologyKey": "kubernetes.io/hostname", "labelSelector": deepcopy(selector)})


# What it says of them


def _add_metadata(meta: Body, runtime: CacheRuntime) -> None:
    given = runtime.spec.worker.pod_metadata
    for field, added in (("labels", given.labels), ("annotations", given.annotations)):
        for key in added:
            if RESERVED.match(key) or key in meta.get(field, {}):
                raise PoolProblem(
                    f"worker.podMetadata.{field}: {key!r} is not a CacheRuntime's to set; use a name of your own domain"
                )
        if added:
            meta[field] = {**meta.get(field, {}), **added}


def _follow(spec: Body, runtime: CacheRuntime, folders: Sequence[str]) -> None:
    worker = next(one for one in spec["containers"] if one["name"] == CONTAINER)
    levels = runtime.spec.tieredstore.levels
    quotas = _checked(levels, folders)
    if runtime.spec.worker.resources:
        worker["resources"] = _resources(worker.get("resources") or {}, runtime.spec.worker.resources)
    if runtime.spec.worker.tolerations:
        spec["tolerations"] = [*(spec.get("tolerations") or ()), *runtime.spec.worker.tolerations]
    if levels:
        _check_memory(levels, quotas, worker.get("resources") or {})
        _mount_levels(spec, worker, levels, quotas)


def _mount_levels(spec: Body, worker: Body, levels: Sequence[TierLevel], quotas: Sequence[int]) -> None:
    memory = next(one["mountPath"] for one in worker["volumeMounts"] if one["name"] == MEMORY)
    mounts: list[Body] = []
    args: list[str] = []
    for number, (level, quota) in enumerate(zip(levels, quotas, strict=True)):
        if level.mediumtype == "MEM":
            folder = f"{memory}/tier-{number}"
        else:
            mounts.append({"name": f"tier-{number}", "mountPath": f"{TIERS}/{number}"})
            folder = f"{TIERS}/{number}/tier"  # of the same name as the installed one's: it finds what that one left
            source = {"path": level.path, "type": "DirectoryOrCreate"}
            spec["volumes"].append({"name": f"tier-{number}", "hostPath": source})
        high, low = _watermarks(number, level)
        args.append(f"--tier={level.mediumtype}:{folder}:{quota},high={high},low={low}")
    worker["args"] = [word for word in worker.get("args", ()) if not word.startswith("--tier=")] + args
    spec["volumes"] = [one for one in spec["volumes"] if one["name"] != DISK]
    for container in (*spec["containers"], *(spec.get("initContainers") or ())):
        _replace_disk(container, mounts)


def _replace_disk(container: Body, mounts: Sequence[Body]) -> None:
    """Give a container that has the installed disk those of the levels, by its words too (who owns the folders)."""
    before = container.get("volumeMounts") or []
    disk = next((one["mountPath"] for one in before if one["name"] == DISK), None)
    if disk is None:
        return
    container["volumeMounts"] = [*(one for one in before if one["name"] != DISK), *(dict(one) for one in mounts)]
    paths = [one["mountPath"] for one in mounts]
    if "command" in container:
        container["command"] = [
            word for given in container["command"] for word in (paths if given == disk else [given])
        ]


def _folders(installed: Body) -> list[str]:
    text = (installed["metadata"].get("annotations") or {}).get(names.POOL_FOLDERS_ANNOTATION, "")
    return [folder for folder in (part.strip() for part in text.split(",")) if folder]


def _checked(levels: Sequence[TierLevel], folders: Sequence[str]) -> list[int]:
    """Return each level's quota in bytes; PoolProblem."""
    quotas, seen = [], dict[str, int]()
    for number, level in enumerate(levels):
        field = f"tieredstore.levels[{number}]"
        path, is_folder = PurePosixPath(level.path), level.mediumtype != "MEM"
        if is_folder and (not path.is_absolute() or str(path) != level.path or ".." in path.parts):
            raise PoolProblem(
                f"{field}.path is {level.path!r}; it must be an absolute path like /var/lib/headrace/cache"
            )
        if level.path in seen:
            raise PoolProblem(
                f"{field}.path is {level.path!r}, as levels[{seen[level.path]}].path is; each needs its own folder"
            )
        seen[level.path] = number
        if is_folder and level.path not in folders:
            allowed = ", ".join(folders) or "no folder"
            raise PoolProblem(
                f"{field}.path is {level.path!r}; this installation allows {allowed} (annotation "
                f"{names.POOL_FOLDERS_ANNOTATION} of the workers' DaemonSet)"
            )
        quotas.append(_quota_bytes(field, level))
        _watermarks(number, level)
    return quotas


def _quota_bytes(field: str, level: TierLevel) -> int:
    try:
        found = to_int(level.quota)
    except ValueError as error:
        raise PoolProblem(f"{field}.quota: {error}") from error
    if found <= 0:
        raise PoolProblem(f"{field}.quota is {level.quota!r}; it must be above 0")
    return found


def _watermarks(number: int, level: TierLevel) -> tuple[float, float]:
    """Return high and low; what is not given fits the other one."""
    field = f"tieredstore.levels[{number}]"
    parts: dict[str, float] = {}
    for name, text in (("high", level.high), ("low", level.low)):
        if text is None:
            continue
        # Not by float() alone: that takes "nan", "inf" and "1_0" too.
        if re.fullmatch(r"0?\.[0-9]{1,6}|[01](\.0{0,6})?", text, re.ASCII) is None:
            raise PoolProblem(f"{field}.{name} is {text!r}; it must be a part of the quota like 0.95")
        parts[name] = float(text)
    high = parts.get("high", HIGH if parts.get("low", LOW) < HIGH else 1.0)
    low = parts.get("low", LOW if high > LOW else high * LOW)
    if not 0 < low < high <= 1:
        raise PoolProblem(f"{field} has low {low:g} and high {high:g}; they must be 0 < low < high <= 1")
    return high, low


def _resources(installed: Body, given: Mapping[str, Any]) -> Body:
    result = deepcopy(installed)
    for kind, amounts in given.items():
        if kind not in ("requests", "limits") or not isinstance(amounts, Mapping):
            raise PoolProblem(
                f"worker.resources.{kind} is {amounts!r}; give requests and limits, each name to quantity"
            )
        for name, amount in amounts.items():
            try:
                to_int(str(amount))
            except ValueError as error:
                raise PoolProblem(f"worker.resources.{kind}.{name}: {error}") from error
        result[kind] = {**result.get(kind, {}), **amounts}
    return result


def _check_memory(levels: Sequence[TierLevel], quotas: Sequence[int], resources: Body) -> None:
    """Levels in memory count as memory of the pod: one that outgrows its limit is killed, and never says why."""
    wanted = sum(
        quota + quota // READERS_SHARE for level, quota in zip(levels, quotas, strict=True) if level.mediumtype == "MEM"
    )
    limit = (resources.get("limits") or {}).get("memory")
    if limit is not None and wanted >= to_int(limit):
        raise PoolProblem(
            f"worker.resources.limits.memory is {limit!r}; levels of MEM take {format_bytes(wanted)} of it, a tenth "
            "for readers included: it must be above that, by what the worker itself needs"
        )
