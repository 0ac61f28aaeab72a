"""Jobs and nodes drawn with the published marginals of the traces, for who has no trace at hand.

Owns the marginals: counts by GPUs, quantiles of run times, teams' shares. What is correlated in a trace is drawn
independently here.
"""

from bisect import bisect_left
from random import Random

from simulations.traces.readers import TraceJob, TraceNode

GIB = 1 << 30
# GPUs → jobs of the 82,248; the 289 of 12 to 128 GPUs as multiples of 8.
PHILLY_GPUS = {1: 76_627, 2: 1_818, 4: 1_870, 8: 1_643, 16: 180, 32: 80, 64: 24, 128: 5}
PHILLY_SECONDS = (
    (0.0, 1.0),
    (0.01, 17.0),
    (0.1, 61.0),
    (0.25, 115.0),
    (0.5, 1144.0),
    (0.75, 2932.0),
    (0.9, 11266.0),
    (0.95, 43648.0),
    (0.99, 254884.0),
    (1.0, 2_000_000.0),
)
PHILLY_TEAMS = (41_226, 16_091, 9_953, 7_423, 1_934, 1_511, 1_435, 1_137, 723, 422, 374)
# GPUs a node → nodes of the 1,213 with GPUs; cores a node go with them.
OPENB_NODES = {8: 549, 2: 450, 4: 150, 1: 64}
OPENB_GPUS = {0: 1_088, 1: 6_989, 2: 16, 4: 15, 8: 44}


def philly_job(random: Random) -> TraceJob:
    """One job; its run time by interpolation between quantiles on a logarithmic scale."""
    gpus = random.choices(list(PHILLY_GPUS), list(PHILLY_GPUS.values()))[0]
    team = random.choices(range(len(PHILLY_TEAMS)), PHILLY_TEAMS)[0]
    return TraceJob(None, _quantile(random.random()), gpus, f"team{team}")


def openb_node(random: Random) -> TraceNode:
    """One GPU node."""
    gpus = random.choices(list(OPENB_NODES), list(OPENB_NODES.values()))[0]
    return TraceNode(gpus, 96_000 if gpus >= 4 else 64_000, (768 if gpus >= 4 else 256) * GIB)


def openb_pod(random: Random) -> TraceJob:
    """One pod."""
    gpus = random.choices(list(OPENB_GPUS), list(OPENB_GPUS.values()))[0]
    cpu = random.choice((4_000, 6_000, 8_000, 12_000)) * max(1, gpus)
    return TraceJob(None, None, gpus, "", min(cpu, 64_000), min(cpu * 2, 128_000) // 1000 * GIB)


def _quantile(share: float) -> float:
    index = min(len(PHILLY_SECONDS) - 1, max(1, bisect_left(PHILLY_SECONDS, (share, 0.0))))
    (low, small), (high, large) = PHILLY_SECONDS[index - 1], PHILLY_SECONDS[index]
    part = (share - low) / (high - low)
    return float(small * (large / small) ** part)
