"""A scenario of another size, so that it fits the machine or fills it: as many jobs a node, as much origin a job.

Owns what is scaled and how it is said. Pure.
"""

from simulations.errors import ScenarioError
from simulations.scenarios.schema import Scenario


def scaled(
    scenario: Scenario, *, nodes: int | None = None, jobs: int | None = None
) -> tuple[Scenario, tuple[str, ...]]:
    """The scenario with `nodes` nodes and `jobs` jobs (None: as many more or fewer as nodes), and what was changed.

    Arrivals, and the origin's bandwidth, follow the nodes; racks, datasets and each job stay as they are."""
    cluster, work = scenario.cluster, scenario.workload
    before = cluster.openb_nodes + sum(pool.count for pool in cluster.pools)
    after = nodes or before
    share = after / before
    kinds = len(cluster.pools) + (cluster.openb_nodes > 0)
    if after < kinds:
        raise ScenarioError(
            f"--nodes {after} is too few: scenario {scenario.name} has {kinds} kinds of nodes, one each"
        )
    counts = _shares([*(pool.count for pool in cluster.pools), cluster.openb_nodes], after)
    openb = counts.pop()
    pools = tuple(pool.model_copy(update={"count": count}) for pool, count in zip(cluster.pools, counts, strict=True))
    wanted = jobs or max(1, round(work.jobs * share))
    said = []
    if after != before:
        said.append(f"nodes {before} → {after}, origin bandwidth and arrivals × {share:.3g}")
    if wanted != work.jobs:
        said.append(f"jobs {work.jobs} → {wanted}")
    return (
        scenario.model_copy(
            update={
                "cluster": cluster.model_copy(
                    update={"pools": pools, "openb_nodes": openb, "origin": cluster.origin * share}
                ),
                "workload": work.model_copy(update={"jobs": wanted, "arrival_seconds": work.arrival_seconds / share}),
            }
        ),
        tuple(f"Scaled: {text}." for text in said),
    )


def _shares(counts: list[int], total: int) -> list[int]:
    """Numbers in the proportion of `counts` that add up to `total`; what is some stays at least 1."""
    whole = sum(counts)
    found = [max(1, round(count * total / whole)) if count else 0 for count in counts]
    largest = max(range(len(found)), key=lambda index: found[index])
    found[largest] += total - sum(found)
    return found
