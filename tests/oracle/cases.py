"""Generated clusters, kube-scheduler's verdicts on them, ours, and where they differ.

Owns the comparison. Invariant: case N of a seed is the same cluster on every machine.
"""

import json
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from scheduler.shell.verdict_lines import answers
from tests.oracle.draft import Body, a_draft
from tests.oracle.topics import TOPICS

PODS_A_CLUSTER = 40
ORACLE_SECONDS = 600
#: kube-scheduler's informers look every 100 ms whether they are told of a cluster: most of the time is that waiting.
ORACLES = 8
CLUSTERS_AN_ORACLE = 10


@dataclass(frozen=True)
class Difference:
    """One pod of one cluster on which the two disagree. `cluster` is the line that shows it."""

    seed: int
    number: int
    topics: tuple[str, ...]
    pod: Body
    cluster: Body
    theirs: Body
    ours: Body

    def __str__(self) -> str:
        lines = [f"seed {self.seed}, cluster {self.number}, topics {', '.join(self.topics)}", json.dumps(self.pod)]
        for key in ("feasible", "nodes", "unresolvable", "message"):
            if self.theirs[key] != self.ours[key]:
                lines += [
                    f"  {key}: kube-scheduler {json.dumps(self.theirs[key])}",
                    f"  {key}: ours {json.dumps(self.ours[key])}",
                ]
        return "\n".join(lines)


def a_cluster(seed: int, number: int, topics: Sequence[str] = tuple(TOPICS)) -> tuple[Body, tuple[str, ...]]:
    """Cluster `number` of a seed, and the topics it is about: one to four of those given."""
    rng = Random(f"{seed}/{number}")
    chosen = tuple(topic for topic in TOPICS if topic in rng.sample(list(topics), min(len(topics), rng.randint(1, 4))))
    draft = a_draft(rng, rng.randint(1, 12), rng.randint(0, 20), PODS_A_CLUSTER)
    for topic in chosen:
        TOPICS[topic](draft)
    return draft.as_line(), chosen


@dataclass(frozen=True)
class Judged:
    """A generated cluster and kube-scheduler's verdicts on its pods."""

    seed: int
    number: int
    topics: tuple[str, ...]
    cluster: Body
    verdicts: list[Body]


def judged(oracle: Path, seed: int, numbers: Sequence[int], topics: Sequence[str] = tuple(TOPICS)) -> Iterator[Judged]:
    """Make clusters and let kube-scheduler's plugins judge them; in the order of the numbers."""
    clusters = [a_cluster(seed, number, topics) for number in numbers]
    answers_to_each = verdicts(oracle, [cluster for cluster, _ in clusters])
    for number, (cluster, chosen), found in zip(numbers, clusters, answers_to_each, strict=True):
        yield Judged(seed, number, chosen, cluster, found)


def verdicts(oracle: Path, clusters: Sequence[Body]) -> Iterator[list[Body]]:
    """What kube-scheduler's plugins say of the pods of each cluster, in the order of the clusters."""
    starts = range(0, len(clusters), CLUSTERS_AN_ORACLE)
    with ThreadPoolExecutor(ORACLES) as pool:
        shares = [clusters[start : start + CLUSTERS_AN_ORACLE] for start in starts]
        for found in pool.map(partial(_asked, oracle), shares):
            yield from found


def _asked(oracle: Path, clusters: Sequence[Body]) -> list[list[Body]]:
    lines = b"\n".join(json.dumps(cluster).encode() for cluster in clusters)
    done = subprocess.run([str(oracle)], input=lines, stdout=subprocess.PIPE, check=True, timeout=ORACLE_SECONDS)
    found = [json.loads(line)["results"] for line in done.stdout.splitlines()]
    assert len(found) == len(clusters)
    return found


def differences(theirs: Judged) -> list[Difference]:
    """Where our verdicts on a cluster differ."""
    (answer,) = answers([json.dumps(theirs.cluster).encode()])
    pairs = zip(theirs.cluster["pods"], theirs.verdicts, json.loads(answer)["results"], strict=True)
    return [
        Difference(theirs.seed, theirs.number, theirs.topics, pod, {**theirs.cluster, "pods": [pod]}, one, other)
        for pod, one, other in pairs
        if not same(one, other)
    ]


def same(theirs: dict[str, Any], ours: dict[str, Any]) -> bool:
    """Whether two verdicts agree: feasible nodes, where preemption could help, and the message."""
    return all(theirs[key] == ours[key] for key in ("pod", "feasible", "unresolvable", "message"))
