"""Which filters and scores there are, in order: name → factory.

Owns the list. A new plugin is one file beside this one and one line here (README.md). Filters run in
kube-scheduler's order, because the first that refuses a node is the one the user reads; ours come last."""

from collections.abc import Callable

from scheduler.core.placement import Plugins, Scoring, WeightedRelative
from scheduler.core.plugin import RelativeScorePlugin
from scheduler.core.usage_costs import Weighted
from scheduler.plugins.avoided_nodes import AvoidedNodes
from scheduler.plugins.balance import Balance
from scheduler.plugins.base import FilterPlugin, ScorePlugin
from scheduler.plugins.cache_room import CacheRoom
from scheduler.plugins.gpu_fit import GpuFit
from scheduler.plugins.node_affinity import NodeAffinity
from scheduler.plugins.node_features import DeclaredFeatures
from scheduler.plugins.pod_affinity import InterPodAffinity, PodAffinityScore
from scheduler.plugins.ports import HostPorts
from scheduler.plugins.preferences import Preferences
from scheduler.plugins.required_data import RequiredData
from scheduler.plugins.resource_fit import ResourceFit
from scheduler.plugins.stage_in import StageIn
from scheduler.plugins.taints import Taints, Unschedulable
from scheduler.plugins.topology_spread import PodTopologySpread, SpreadScore
from scheduler.plugins.volume_binding import BoundVolumes, UnboundClaims
from scheduler.plugins.volume_limits import NodeVolumeLimits
from scheduler.plugins.volume_restrictions import VolumeRestrictions
from scheduler.plugins.volume_zone import VolumeZone
from scheduler.settings import Settings, Weights

FILTERS: tuple[Callable[[], FilterPlugin], ...] = (
    Unschedulable,
    Taints,
    NodeAffinity,
    HostPorts,
    ResourceFit,
    VolumeRestrictions,
    NodeVolumeLimits,
    BoundVolumes,
    UnboundClaims,
    VolumeZone,
    PodTopologySpread,
    InterPodAffinity,
    DeclaredFeatures,
    RequiredData,
)
SCORES: dict[str, Callable[[Settings, Weights], ScorePlugin]] = {
    "stage_in": lambda settings, weights: StageIn(settings.stage_in_floor_seconds),
    "cache_room": lambda settings, weights: CacheRoom(settings.stage_in_floor_seconds),
    "gpu_fit": lambda settings, weights: GpuFit(),
    "preferences": lambda settings, weights: Preferences(),
    "avoided_nodes": lambda settings, weights: AvoidedNodes(),
    "balance": lambda settings, weights: Balance(yields_to_gpu_fit=bool(weights.gpu_fit)),
}
# Scores that only compare the nodes left with each other, from what other pods are where.
RELATIVE: dict[str, Callable[[], RelativeScorePlugin]] = {
    "pod_affinity": PodAffinityScore,
    "spread": SpreadScore,
}


def build(settings: Settings) -> Plugins:
    """The plugins, with the weights of each profile."""
    profiles = {profile.scheduler_name: _scoring(settings, profile.weights) for profile in settings.profiles}
    return Plugins(tuple(factory() for factory in FILTERS), _scoring(settings, settings.weights), profiles)


def _scoring(settings: Settings, weights: Weights) -> Scoring:
    """Scores with their weights; one with weight 0 is left out."""
    by_name = weights.model_dump()
    scores = tuple(
        Weighted(factory(settings, weights), by_name[name]) for name, factory in SCORES.items() if by_name[name]
    )
    relative = tuple(WeightedRelative(factory(), by_name[name]) for name, factory in RELATIVE.items() if by_name[name])
    return Scoring(scores, relative)
