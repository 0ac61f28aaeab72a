"""The policies by name: one line each."""

from typing import Final

from scheduler.core.placement import Plugins, Scoring
from scheduler.plugins.registry import build
from scheduler.settings import Settings
from simulations.engine.policy import Gangs, Policy
from simulations.policies.kube import RandomPlacer, SamplingPlacer, default_plugins, with_placer

EVERYWHERE: Final = 1 << 30


def _gpu_only(settings: Settings) -> Plugins:
    """Headrace's plugins with gpu_fit alone."""
    plugins = build(settings)
    kept = tuple(item for item in plugins.scoring.scores if item.plugin.name == "gpu_fit")
    return Plugins(plugins.filters, Scoring(kept))


POLICIES: Final[dict[str, Policy]] = {
    policy.name: policy
    for policy in (
        Policy("headrace", "the scheduler as shipped: gangs whole, seconds of stage-in first", build, names_data=True),
        Policy(
            "fluid",
            "Fluid as deployed: a dataset on 3 workers (more if it takes more), readers keep nothing; node affinity to "
            "those nodes, kube-scheduler's scoring, coscheduling",
            default_plugins,
            Gangs.PERMIT,
            labels_data=True,
            workers=3,
            prepare=with_placer(SamplingPlacer),
        ),
        Policy(
            "fluid-wide",
            "the same with a worker of every dataset on every node: all nodes have the label",
            default_plugins,
            Gangs.PERMIT,
            labels_data=True,
            workers=EVERYWHERE,
            prepare=with_placer(SamplingPlacer),
        ),
        Policy(
            "fluid-labels",
            "Fluid's rule over Headrace's cache: readers' nodes keep what they read, any copy gives the label",
            default_plugins,
            Gangs.PERMIT,
            labels_data=True,
            prepare=with_placer(SamplingPlacer),
        ),
        Policy(
            "coscheduling",
            "kube-scheduler's scoring, gangs by Permit (60 s)",
            default_plugins,
            Gangs.PERMIT,
            prepare=with_placer(SamplingPlacer),
        ),
        Policy(
            "kube-scheduler",
            "kube-scheduler's scoring, no gangs: pods hold their room until the others come",
            default_plugins,
            Gangs.NONE,
            prepare=with_placer(SamplingPlacer),
        ),
        Policy(
            "random",
            "any node that fits, gangs by Permit",
            default_plugins,
            Gangs.PERMIT,
            prepare=with_placer(RandomPlacer),
        ),
        Policy("gpu-best-fit", "gangs whole, fewest GPUs left over, blind to data", _gpu_only),
    )
}


def policy(name: str) -> Policy:
    """A policy by name. Raises KeyError with one sentence."""
    if name not in POLICIES:
        raise KeyError(f"policy {name!r} is not known; choose {', '.join(POLICIES)}")
    return POLICIES[name]
