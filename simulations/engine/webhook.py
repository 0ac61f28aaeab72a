"""The node affinity Fluid's webhook injects into a pod when it is created, and never again.

Owns its rule, as its source has it: 100 for the label of each dataset's workers, 50 for their zones and 20 for their
region, the same whatever is cached there; a dataset the pod requires (`fluid.io/dataset.NAME.sched: required`) is a
node selector term of its own, and terms are ORed, so that of two required datasets one is enough. Pure.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from kube.identity import JsonObject

LABEL_WEIGHT, ZONE_WEIGHT, REGION_WEIGHT = 100, 50, 20
ZONE, REGION = "topology.kubernetes.io/zone", "topology.kubernetes.io/region"


@dataclass(frozen=True, slots=True)
class Placed:
    """A dataset the pod reads: the label its workers' nodes carry, and where they are now."""

    label: str
    zones: Collection[str] = ()
    regions: Collection[str] = ()
    is_required: bool = False


def injected(datasets: Sequence[Placed]) -> JsonObject | None:
    """The affinity; None without datasets."""
    required = [_expressions(at.label, ["true"]) for at in datasets if at.is_required]
    preferred: list[JsonObject] = []
    for at in datasets:
        if at.is_required:
            continue
        places = (
            (LABEL_WEIGHT, at.label, ["true"]),
            (ZONE_WEIGHT, ZONE, at.zones),
            (REGION_WEIGHT, REGION, at.regions),
        )
        preferred += [
            {"weight": weight, "preference": _expressions(key, values)} for weight, key, values in places if values
        ]
    found: JsonObject = {}
    if required:
        found["requiredDuringSchedulingIgnoredDuringExecution"] = {"nodeSelectorTerms": required}
    if preferred:
        found["preferredDuringSchedulingIgnoredDuringExecution"] = preferred
    return {"nodeAffinity": found} if found else None


def _expressions(key: str, values: Collection[str]) -> JsonObject:
    return {"matchExpressions": [{"key": key, "operator": "In", "values": sorted(values)}]}
